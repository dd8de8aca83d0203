//! The rows, as JSON or as a table.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::args::human_bytes;

/// What was measured for one way to take a snapshot. `None`: that way cannot know it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    pub mode: String,
    pub size_mib: f64,
    pub snapshot_us: f64,
    pub worst_writer_stall_us: f64,
    pub faults: Option<u64>,
    pub pages_saved: Option<u64>,
    pub bytes_saved: Option<u64>,
    pub store_peak_bytes: Option<u64>,
    pub writes_per_s_before: u64,
    pub writes_per_s_during: u64,
    pub writes_per_s_after: u64,
    pub save_ms: f64,
    pub overwritten_fraction: f64,
    pub verified: bool,
}

/// Microseconds, to a tenth.
pub fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// Milliseconds, to a tenth.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// Prints a row as one line of JSON.
pub fn print_json(row: &Row) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, row)?;
    writeln!(out)?;
    out.flush()
}

/// Prints the rows side by side.
pub fn print_table(rows: &[Row]) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let modes = rows.iter().map(|row| row.mode.clone());
    table.set_header([String::new()].into_iter().chain(modes));
    let mut line = |name: &str, value: &dyn Fn(&Row) -> String| {
        let values = rows
            .iter()
            .map(|row| Cell::new(value(row)).set_alignment(CellAlignment::Right));
        table.add_row([Cell::new(name)].into_iter().chain(values));
    };
    line("memory", &|row| {
        human_bytes((row.size_mib * 1048576.0) as u64)
    });
    line("the snapshot call", &|row| human_micros(row.snapshot_us));
    line("longest wait of a writer", &|row| {
        human_micros(row.worst_writer_stall_us)
    });
    line("faults", &|row| count_or_dash(row.faults));
    line("pages saved", &|row| count_or_dash(row.pages_saved));
    line("bytes saved", &|row| {
        row.bytes_saved.map_or("-".into(), human_bytes)
    });
    line("peak of the store", &|row| {
        row.store_peak_bytes.map_or("-".into(), human_bytes)
    });
    line("writes/s before", &|row| grouped(row.writes_per_s_before));
    line("writes/s during the save", &|row| {
        grouped(row.writes_per_s_during)
    });
    line("writes/s after", &|row| grouped(row.writes_per_s_after));
    line("save", &|row| human_micros(row.save_ms * 1000.0));
    line("overwritten before read", &|row| {
        format!("{:.0} %", row.overwritten_fraction * 100.0)
    });
    line("verified", &|row| {
        if row.verified { "yes" } else { "NO" }.into()
    });
    writeln!(io::stdout(), "{table}")
}

fn count_or_dash(count: Option<u64>) -> String {
    count.map_or("-".into(), grouped)
}

/// 1234567 as `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn human_micros(micros: f64) -> String {
    if micros < 1000.0 {
        format!("{micros:.0} us")
    } else if micros < 10_000.0 {
        format!("{:.1} ms", micros / 1000.0)
    } else {
        format!("{:.0} ms", micros / 1000.0)
    }
}
