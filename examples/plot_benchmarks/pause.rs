//! For how long busy writers are stopped, by size.

use std::collections::BTreeMap;
use std::error::Error;

use plotters::prelude::*;

use crate::rows::{Pause, Rows, Side, lacking};
use crate::style::{GRID, HEADER, INK, SMALL, decades, header, picture, size, text, time};

const SIZE: (u32, u32) = (760, 480);

pub fn draw(rows: &Rows) -> Result<String, Box<dyn Error>> {
    let mut lines: BTreeMap<Side, BTreeMap<u64, f64>> = BTreeMap::new();
    let shown = |row: &&Pause| row.writer == "busy" && !row.huge && !row.stand_ready;
    for row in rows.pause.iter().filter(shown) {
        for (side, us) in [(row.engine, row.commit_us), (Side::Fork, row.fork_us)] {
            lines.entry(side).or_default().insert(row.size_mib, us);
        }
    }
    let points = lines.values().flatten();
    let mut sizes: Vec<f64> = points.clone().map(|(mib, _)| *mib as f64).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else {
        return Err(lacking("pause").into());
    };
    // Some room beside the first and the last.
    let x = (first / 1.3..last * 1.3)
        .log_scale()
        .with_key_points(sizes.clone());
    let ticks = decades(points.map(|(_, us)| *us));
    let y = (ticks[0]..ticks[ticks.len() - 1])
        .log_scale()
        .with_key_points(ticks.clone());

    picture(SIZE, |area| {
        let (top, body) = area.split_vertically(HEADER);
        let title = "For how long a busy writer is stopped";
        let what =
            "commit of a snapshot, and fork(), by resident memory; median; both axes logarithmic";
        let sides: Vec<_> = lines.keys().map(|side| side.legend()).collect();
        header(&top, title, what, &sides)?;
        let mut chart = ChartBuilder::on(&body)
            .margin_left(14)
            .margin_right(28)
            .margin_bottom(14)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .x_label_formatter(&|mib| size(*mib))
            .y_label_formatter(&|us| time(*us))
            .label_style(text(SMALL, &INK))
            .draw()?;
        for (side, line) in &lines {
            let style = side.color().stroke_width(2);
            let points: Vec<(f64, f64)> = line.iter().map(|(mib, us)| (*mib as f64, *us)).collect();
            let dots: Vec<_> = points
                .iter()
                .map(|at| Circle::new(*at, 4, side.color().filled()))
                .collect();
            chart.draw_series(dots)?;
            chart.draw_series(LineSeries::new(points, style))?;
        }
        Ok(())
    })
}
