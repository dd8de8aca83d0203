//! What the benchmarks share: options, alternation, medians, tables and JSON rows.

#![allow(dead_code, reason = "no benchmark uses all of it")]

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

pub mod child;
pub mod engines;
mod figures;
pub mod fresh;
pub mod load;
pub mod mapping;

pub use figures::number;

pub const MIB: usize = 1 << 20;

/// What an error says.
pub fn said(error: impl Display) -> String {
    error.to_string()
}

/// How a benchmark was asked to run.
pub struct Options {
    pub json: bool,
    pub quick: bool,
}

impl Options {
    /// How often each side of a comparison is measured.
    pub fn repetitions(&self) -> usize {
        if self.quick { 5 } else { 9 }
    }

    /// What is measured: all of it, or the short version.
    pub fn choose<'a, T>(&self, all: &'a [T], quick: &'a [T]) -> &'a [T] {
        if self.quick { quick } else { all }
    }
}

/// The `main` of a benchmark.
pub fn run(bench: &str, measure: impl FnOnce(&Options) -> Result<(), String>) -> ExitCode {
    let mut options = Options {
        json: false,
        quick: false,
    };
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--json" => options.json = true,
            "--quick" => options.quick = true,
            // cargo's own.
            "--bench" => {}
            other => {
                eprintln!("{bench}: unknown option {other:?}; there are --json and --quick");
                return ExitCode::from(2);
            }
        }
    }
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{bench}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs both in turn, `times` times. Each goes first every other time, so that other load on the
/// machine meets both.
pub fn alternate<A, B>(
    times: usize,
    mut one: impl FnMut() -> Result<A, String>,
    mut other: impl FnMut() -> Result<B, String>,
) -> Result<Vec<(A, B)>, String> {
    (0..times)
        .map(|time| {
            if time % 2 == 0 {
                let first = one()?;
                Ok((first, other()?))
            } else {
                let first = other()?;
                Ok((one()?, first))
            }
        })
        .collect()
}

/// Measures all sides in turn, `times` times; each time the next side goes first. `measure` gets
/// the number of the repetition, from 0. Returns what was measured for each side.
pub fn in_turn<S, T>(
    times: usize,
    sides: &[S],
    mut measure: impl FnMut(usize, &S) -> Result<T, String>,
) -> Result<Vec<Vec<T>>, String> {
    let mut measured: Vec<Vec<T>> = sides.iter().map(|_| Vec::with_capacity(times)).collect();
    for time in 0..times {
        for turn in 0..sides.len() {
            let side = (time + turn) % sides.len();
            measured[side].push(measure(time, &sides[side])?);
        }
    }
    Ok(measured)
}

/// What was measured several times.
pub struct Samples {
    ascending: Vec<f64>,
}

impl Samples {
    pub fn median(&self) -> f64 {
        figures::median(&self.ascending)
    }
}

/// One value of each measurement.
pub fn each<T>(measured: &[T], value: impl Fn(&T) -> f64) -> Samples {
    measured.iter().map(value).collect()
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut ascending: Vec<f64> = values.into_iter().collect();
        ascending.sort_by(f64::total_cmp);
        assert!(ascending.len() >= 5, "too few measurements for a median");
        Self { ascending }
    }
}

/// The median and, in brackets, the least and the most.
impl Display for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = self.ascending[0];
        let most = self.ascending[self.ascending.len() - 1];
        write!(
            f,
            "{} ({}-{})",
            number(self.median()),
            number(least),
            number(most)
        )
    }
}

pub fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

pub fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Prints rows of JSON at once, or collects a table and prints it at the end.
pub struct Report {
    json: bool,
    table: Table,
    names: usize,
    skipped: Vec<String>,
}

impl Report {
    /// The first `names` columns say what a row is about, the others hold figures.
    pub fn new(options: &Options, names: usize, header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(header);
        Self {
            json: options.json,
            table,
            names,
            skipped: Vec::new(),
        }
    }

    /// Adds a row. `cells` is the same row for people.
    pub fn row(&mut self, row: &impl Serialize, cells: Vec<String>) -> Result<(), String> {
        self.detail(row)?;
        self.cells(cells);
        Ok(())
    }

    /// Adds a row to the JSON only.
    pub fn detail(&self, row: &impl Serialize) -> Result<(), String> {
        if self.json {
            let line = serde_json::to_string(row).map_err(|error| error.to_string())?;
            println!("{line}");
        }
        Ok(())
    }

    /// Adds a row to the table only.
    pub fn cells(&mut self, cells: Vec<String>) {
        self.table.add_row(cells);
    }

    /// Notes what was not measured. It is printed below the table, or on the standard error beside
    /// rows of JSON.
    pub fn skipped(&mut self, names: &[String], why: &str) {
        let line = format!("skipped: {}: {why}", names.join(", "));
        if self.json {
            eprintln!("{line}");
        }
        self.skipped.push(line);
    }

    pub fn print(mut self) {
        if self.json {
            return;
        }
        for column in self.table.column_iter_mut().skip(self.names) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{}", self.table);
        for line in self.skipped {
            println!("{line}");
        }
    }
}

/// Why this many bytes are not free without pushing something else out of memory; `None` when they
/// are.
pub fn lacks_memory(bytes: usize) -> Option<String> {
    let known = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available: usize = known
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0)
        << 10;
    (available < bytes).then(|| {
        format!(
            "needs {} MiB, {} MiB are free",
            bytes / MIB,
            available / MIB
        )
    })
}
