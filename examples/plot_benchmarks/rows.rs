//! The rows from which the plots are made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::ALL;

/// A side that rows are about, in the order in which it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    Mprotect,
    Userfaultfd,
    Remap,
    Fork,
}

/// A bucket of `timeline`.
#[derive(Clone, Deserialize)]
pub struct Moment {
    pub side: Side,
    pub size_mib: u64,
    pub at_ms: f64,
    pub worst_us: f64,
}

/// A row of `pause`.
#[derive(Clone, Deserialize)]
pub struct Pause {
    pub engine: Side,
    pub size_mib: u64,
    pub huge: bool,
    /// Rows that do not say are from before arenas could.
    #[serde(default)]
    pub stand_ready: bool,
    pub writer: String,
    pub commit_us: f64,
    pub fork_us: f64,
}

/// A row of `first_write`.
#[derive(Clone, Deserialize)]
pub struct FirstWrite {
    pub engine: Side,
    pub window: String,
    pub case: String,
    pub size_mib: u64,
    pub ns_per_page: f64,
    pub fork_ns_per_page: f64,
}

/// A row of `deltas`.
#[derive(Clone, Deserialize)]
pub struct Deltas {
    pub engine: Side,
    pub case: String,
    pub size_mib: u64,
    pub save: u64,
    pub delta_bytes: u64,
    pub full_bytes: u64,
}

#[derive(Deserialize)]
#[serde(tag = "bench", rename_all = "snake_case")]
enum Row {
    Timeline(Moment),
    Pause(Pause),
    FirstWrite(FirstWrite),
    Deltas(Deltas),
    #[serde(other)]
    Other,
}

/// All rows, in the order in which they were read.
#[derive(Default)]
pub struct Rows {
    pub timeline: Vec<Moment>,
    pub pause: Vec<Pause>,
    pub first_write: Vec<FirstWrite>,
    pub deltas: Vec<Deltas>,
}

impl Rows {
    pub fn read(paths: &[PathBuf]) -> Result<Self, String> {
        let mut rows = Self::default();
        for path in paths {
            rows.read_file(path)?;
        }
        Ok(rows)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), String> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!(
                    "{} does not exist; all rows are made with\n  {ALL}",
                    path.display()
                )
            }
            _ => format!("{}: {error}", path.display()),
        })?;
        for (line, text) in text.lines().enumerate() {
            let row = serde_json::from_str(text).map_err(|error| {
                let (path, line) = (path.display(), line + 1);
                format!("{path}, line {line} is not a row of a benchmark: {error}")
            })?;
            match row {
                Row::Timeline(row) => self.timeline.push(row),
                Row::Pause(row) => self.pause.push(row),
                Row::FirstWrite(row) => self.first_write.push(row),
                Row::Deltas(row) => self.deltas.push(row),
                Row::Other => {}
            }
        }
        Ok(())
    }
}

/// The advice for a plot that has nothing to show.
pub fn lacking(bench: &str) -> String {
    format!(
        "there are no rows for the plot of `{bench}`; they are made with\n  \
         cargo bench --quiet --bench {bench} -- --json >> docs/benchmarks/rows.jsonl\n\
         and the rows of all benchmarks with\n  {ALL}"
    )
}
