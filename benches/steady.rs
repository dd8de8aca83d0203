//! What does a store cost that does not fault? It should cost the same as in plain memory.
//!
//! `cargo bench --bench steady -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! - `open`: a snapshot is alive, and every page was written since;
//! - `never`: the arena never had a snapshot;
//! - `gone`: its only snapshot is gone, and every page was written since.
//!
//! Stores are to the words of the whole arena in order (`sequential`), to random ones (`random`),
//! and to random ones in 500 pages (`hot`). Each comparison is made in a fresh process, where arena
//! and plain memory take turns. Which of them is allocated first alternates too, since that decides
//! which physical memory each of them gets. `ratio` is the median of the ratios of the processes. A
//! fault during the measurement is an error.

#![allow(unsafe_code, reason = "memory as words")]

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use pagecow::Snapshot;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

mod support;

use support::engines::Engine;
use support::load::Random;
use support::{MIB, Report, alternate, each, fresh, lacks_memory, mapping};

const ROUNDS: usize = 7;
const HOT_PAGES: usize = 500;
/// Ends sooner, when nothing is left to do.
const LONG_ENOUGH: Duration = Duration::from_secs(60);

const CASES: [Case; 3] = [Case::Open, Case::Never, Case::Gone];
const PATTERNS: [(&str, Pattern); 3] =
    [("sequential", sequential), ("random", random), ("hot", hot)];

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    case: Case,
    pattern: &'static str,
    size_mib: usize,
    ns_per_store: f64,
    plain_ns_per_store: f64,
    ratio: f64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    Open,
    Never,
    Gone,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Never => "never",
            Self::Gone => "gone",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Job {
    engine: Engine,
    case: Case,
    len: usize,
    arena_first: bool,
}

/// What one pattern costs, in nanoseconds per store.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Cost {
    arena: f64,
    plain: f64,
}

/// Makes stores, and returns how many.
type Pattern = fn(&[AtomicU64]) -> usize;

fn sequential(words: &[AtomicU64]) -> usize {
    for word in words {
        word.store(1, Relaxed);
    }
    words.len()
}

fn random(words: &[AtomicU64]) -> usize {
    let stores = words.len() / 4;
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..stores {
        words[random.below(words.len())].store(2, Relaxed);
    }
    stores
}

fn hot(words: &[AtomicU64]) -> usize {
    let hot = HOT_PAGES * region::page::size() / 8;
    let from = words.len() / 3;
    let near = &words[from..from + hot];
    (0..8).map(|_| random(near)).sum()
}

/// Stores to each page once, in random order.
fn touch(words: &[AtomicU64]) {
    let words_per_page = region::page::size() / 8;
    let mut order: Vec<usize> = (0..words.len() / words_per_page).collect();
    order.shuffle(&mut StdRng::seed_from_u64(1));
    for page in order {
        words[page * words_per_page].store(3, Relaxed);
    }
}

fn nanoseconds(words: &[AtomicU64], pattern: Pattern) -> f64 {
    let begin = Instant::now();
    let stores = pattern(words);
    begin.elapsed().as_secs_f64() * 1e9 / stores as f64
}

fn new_plain(len: usize) -> Result<&'static mut [u8], String> {
    let bytes = mapping::ordinary(len, false)?;
    mapping::fill(bytes);
    Ok(bytes)
}

/// What the fresh process does.
fn measure(job: &Job) -> Result<Vec<Cost>, String> {
    let (arena, plain);
    if job.arena_first {
        arena = job.engine.plain_arena(job.len)?;
        plain = new_plain(job.len)?;
    } else {
        plain = new_plain(job.len)?;
        arena = job.engine.plain_arena(job.len)?;
    }
    // SAFETY: the arena outlives the words, and is used only for snapshots from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), job.len) };
    // SAFETY: never unmapped, and used only through the words from here on.
    let plain = unsafe { mapping::words(plain.as_mut_ptr(), job.len) };

    let mut snapshot: Option<Snapshot> = None;
    if !matches!(job.case, Case::Never) {
        snapshot = Some(arena.snapshot().map_err(|error| error.to_string())?);
    }
    if matches!(job.case, Case::Gone) {
        snapshot = None;
        // What is left to be done for it may refuse stores, if briefly.
        arena.tend(LONG_ENOUGH);
    }
    touch(words);
    touch(plain);

    let faults = arena.stats().faults;
    let costs = PATTERNS
        .iter()
        .map(|&(_, pattern)| {
            pattern(words);
            pattern(plain);
            let pairs = alternate(
                ROUNDS,
                || Ok(nanoseconds(words, pattern)),
                || Ok(nanoseconds(plain, pattern)),
            )?;
            Ok(Cost {
                arena: each(&pairs, |pair| pair.0).median(),
                plain: each(&pairs, |pair| pair.1).median(),
            })
        })
        .collect();
    if arena.stats().faults != faults {
        return Err("a store faulted".to_owned());
    }
    drop(snapshot);
    costs
}

fn compare(
    report: &mut Report,
    times: usize,
    engine: Engine,
    case: Case,
    len: usize,
) -> Result<(), String> {
    let ask = |arena_first| {
        fresh::process::<Vec<Cost>>(&Job {
            engine,
            case,
            len,
            arena_first,
        })
    };
    let processes = (0..times)
        .map(|time| ask(time % 2 == 0))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, &(pattern, _)) in PATTERNS.iter().enumerate() {
        let arena = each(&processes, |costs| costs[index].arena);
        let plain = each(&processes, |costs| costs[index].plain);
        let ratio = each(&processes, |costs| costs[index].arena / costs[index].plain);
        let row = Row {
            bench: "steady",
            engine,
            case,
            pattern,
            size_mib: len / MIB,
            ns_per_store: arena.median(),
            plain_ns_per_store: plain.median(),
            ratio: ratio.median(),
        };
        let cells = vec![
            engine.name().to_owned(),
            case.name().to_owned(),
            pattern.to_owned(),
            row.size_mib.to_string(),
            arena.to_string(),
            plain.to_string(),
            ratio.to_string(),
        ];
        report.row(&row, cells)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    if let Some(code) = fresh::answer(measure) {
        return code;
    }
    support::run("steady", |options| {
        let header = [
            "engine",
            "case",
            "pattern",
            "MiB",
            "ns per store",
            "plain memory's",
            "ratio",
        ];
        let mut report = Report::new(options, 3, &header);
        let len = if options.quick { 64 * MIB } else { 256 * MIB };
        for engine in Engine::available(&mut report) {
            for case in CASES {
                if let Some(why) = lacks_memory(4 * len) {
                    report.skipped(&[engine.name(), case.name()].map(str::to_owned), &why);
                    continue;
                }
                compare(&mut report, options.repetitions(), engine, case, len)?;
            }
        }
        report.print();
        Ok(())
    })
}
