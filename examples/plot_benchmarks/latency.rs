//! What a writer sees around a snapshot: one panel for each side, fork last.

use std::collections::BTreeMap;
use std::error::Error;

use plotters::prelude::*;

use crate::rows::{Moment, Rows, Side, lacking};
use crate::style::{
    Area, FAINT, GRID, HEADER, INK, LABEL, SMALL, decades, header, picture, size, text, time,
};

const WIDTH: u32 = 960;
/// Less than with a legend, which this plot does not have.
const TOP: u32 = HEADER - 36;
const PANEL: u32 = 210;
/// Where the plot begins, before the call.
const FROM_MS: f64 = -200.0;
/// Less than any measured store takes.
const FLOOR_US: f64 = 0.01;

/// The buckets of a side in order.
type Line = Vec<Moment>;

pub fn draw(rows: &Rows) -> Result<String, Box<dyn Error>> {
    let most = rows.timeline.iter().map(|row| row.size_mib).max();
    let mib = most.ok_or_else(|| lacking("timeline"))?;
    // Times are whole microseconds.
    let mut lines: BTreeMap<Side, BTreeMap<i64, Moment>> = BTreeMap::new();
    for row in rows.timeline.iter().filter(|row| row.size_mib == mib) {
        let line = lines.entry(row.side).or_default();
        line.insert((row.at_ms * 1e3) as i64, row.clone());
    }
    let lines: Vec<(Side, Line)> = lines
        .into_iter()
        .map(|(side, line)| (side, line.into_values().collect()))
        .collect();
    let all = lines.iter().flat_map(|(_, line)| line);
    let ticks = decades(all.clone().map(|row| row.worst_us.max(FLOOR_US)));
    let to_ms = all.map(|row| row.at_ms).fold(0.0, f64::max);

    picture((WIDTH, TOP + PANEL * lines.len() as u32), |area| {
        let (top, panels) = area.split_vertically(TOP);
        let size = size(mib as f64);
        let title = format!("A writer at full speed while its {size} are frozen");
        let what =
            "longest time from one store to the next, in each 2 ms; the snapshot is taken at 0";
        header(&top, &title, what, &[])?;
        let count = lines.len();
        for (index, (panel, (side, line))) in panels
            .split_evenly((count, 1))
            .iter()
            .zip(&lines)
            .enumerate()
        {
            draw_panel(panel, *side, line, &ticks, to_ms, index + 1 == count)?;
        }
        Ok(())
    })
}

fn draw_panel(
    panel: &Area,
    side: Side,
    line: &[Moment],
    ticks: &[f64],
    to_ms: f64,
    last: bool,
) -> Result<(), Box<dyn Error>> {
    let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
    let y = (low..high).log_scale().with_key_points(ticks.to_vec());
    let mut chart = ChartBuilder::on(panel)
        .margin_left(14)
        .margin_right(28)
        .margin_top(24)
        .margin_bottom(8)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(FROM_MS..to_ms, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_desc(if last { "ms" } else { "" })
        .x_labels(11)
        .x_label_formatter(&|ms| format!("{ms:.0}"))
        .y_label_formatter(&|us| time(*us))
        .label_style(text(SMALL, &INK))
        .draw()?;

    // A step for each bucket, filled down to the axis.
    let shown: Vec<&Moment> = line.iter().filter(|row| row.at_ms >= FROM_MS).collect();
    let mut steps = Vec::with_capacity(2 * shown.len() + 2);
    for (index, row) in shown.iter().enumerate() {
        let end = shown.get(index + 1).map_or(to_ms, |next| next.at_ms);
        let worst = row.worst_us.max(low);
        steps.extend([(row.at_ms, worst), (end.min(to_ms), worst)]);
    }
    let mut filled = steps.clone();
    filled.extend([(to_ms, low), (FROM_MS, low)]);
    chart.draw_series([Polygon::new(filled, side.color().mix(0.35))])?;
    chart.draw_series(LineSeries::new(steps, side.color().stroke_width(1)))?;
    chart.draw_series(DashedLineSeries::new(
        [(0.0, low), (0.0, high)],
        4,
        4,
        FAINT.stroke_width(1),
    ))?;

    let after = line.iter().filter(|row| row.at_ms >= 0.0);
    let worst = after.map(|row| row.worst_us).fold(0.0, f64::max);
    let name = format!("{}: worst stall {}", side.name(), time(worst));
    panel.draw_text(&name, &text(LABEL, &INK), (84, 2))?;
    Ok(())
}
