//! How plots look: light, and few colours.

use std::error::Error;
use std::fmt::Display;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::rows::Side;

pub const PAPER: RGBColor = RGBColor(251, 250, 247);
pub const GRID: RGBColor = RGBColor(229, 226, 219);
pub const INK: RGBColor = RGBColor(70, 68, 64);
pub const FAINT: RGBColor = RGBColor(140, 136, 128);

pub const TITLE: u32 = 22;
pub const LABEL: u32 = 17;
pub const SMALL: u32 = 15;

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Mprotect => "pagecow, mprotect",
            Self::Userfaultfd => "pagecow, userfaultfd",
            Self::Remap => "pagecow, remap",
            Self::Fork => "fork()",
        }
    }

    /// Its name and its color.
    pub fn legend(self) -> (&'static str, RGBColor) {
        (self.name(), self.color())
    }

    pub fn color(self) -> RGBColor {
        match self {
            Self::Mprotect => RGBColor(64, 110, 160),
            Self::Userfaultfd => RGBColor(92, 158, 140),
            Self::Remap => RGBColor(146, 106, 164),
            Self::Fork => RGBColor(178, 150, 122),
        }
    }
}

pub fn text(size: u32, color: &RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(color)
}

/// The height above each plot for title, what it shows, and legend.
pub const HEADER: u32 = 104;
const LEFT: i32 = 20;
const LEGEND: i32 = 190;

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The SVG that `draw` draws.
pub fn picture(
    size: (u32, u32),
    draw: impl FnOnce(&Area) -> Result<(), Box<dyn Error>>,
) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    area.fill(&PAPER)?;
    draw(&area)?;
    area.present()?;
    drop(area);
    Ok(svg)
}

/// Draws the title, what the plot shows, and, if several share a panel, a legend.
pub fn header(
    area: &Area,
    title: &str,
    what: &str,
    legend: &[(&str, RGBColor)],
) -> Result<(), Box<dyn Error>> {
    area.draw_text(title, &text(TITLE, &INK), (LEFT, 14))?;
    area.draw_text(what, &text(SMALL, &FAINT), (LEFT, 44))?;
    for (index, (name, color)) in legend.iter().enumerate() {
        let x = LEFT + index as i32 * LEGEND;
        let mark = [(x, 74), (x + 12, 86)];
        area.draw(&Rectangle::new(mark, color.filled()))?;
        area.draw_text(name, &text(LABEL, &INK), (x + 20, 73))?;
    }
    Ok(())
}

/// A time, in a unit that fits it.
pub fn time(us: f64) -> String {
    let short = |value: f64, unit| {
        let digits = usize::from(value < 10.0 && value.fract() > 0.05);
        format!("{value:.digits$} {unit}")
    };
    match us {
        us if us < 1.0 => short(us * 1e3, "ns"),
        us if us < 1e3 => short(us, "\u{b5}s"),
        us if us < 1e6 => short(us / 1e3, "ms"),
        us => short(us / 1e6, "s"),
    }
}

/// Megabytes, in a unit that fits them.
pub fn size(mib: impl Into<f64> + Display) -> String {
    match mib.into() {
        mib if mib < 1024.0 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib / 1024.0),
    }
}

/// The powers of ten from the last one below the least value to the first one above the greatest.
pub fn decades(values: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    (low..=high.max(low + 1))
        .map(|power| 10f64.powi(power))
        .collect()
}
