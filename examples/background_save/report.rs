//! The rows, as JSON or as a table.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::args::{Job, human_bytes};
use crate::plan::Pattern;

/// What was measured for one way to take a snapshot. `None`: that way cannot know it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    pub mode: String,
    pub load: Pattern,
    /// Whether the arena stood ready for snapshots.
    pub stand_ready: Option<bool>,
    /// Writes per second; `None`: as many as it can.
    pub rate_per_writer: Option<u32>,
    pub writers: usize,
    pub size_mib: f64,
    pub snapshot_us: f64,
    pub worst_writer_stall_us: f64,
    pub extra_memory_bytes: Option<u64>,
    pub cpu_s: f64,
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

/// A line of the table, and what it means.
struct Line {
    name: &'static str,
    value: fn(&Row) -> String,
    meaning: &'static str,
}

/// Snapshot A is taken while no thread writes, and saved while the writers run. Snapshot B is taken
/// while they run, and read back.
const LINES: [Line; 15] = [
    Line {
        name: "memory",
        value: |row| human_bytes((row.size_mib * 1048576.0) as u64),
        meaning: "what the writers change and a snapshot freezes",
    },
    Line {
        name: "the snapshot call",
        value: |row| human_micros(row.snapshot_us),
        meaning: "how long its caller waits while the writers run; less is better",
    },
    Line {
        name: "longest wait of a writer",
        value: |row| human_micros(row.worst_writer_stall_us),
        meaning: "the longest that one write took while there were snapshots; less is better",
    },
    Line {
        name: "extra memory",
        value: |row| bytes_or_dash(row.extra_memory_bytes),
        meaning: "what the saved snapshot took at the most, in all processes; less is better",
    },
    Line {
        name: "CPU time",
        value: |row| human_micros(row.cpu_s * 1e6),
        meaning: "of all threads and processes, to take, save and drop it; less is better at equal \
                  writes/s",
    },
    Line {
        name: "faults",
        value: |row| count_or_dash(row.faults),
        meaning: "writes that pagecow's handler dealt with; fewer is better (the kernel has its own for fork)",
    },
    Line {
        name: "pages saved",
        value: |row| count_or_dash(row.pages_saved),
        meaning: "copies made for all snapshots; fewer is better",
    },
    Line {
        name: "bytes saved",
        value: |row| bytes_or_dash(row.bytes_saved),
        meaning: "the same in bytes",
    },
    Line {
        name: "peak of the store",
        value: |row| bytes_or_dash(row.store_peak_bytes),
        meaning: "the most bytes that copies took at one time; less is better",
    },
    Line {
        name: "writes/s before",
        value: |row| grouped(row.writes_per_s_before),
        meaning: "of all writers, before the first snapshot",
    },
    Line {
        name: "writes/s during the save",
        value: |row| grouped(row.writes_per_s_during),
        meaning: "the same until the snapshot is saved; nearer to the line above is better",
    },
    Line {
        name: "writes/s after",
        value: |row| grouped(row.writes_per_s_after),
        meaning: "the same when all snapshots are gone; nearer to the first of the three is better",
    },
    Line {
        name: "save",
        value: |row| human_micros(row.save_ms * 1000.0),
        meaning: "from the first byte read to the last on the disk; less is better",
    },
    Line {
        name: "overwritten before read",
        value: |row| percent(row.overwritten_fraction),
        meaning: "part of the saved pages; neither is better, but too few would prove nothing",
    },
    Line {
        name: "verified",
        value: |row| if row.verified { "yes" } else { "NO" }.into(),
        meaning: "whether each snapshot shows one instant and no write was lost; must be yes",
    },
];

/// Microseconds, to a tenth.
pub fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// Milliseconds, to a tenth.
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// Seconds, to a tenth of a millisecond.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 1e4
}

/// Prints a row as one line of JSON.
pub fn print_json(row: &Row) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, row)?;
    writeln!(out)?;
    out.flush()
}

/// Prints the rows side by side, and what each line means.
pub fn print_table(job: &Job, rows: &[Row]) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let modes = rows.iter().map(|row| row.mode.clone());
    table.set_header([String::new()].into_iter().chain(modes));
    for line in &LINES {
        let values = rows
            .iter()
            .map(|row| Cell::new((line.value)(row)).set_alignment(CellAlignment::Right));
        table.add_row([Cell::new(line.name)].into_iter().chain(values));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}\n{table}", title(job))?;
    if job.stand_ready {
        writeln!(
            out,
            "Standing ready: pages that were not written for a while are armed before the snapshot \
             call.\nThat costs writers at most 1 % of the time; these faults are counted, too. \
             The writers\nran for {} s before the snapshot that the call is of.",
            (job.seconds * crate::scenario::WARM_UP).as_secs_f64()
        )?;
    }
    let width = LINES.iter().map(|line| line.name.len()).max().unwrap_or(0);
    for line in &LINES {
        writeln!(out, "{:width$}  {}", line.name, line.meaning)?;
    }
    out.flush()
}

/// Says what the writers do.
fn title(job: &Job) -> String {
    let writers = match job.writers {
        1 => "1 writer".into(),
        writers => format!("{writers} writers"),
    };
    let pages = match job.load {
        Pattern::Uniform => "all pages alike",
        Pattern::Hot => "500 hot pages, and any page one time in 20",
    };
    let rate = match job.rate {
        Some(rate) => format!("{} writes/s each", grouped(rate.into())),
        None => "as fast as possible".into(),
    };
    let ready = if job.stand_ready {
        "; pagecow's arena stands ready"
    } else {
        ""
    };
    let image = if job.image {
        "; pagecow saves an image"
    } else {
        ""
    };
    let engine = job.engine.name();
    format!("{writers}, {rate}: {pages}; pagecow's engine is {engine}{ready}{image}")
}

fn count_or_dash(count: Option<u64>) -> String {
    count.map_or("-".into(), grouped)
}

fn bytes_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or("-".into(), human_bytes)
}

/// A fraction in percent; small ones with two digits.
fn percent(fraction: f64) -> String {
    let percent = fraction * 100.0;
    let digits = if percent >= 9.95 || percent == 0.0 {
        0
    } else {
        2
    };
    format!("{percent:.digits$} %")
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
