//! What the benchmark is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

const MIB: u64 = 1 << 20;

/// What clients do to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// One GET each millisecond, to see what a request takes
    None,
    /// SET of keys at random, at a fixed rate
    Writes,
}

impl Load {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Writes => "writes",
        }
    }
}

/// Compare redis-server as it is with one that has the library preloaded.
#[derive(Parser)]
#[command(name = "redis", max_term_width = 100)]
pub struct Args {
    /// Memory that the servers' data take, with K, M or G behind
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', value_parser = size)]
    size: Vec<u64>,

    /// What clients do meanwhile
    #[arg(
        long,
        value_name = "LOAD,...",
        value_delimiter = ',',
        default_value = "none,writes"
    )]
    pub load: Vec<Load>,

    /// Writes per second; a third of what the server without the library takes, if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,

    /// Saves of each server, 3 if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    saves: Option<u32>,

    /// A short version: 64 MiB, one save
    #[arg(long)]
    quick: bool,

    /// One JSON object for each save
    #[arg(long)]
    pub json: bool,

    /// Draw latency around a save, of the largest size and the last load, as SVG
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,

    /// The server's program
    #[arg(long, value_name = "PROGRAM", default_value = "redis-server")]
    pub server: PathBuf,

    /// Where the servers' files go for the time of the run; a disk, not memory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Cargo's own
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long the parts of a run are.
pub struct Times {
    /// Without being measured, before each save.
    pub settle: Duration,
    /// At rest.
    pub rest: Duration,
    /// After the save, and after what is to be merged.
    pub after: Duration,
    pub calibrate: Duration,
}

impl Args {
    /// In bytes.
    pub fn sizes(&self) -> Vec<u64> {
        match (self.size.is_empty(), self.quick) {
            (false, _) => self.size.clone(),
            (true, false) => vec![1024 * MIB, 4096 * MIB],
            (true, true) => vec![64 * MIB],
        }
    }

    pub fn saves(&self) -> u32 {
        self.saves.unwrap_or(if self.quick { 1 } else { 3 })
    }

    pub fn times(&self) -> Times {
        let times = |settle, rest, after, calibrate| Times {
            settle: Duration::from_millis(settle),
            rest: Duration::from_millis(rest),
            after: Duration::from_millis(after),
            calibrate: Duration::from_millis(calibrate),
        };
        if self.quick {
            times(100, 500, 300, 300)
        } else {
            times(1000, 5000, 2000, 2000)
        }
    }
}

fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.to_ascii_uppercase().chars().last() {
        Some('K') => (&text[..text.len() - 1], 1 << 10),
        Some('M') => (&text[..text.len() - 1], MIB),
        Some('G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a number with K, M or G behind".to_owned())?;
    let bytes = number.checked_mul(unit).ok_or("too large")?;
    if bytes < 16 * MIB {
        return Err("16M at least: an empty server takes some".to_owned());
    }
    Ok(bytes)
}
