//! What the first write to a page costs, by case: bars for fork and for each engine.

use std::collections::BTreeMap;
use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::rows::{FirstWrite, Rows, Side, lacking};
use crate::style::{GRID, HEADER, INK, SMALL, header, picture, size, text};

const SIZE: (u32, u32) = (960, 480);
/// The share of a case's room that its bars take.
const BARS: f64 = 0.8;

/// From left to right.
const ORDER: [Side; 3] = [Side::Fork, Side::Mprotect, Side::Userfaultfd];

pub fn draw(rows: &Rows) -> Result<String, Box<dyn Error>> {
    let adaptive = rows
        .first_write
        .iter()
        .filter(|row| row.window == "adaptive");
    let most = adaptive.clone().map(|row| row.size_mib).max();
    let mib = most.ok_or_else(|| lacking("first_write"))?;
    let shown: Vec<&FirstWrite> = adaptive.filter(|row| row.size_mib == mib).collect();
    let mut cases: Vec<&str> = Vec::new();
    let mut bars: BTreeMap<Side, BTreeMap<usize, f64>> = BTreeMap::new();
    for row in shown {
        let known = cases.iter().position(|case| *case == row.case);
        let case = known.unwrap_or_else(|| {
            cases.push(&row.case);
            cases.len() - 1
        });
        for (side, ns) in [
            (row.engine, row.ns_per_page),
            (Side::Fork, row.fork_ns_per_page),
        ] {
            bars.entry(side).or_default().insert(case, ns / 1e3);
        }
    }
    let highest = bars
        .values()
        .flat_map(BTreeMap::values)
        .fold(0.0, |a: f64, b| a.max(*b));
    let sides: Vec<Side> = ORDER
        .into_iter()
        .filter(|side| bars.contains_key(side))
        .collect();
    let width = BARS / sides.len() as f64;
    let x = 0.0..cases.len() as f64;

    picture(SIZE, |area| {
        let (top, body) = area.split_vertically(HEADER);
        let title = "What the first write to a page costs";
        let size = size(mib as f64);
        let what = format!("\u{b5}s per page written, {size}, default window; median");
        let legend: Vec<_> = sides.iter().map(|side| side.legend()).collect();
        header(&top, title, &what, &legend)?;
        let mut chart = ChartBuilder::on(&body)
            .margin_left(14)
            .margin_right(20)
            .margin_bottom(14)
            .x_label_area_size(36)
            .y_label_area_size(50)
            // Room for the figures above the bars.
            .build_cartesian_2d(x, 0.0..highest * 1.1)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .y_labels(8)
            .x_labels(0)
            .y_label_formatter(&|us| format!("{us:.0}"))
            .label_style(text(SMALL, &INK))
            .draw()?;
        let below = text(SMALL, &INK).pos(Pos::new(HPos::Center, VPos::Top));
        for (index, case) in cases.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(index as f64 + 0.5, 0.0));
            area.draw_text(case, &below, (x, y + 10))?;
        }
        let above = text(SMALL, &INK).pos(Pos::new(HPos::Center, VPos::Bottom));
        for (index, side) in sides.iter().enumerate() {
            let left = |case: usize| case as f64 + (1.0 - BARS) / 2.0 + index as f64 * width;
            let style = side.color().filled();
            let bars = &bars[side];
            chart.draw_series(bars.iter().map(|(case, us)| {
                let from = left(*case);
                Rectangle::new([(from, 0.0), (from + width * 0.92, *us)], style)
            }))?;
            chart.draw_series(bars.iter().map(|(case, us)| {
                let at = (left(*case) + width * 0.46, *us);
                Text::new(format!("{us:.1}"), at, above.clone())
            }))?;
        }
        Ok(())
    })
}
