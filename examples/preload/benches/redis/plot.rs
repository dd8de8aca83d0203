//! Latency over time around a BGSAVE, plain above preloaded: on the left the fork, on the right the
//! end of the child and what comes then.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::Save;
use crate::row::micros;
use crate::server::Mode;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 960;
const TOP: u32 = 70;
const PANEL: u32 = 210;
const LEFT: i32 = 20;
/// What is shown of the time before and after each instant.
const FROM_MS: i64 = -200;
const TO_MS: i64 = 800;

const PAPER: RGBColor = RGBColor(251, 250, 247);
const GRID: RGBColor = RGBColor(229, 226, 219);
const INK: RGBColor = RGBColor(70, 68, 64);
const FAINT: RGBColor = RGBColor(140, 136, 128);

/// The longest latency in microseconds of the requests that were due in each millisecond.
type Line = BTreeMap<i64, f64>;

/// What is shown of a server: the save with the median worst request at the fork.
pub struct Panels {
    mode: Mode,
    about: String,
    at_fork: Line,
    at_end: Line,
    /// Milliseconds from the child's end until all was merged.
    merged_ms: Option<f64>,
}

impl Panels {
    /// Of at least one save.
    pub fn of(mode: Mode, saves: &[Save]) -> Self {
        let mut order: Vec<&Save> = saves.iter().collect();
        let worst = |save: &Save| save.row.worst_at_fork_us.unwrap_or(0.0);
        order.sort_by(|one, other| worst(one).total_cmp(&worst(other)));
        let save = order[order.len() / 2];
        let row = &save.row;
        let merged = save.merging.to - save.merging.from;
        Self {
            mode,
            about: format!(
                "{}, {} MiB, {:.0} requests/s ({})",
                row.server,
                row.data_mib,
                row.ops_per_s_rest,
                row.load.name()
            ),
            at_fork: line(save, save.saving.from),
            at_end: line(save, save.saving.to),
            merged_ms: (mode == Mode::Preloaded).then_some(merged.as_secs_f64() * 1e3),
        }
    }

    fn name(&self) -> &'static str {
        match self.mode {
            Mode::Plain => "plain",
            Mode::Preloaded => "preloaded",
        }
    }

    fn color(&self) -> RGBColor {
        match self.mode {
            Mode::Plain => RGBColor(178, 150, 122),
            Mode::Preloaded => RGBColor(146, 106, 164),
        }
    }
}

fn line(save: &Save, zero: Instant) -> Line {
    let mut line = Line::new();
    for sample in &save.samples {
        let after = sample.at.saturating_duration_since(zero).as_secs_f64();
        let before = zero.saturating_duration_since(sample.at).as_secs_f64();
        let ms = ((after - before) * 1e3).floor() as i64;
        if (FROM_MS..TO_MS).contains(&ms) {
            let worst = line.entry(ms).or_insert(0.0);
            *worst = micros(sample.took).max(*worst);
        }
    }
    line
}

pub fn draw(servers: &[Panels]) -> Result<String, Box<dyn Error>> {
    let lines = servers.iter().flat_map(|one| [&one.at_fork, &one.at_end]);
    let ticks = decades(lines.flat_map(|line| line.values().copied()))?;
    let about = servers.first().map_or("", |one| one.about.as_str());
    let mut svg = String::new();
    let size = (WIDTH, TOP + PANEL * servers.len() as u32);
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    area.fill(&PAPER)?;
    let (top, panels) = area.split_vertically(TOP);
    top.draw_text("Requests around a BGSAVE", &text(22, &INK), (LEFT, 10))?;
    let what = format!("longest latency of the requests due in each millisecond; {about}");
    top.draw_text(&what, &text(15, &FAINT), (LEFT, 40))?;
    let rows = panels.split_evenly((servers.len(), 1));
    for (index, (server, row)) in servers.iter().zip(&rows).enumerate() {
        let last = index + 1 == servers.len();
        let halves = row.split_evenly((1, 2));
        for (half, line, zero, merged) in [
            (&halves[0], &server.at_fork, "BGSAVE", None),
            (
                &halves[1],
                &server.at_end,
                "the child's end",
                server.merged_ms,
            ),
        ] {
            let worst = line.values().copied().fold(0.0, f64::max);
            let mut title = format!("{}: worst {}", server.name(), time(worst));
            match merged {
                Some(ms) if ms < TO_MS as f64 => title += &format!("; merged at {ms:.0} ms"),
                Some(ms) => title += &format!("; merged after {:.1} s", ms / 1e3),
                None => {}
            }
            half.draw_text(&title, &text(15, &INK), (72, 4))?;
            let x = if last {
                format!("ms from {zero}")
            } else {
                String::new()
            };
            draw_panel(half, server.color(), line, &ticks, &x, merged)?;
        }
    }
    area.present()?;
    drop((top, panels, rows, area));
    Ok(svg)
}

fn draw_panel(
    panel: &Area,
    color: RGBColor,
    line: &Line,
    ticks: &[f64],
    x: &str,
    merged_ms: Option<f64>,
) -> Result<(), Box<dyn Error>> {
    let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
    let y = (low..high).log_scale().with_key_points(ticks.to_vec());
    let mut chart = ChartBuilder::on(panel)
        .margin_left(4)
        .margin_right(16)
        .margin_top(26)
        .margin_bottom(8)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(FROM_MS as f64..TO_MS as f64, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_desc(x)
        .x_labels(6)
        .x_label_formatter(&|ms| format!("{ms:.0}"))
        .y_label_formatter(&|us| time(*us))
        .label_style(text(15, &INK))
        .draw()?;
    let bars = line.iter().map(|(ms, worst)| {
        let corners = [(*ms as f64, low), (*ms as f64 + 1.0, worst.max(low))];
        Rectangle::new(corners, color.filled())
    });
    chart.draw_series(bars)?;
    let merged = merged_ms.filter(|ms| *ms < TO_MS as f64);
    for at in [0.0].into_iter().chain(merged) {
        let mark = [(at, low), (at, high)];
        let style = FAINT.stroke_width(1);
        chart.draw_series(DashedLineSeries::new(mark, 4, 4, style))?;
    }
    Ok(())
}

fn text(size: u32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}

/// A time, in a unit that fits it.
fn time(us: f64) -> String {
    let short = |value: f64, unit| {
        let digits = usize::from(value < 10.0 && value.fract() > 0.05);
        format!("{value:.digits$} {unit}")
    };
    match us {
        us if us < 1e3 => short(us, "\u{b5}s"),
        us if us < 1e6 => short(us / 1e3, "ms"),
        us => short(us / 1e6, "s"),
    }
}

/// The powers of ten from the last one below the least value to the first one above the greatest.
fn decades(values: impl Iterator<Item = f64> + Clone) -> Result<Vec<f64>, Box<dyn Error>> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    if most <= 0.0 {
        return Err("there are no requests to draw".into());
    }
    let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let powers = low..=high.max(low + 1);
    Ok(powers.map(|power| 10f64.powi(power)).collect())
}
