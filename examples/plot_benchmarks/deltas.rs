//! How many bytes deltas take where full images would be saved.

use std::collections::BTreeMap;
use std::error::Error;

use plotters::prelude::*;

use crate::rows::{Deltas, Rows, Side, lacking};
use crate::style::{GRID, HEADER, INK, SMALL, header, picture, size, text};

const SIZE: (u32, u32) = (760, 480);
const GIB: f64 = (1u64 << 30) as f64;

pub fn draw(rows: &Rows) -> Result<String, Box<dyn Error>> {
    let Some(some) = rows.deltas.last() else {
        return Err(lacking("deltas").into());
    };
    // All engines write the same bytes, but for pages that a window saved ahead.
    let shown = |row: &&Deltas| row.engine == some.engine && row.size_mib == some.size_mib;
    let mut lines: BTreeMap<&str, BTreeMap<u64, f64>> = BTreeMap::new();
    for row in rows.deltas.iter().filter(shown) {
        let deltas = match &*row.case {
            "skewed" => "deltas, skewed stores",
            _ => "deltas, uniform stores",
        };
        for (line, bytes) in [(deltas, row.delta_bytes), ("full images", row.full_bytes)] {
            let line = lines.entry(line).or_default();
            line.insert(row.save, bytes as f64 / GIB);
        }
    }
    let saves = lines.values().flat_map(BTreeMap::keys).max().copied();
    let most = { lines.values() }
        .flat_map(BTreeMap::values)
        .fold(0.0, |a: f64, b| a.max(*b));
    let colors = [Side::Userfaultfd, Side::Mprotect, Side::Fork].map(Side::color);
    let legend: Vec<_> = lines.keys().copied().zip(colors).collect();

    picture(SIZE, |area| {
        let (top, body) = area.split_vertically(HEADER);
        let title = "How many bytes are written by saving again and again";
        let what = format!(
            "GiB up to each save of {}; in between stores to 8 bytes, as many as 5% of the pages",
            size(some.size_mib as f64)
        );
        header(&top, title, &what, &legend)?;
        let mut chart = ChartBuilder::on(&body)
            .margin_left(14)
            .margin_right(28)
            .margin_bottom(14)
            .x_label_area_size(36)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..saves.unwrap_or(1) as f64, 0.0..most * 1.05)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .x_label_formatter(&|save| format!("{save}"))
            .y_label_formatter(&|gib| format!("{gib:.1} GiB"))
            .label_style(text(SMALL, &INK))
            .draw()?;
        for (line, (_, color)) in lines.values().zip(&legend) {
            let points = line.iter().map(|(save, gib)| (*save as f64, *gib));
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        }
        Ok(())
    })
}
