//! What does another snapshot cost when little was written since the last one?
//!
//! `cargo bench --bench second_snapshot -- [--json] [--quick]`: a table of medians, with the least
//! and the most in brackets, or one JSON object per row.
//!
//! Every page is written, then a first snapshot is taken. Then one page in 100 is stored to, chosen
//! at random and in random order: while the first snapshot is still there (`first` is "alive"), or
//! after it was dropped ("dropped": such stores save nothing, and each makes more and more pages
//! writable). `snapshot_us` is the whole call that takes the second snapshot, while no thread
//! writes. `fork_us` is the whole call of `fork()` over memory of the same size in which every page
//! was written. Both take turns, each in a fresh process.

#![allow(unsafe_code, reason = "memory as words")]

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index;
use serde::{Deserialize, Serialize};

mod support;

use support::child::Child;
use support::engines::{Engine, Side};
use support::{MIB, Report, each, fresh, in_turn, lacks_memory, mapping, micros, number};

const SIZES: [usize; 2] = [256 * MIB, 1024 * MIB];
const QUICK_SIZES: [usize; 1] = [256 * MIB];
/// One page in this many is written between the snapshots.
const WRITTEN: usize = 100;
const FIRST: [First; 2] = [First::Alive, First::Dropped];

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    first: First,
    size_mib: usize,
    snapshot_us: f64,
    fork_us: f64,
    speedup: f64,
}

/// What becomes of the first snapshot before the pages are written.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum First {
    Alive,
    Dropped,
}

impl First {
    fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dropped => "dropped",
        }
    }
}

/// What a fresh process is to measure.
#[derive(Serialize, Deserialize)]
struct Job {
    side: Side,
    first: First,
    len: usize,
}

/// How long the call took, in microseconds.
fn measure_snapshot(job: &Job, engine: Engine) -> Result<f64, String> {
    let arena = engine.plain_arena(job.len)?;
    let mut first = Some(arena.snapshot().map_err(|error| error.to_string())?);
    if job.first == First::Dropped {
        first = None;
    }
    // SAFETY: the arena outlives the words, and is used only for snapshots from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), job.len) };
    let pages = arena.page_count();
    for page in index::sample(&mut StdRng::seed_from_u64(1), pages, pages / WRITTEN) {
        words[page * arena.page_size() / 8].store(1, Relaxed);
    }
    let begin = Instant::now();
    let second = arena.snapshot().map_err(|error| error.to_string())?;
    let took = begin.elapsed();
    drop((first, second));
    Ok(micros(took))
}

fn measure_fork(job: &Job) -> Result<f64, String> {
    let bytes = mapping::ordinary(job.len, false)?;
    mapping::fill(bytes);
    let (child, took) = Child::short()?;
    drop(child);
    Ok(micros(took))
}

fn compare(
    report: &mut Report,
    times: usize,
    engines: &[Engine],
    first: First,
    len: usize,
) -> Result<(), String> {
    let sides = Side::of(engines);
    let ask = |_, &side: &Side| fresh::process::<f64>(&Job { side, first, len });
    let calls = in_turn(times, &sides, ask)?;
    let (forks, ours) = calls.split_first().expect("fork is the first side");
    let fork = each(forks, |us| *us);
    for (&engine, ours) in engines.iter().zip(ours) {
        let ours = each(ours, |us| *us);
        let row = Row {
            bench: "second_snapshot",
            engine,
            first,
            size_mib: len / MIB,
            snapshot_us: ours.median(),
            fork_us: fork.median(),
            speedup: fork.median() / ours.median(),
        };
        let mut cells = names(engine, first, len).to_vec();
        cells.extend([ours.to_string(), fork.to_string(), number(row.speedup)]);
        report.row(&row, cells)?;
    }
    Ok(())
}

fn names(engine: Engine, first: First, len: usize) -> [String; 3] {
    [
        engine.name().to_owned(),
        first.name().to_owned(),
        (len / MIB).to_string(),
    ]
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.side {
        Side::Engine(engine) => measure_snapshot(job, engine),
        Side::Fork => measure_fork(job),
    };
    if let Some(code) = fresh::answer(alone) {
        return code;
    }
    support::run("second_snapshot", |options| {
        let header = [
            "engine",
            "first",
            "MiB",
            "snapshot us",
            "fork us",
            "speedup",
        ];
        let mut report = Report::new(options, 2, &header);
        let engines = Engine::available(&mut report);
        for &len in options.choose(&SIZES, &QUICK_SIZES) {
            for first in FIRST {
                if let Some(why) = lacks_memory(len / 2 * 5) {
                    for &engine in &engines {
                        report.skipped(&names(engine, first, len), &why);
                    }
                    continue;
                }
                compare(&mut report, options.repetitions(), &engines, first, len)?;
            }
        }
        report.print();
        Ok(())
    })
}
