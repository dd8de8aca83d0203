//! What does it cost to go back to a snapshot, again and again?
//!
//! `cargo bench --bench restore -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! A round stores to some pages of a fully written arena and restores it. `restore` is what
//! `Arena::restore` took to bring pages back, `all` the whole call, with the arming after it. They
//! are compared with copying everything back by memcpy (`copy`): `speedup` and, for the whole call,
//! `all`. `rounds` are all rounds in a second, with the faults of their stores; beside them those
//! of a program that forks a child for each round, which stores and exits (`fork`).
//!
//! - `scattered`: other pages in each round, picked at random;
//! - `same`: the same ones in each round, picked at random.
//!
//! Each measurement is in a fresh process, over small pages.

#![allow(unsafe_code, reason = "memory that a child shares, and forks")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index;
use serde::{Deserialize, Serialize};

mod support;

use support::engines::Engine;
use support::{MIB, Options, Report, each, fresh, in_turn, lacks_memory, mapping, micros, number};

/// The arena's bytes, the pages that each round stores to, and rounds that are measured.
const SIZES: [(usize, usize, usize); 2] = [(256 * MIB, 655, 20), (64 * MIB, 64, 200)];
const CASES: [Case; 2] = [Case::Scattered, Case::Same];
/// Rounds before anything is measured.
const WARM_UP: usize = 3;

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    case: Case,
    size_mib: usize,
    dirty_pages: usize,
    restore_us: f64,
    restore_with_arming_us: f64,
    baseline_us: f64,
    speedup: f64,
    rounds_per_s: f64,
    fork_rounds_per_s: f64,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    Scattered,
    Same,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Scattered => "scattered",
            Self::Same => "same",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Side {
    Engine(Engine),
    Copy,
    Fork,
}

/// What a fresh process is to measure.
#[derive(Serialize, Deserialize)]
struct Job {
    side: Side,
    case: Case,
    len: usize,
    dirty: usize,
    rounds: usize,
}

/// Medians of the rounds, in microseconds, and how many there were in a second.
#[derive(Serialize, Deserialize)]
struct Measured {
    restore: f64,
    all: f64,
    rounds_per_s: f64,
}

impl Job {
    /// Which pages each round stores to.
    fn pages(&self) -> impl FnMut() -> Vec<usize> {
        let count = self.len / region::page::size();
        let (case, dirty) = (self.case, self.dirty);
        let mut rng = StdRng::seed_from_u64(7);
        let mut pages = index::sample(&mut rng, count, dirty).into_vec();
        move || {
            if case == Case::Scattered {
                pages = index::sample(&mut rng, count, dirty).into_vec();
            }
            pages.clone()
        }
    }

    /// Goes round; `back` returns how long going back took: bringing back, and all of it.
    fn go_round(
        &self,
        mut round: impl FnMut(&[usize]) -> Result<(Duration, Duration), String>,
    ) -> Result<Measured, String> {
        let mut pages = self.pages();
        for _ in 0..WARM_UP {
            round(&pages())?;
        }
        let mut took = Vec::new();
        let mut rounds = Duration::ZERO;
        for _ in 0..self.rounds {
            let pages = pages();
            let begin = Instant::now();
            took.push(round(&pages)?);
            rounds += begin.elapsed();
        }
        Ok(Measured {
            restore: each(&took, |(restore, _)| micros(*restore)).median(),
            all: each(&took, |(_, all)| micros(*all)).median(),
            rounds_per_s: self.rounds as f64 / rounds.as_secs_f64(),
        })
    }

    fn measure(&self) -> Result<Measured, String> {
        match self.side {
            Side::Engine(engine) => self.restores(engine),
            Side::Copy => self.copies(),
            Side::Fork => self.forks(),
        }
    }

    fn restores(&self, engine: Engine) -> Result<Measured, String> {
        let mut arena = engine.plain_arena(self.len)?;
        let snapshot = arena.snapshot().map_err(|error| error.to_string())?;
        self.go_round(|pages| {
            store(&mut arena, pages);
            let begin = Instant::now();
            let restored = arena
                .restore(&snapshot)
                .map_err(|error| error.to_string())?;
            let all = begin.elapsed();
            if restored.pages != pages.len() {
                return Err(format!("{} pages were restored", restored.pages));
            }
            Ok((all.saturating_sub(restored.arm), all))
        })
    }

    fn copies(&self) -> Result<Measured, String> {
        let bytes = mapping::ordinary(self.len, false)?;
        let saved = mapping::ordinary(self.len, false)?;
        mapping::fill(bytes);
        mapping::fill(saved);
        self.go_round(|pages| {
            store(bytes, pages);
            let begin = Instant::now();
            bytes.copy_from_slice(saved);
            let took = begin.elapsed();
            Ok((took, took))
        })
    }

    fn forks(&self) -> Result<Measured, String> {
        let bytes = mapping::ordinary(self.len, false)?;
        mapping::fill(bytes);
        self.go_round(|pages| {
            let begin = Instant::now();
            // SAFETY: the child stores to memory, and exits.
            let child = unsafe { libc::fork() };
            if child == 0 {
                store(bytes, pages);
                // SAFETY: ends the process without running any of its clean-up.
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            // SAFETY: our own child.
            let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
            if ended != child || status != 0 {
                return Err("a forked child did not end well".to_owned());
            }
            let took = begin.elapsed();
            Ok((took, took))
        })
    }
}

fn store(bytes: &mut [u8], pages: &[usize]) {
    let page_size = region::page::size();
    for page in pages {
        bytes[page * page_size] ^= 1;
    }
}

fn compare(
    report: &mut Report,
    options: &Options,
    engines: &[Engine],
    case: Case,
    (len, dirty, rounds): (usize, usize, usize),
) -> Result<(), String> {
    let mut sides = vec![Side::Copy, Side::Fork];
    sides.extend(engines.iter().copied().map(Side::Engine));
    let ask = |_, &side: &Side| {
        fresh::process::<Measured>(&Job {
            side,
            case,
            len,
            dirty,
            rounds,
        })
    };
    let measured = in_turn(options.repetitions(), &sides, ask)?;
    let copy = each(&measured[0], |took| took.all);
    let fork = each(&measured[1], |took| took.rounds_per_s);
    for (&engine, ours) in engines.iter().zip(&measured[2..]) {
        let restore = each(ours, |took| took.restore);
        let all = each(ours, |took| took.all);
        let rounds = each(ours, |took| took.rounds_per_s);
        let row = Row {
            bench: "restore",
            engine,
            case,
            size_mib: len / MIB,
            dirty_pages: dirty,
            restore_us: restore.median(),
            restore_with_arming_us: all.median(),
            baseline_us: copy.median(),
            speedup: copy.median() / restore.median(),
            rounds_per_s: rounds.median(),
            fork_rounds_per_s: fork.median(),
        };
        let mut cells = names(engine, case, len, dirty).to_vec();
        cells.extend([
            restore.to_string(),
            all.to_string(),
            copy.to_string(),
            number(row.speedup),
            number(copy.median() / all.median()),
            rounds.to_string(),
            fork.to_string(),
        ]);
        report.row(&row, cells)?;
    }
    Ok(())
}

fn names(engine: Engine, case: Case, len: usize, dirty: usize) -> [String; 4] {
    [
        engine.name().to_owned(),
        case.name().to_owned(),
        (len / MIB).to_string(),
        dirty.to_string(),
    ]
}

fn main() -> ExitCode {
    if let Some(code) = fresh::answer(Job::measure) {
        return code;
    }
    support::run("restore", |options| {
        let header = [
            "engine",
            "case",
            "MiB",
            "pages",
            "restore us",
            "all us",
            "copy us",
            "speedup",
            "all",
            "rounds/s",
            "fork/s",
        ];
        let mut report = Report::new(options, 2, &header);
        let engines = Engine::available(&mut report);
        for &size in &SIZES {
            for case in CASES {
                if let Some(why) = lacks_memory(size.0 * 3) {
                    for &engine in &engines {
                        report.skipped(&names(engine, case, size.0, size.1), &why);
                    }
                    continue;
                }
                compare(&mut report, options, &engines, case, size)?;
            }
        }
        report.print();
        Ok(())
    })
}
