//! For how long is a lock held to freeze what it protects?
//!
//! `cargo bench --bench lock -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! Two threads write under one lock, again and again: 8 stores at a time, to a hot set of 500 pages
//! and, one time in 20, to any. A third thread freezes the memory as it is under the lock. Every
//! page of it was written: before the first snapshot, or (`again`) while an earlier one lived, so
//! that memory for as many copies has to be made ready. The ways:
//!
//! - `snapshot_with`: the call takes the lock itself, when the rest is done;
//! - `snapshot`: `Arena::snapshot` while the lock is held;
//! - `fork`: `fork()` while the lock is held; the child exits at once;
//! - `copy`: `memcpy` while the lock is held, into memory that is resident.
//!
//! Each runs in a fresh process, in turn. `held_us` is the time from having the lock to giving it
//! back. `call_us` is everything, with the wait for the lock. `worst_writer_us` is the longest time
//! that a writer took for its 8 stores, with its wait for the lock, from just before the call to
//! just after it.

#![allow(unsafe_code, reason = "memory that several threads store to")]

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

mod support;

use support::child::Child;
use support::engines::Engine;
use support::load::Load;
use support::{MIB, Report, each, fresh, in_turn, lacks_memory, mapping, micros};

const SIZES: [usize; 2] = [64 * MIB, 256 * MIB];
const QUICK_SIZES: [usize; 1] = [64 * MIB];
const WRITERS: usize = 2;
const STORES: usize = 8;
/// How long the writers run before the call.
const WARM_UP: Duration = Duration::from_millis(30);
/// What a writer does without the lock takes this long.
const BETWEEN: Duration = Duration::from_micros(10);

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    way: &'static str,
    engine: Option<Engine>,
    again: bool,
    size_mib: usize,
    held_us: f64,
    call_us: f64,
    worst_writer_us: f64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    SnapshotWith(Ours),
    Snapshot(Ours),
    Fork,
    Copy,
}

/// An arena, and whether it has had a snapshot before.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Ours {
    engine: Engine,
    again: bool,
}

impl Way {
    fn all(engines: &[Engine]) -> Vec<Self> {
        let cases =
            [false, true].map(|again| engines.iter().map(move |&engine| Ours { engine, again }));
        let ours = cases.into_iter().flatten();
        let ours = ours.flat_map(|ours| [Self::SnapshotWith(ours), Self::Snapshot(ours)]);
        ours.chain([Self::Fork, Self::Copy]).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::SnapshotWith(_) => "snapshot_with",
            Self::Snapshot(_) => "snapshot",
            Self::Fork => "fork",
            Self::Copy => "copy",
        }
    }

    fn ours(self) -> Option<Ours> {
        match self {
            Self::SnapshotWith(ours) | Self::Snapshot(ours) => Some(ours),
            Self::Fork | Self::Copy => None,
        }
    }
}

/// What a fresh process is to measure.
#[derive(Serialize, Deserialize)]
struct Job {
    way: Way,
    len: usize,
}

#[derive(Serialize, Deserialize)]
struct Measured {
    held_us: f64,
    call_us: f64,
    worst_writer_us: f64,
}

/// The lock that protects the memory, and for how long it was held last.
#[derive(Default)]
struct Clocked {
    lock: Mutex<()>,
    held_ns: AtomicU64,
}

/// Its guard.
struct Held<'a> {
    clocked: &'a Clocked,
    since: Instant,
    _held: MutexGuard<'a, ()>,
}

impl Clocked {
    fn lock(&self) -> Held<'_> {
        let held = self.lock.lock().expect("no writer panics");
        Held {
            clocked: self,
            since: Instant::now(),
            _held: held,
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let held = self.since.elapsed().as_nanos() as u64;
        self.clocked.held_ns.store(held, Relaxed);
    }
}

/// Calls `freeze` beside the writers.
fn freeze_while<T>(
    words: &[AtomicU64],
    freeze: impl FnOnce(&Clocked) -> Result<T, String>,
) -> Result<Measured, String> {
    let clocked = Clocked::default();
    let worst_ns = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let rounds = [const { AtomicU64::new(0) }; WRITERS];
    let write = |rounds: &AtomicU64| {
        let mut load = Load::new(words);
        while !done.load(Relaxed) {
            let begin = Instant::now();
            let held = clocked.lock.lock().expect("no writer panics");
            for _ in 0..STORES {
                load.store();
            }
            drop(held);
            let end = Instant::now();
            worst_ns.fetch_max((end - begin).as_nanos() as u64, Relaxed);
            rounds.fetch_add(1, Relaxed);
            while end.elapsed() < BETWEEN {
                std::hint::spin_loop();
            }
        }
    };
    thread::scope(|scope| {
        for rounds in &rounds {
            scope.spawn(|| write(rounds));
        }
        thread::sleep(WARM_UP);
        worst_ns.store(0, Relaxed);
        let begin = Instant::now();
        let frozen = freeze(&clocked);
        let call = begin.elapsed();
        // Until what each writer waited for is counted.
        for rounds in &rounds {
            let seen = rounds.load(Relaxed);
            while rounds.load(Relaxed) < seen + 2 {
                thread::yield_now();
            }
        }
        done.store(true, Relaxed);
        frozen.map(|_| Measured {
            held_us: clocked.held_ns.load(Relaxed) as f64 / 1e3,
            call_us: micros(call),
            worst_writer_us: worst_ns.load(Relaxed) as f64 / 1e3,
        })
    })
}

fn measure_snapshot(ours: Ours, len: usize, by_itself: bool) -> Result<Measured, String> {
    let mut arena = ours.engine.plain_arena(len)?;
    if ours.again {
        let earlier = arena.snapshot().map_err(|error| error.to_string())?;
        mapping::fill(&mut arena);
        drop(earlier);
    }
    // SAFETY: the arena outlives the words, and is used only for snapshots from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), len) };
    freeze_while(words, |clocked| {
        let snapshot = if by_itself {
            arena.snapshot_with(|| clocked.lock())
        } else {
            let held = clocked.lock();
            let snapshot = arena.snapshot();
            drop(held);
            snapshot
        };
        snapshot.map_err(|error| error.to_string())
    })
}

fn measure_other(way: Way, len: usize) -> Result<Measured, String> {
    let bytes = mapping::ordinary(len, false)?;
    mapping::fill(bytes);
    let copy = mapping::ordinary(len, false)?;
    if matches!(way, Way::Copy) {
        mapping::fill(copy);
    }
    let start = bytes.as_mut_ptr();
    // SAFETY: never unmapped, and used only through the words, or under the lock, from here on.
    let words = unsafe { mapping::words(start, len) };
    freeze_while(words, |clocked| {
        let _held = clocked.lock();
        if let Way::Fork = way {
            return Child::short().map(|(child, _)| Some(child));
        }
        // SAFETY: two mappings of this length; the writers wait for the lock.
        unsafe { start.copy_to_nonoverlapping(copy.as_mut_ptr(), len) };
        Ok(None)
    })
}

fn row(report: &mut Report, way: Way, len: usize, measured: &[Measured]) -> Result<(), String> {
    let held = each(measured, |one| one.held_us);
    let call = each(measured, |one| one.call_us);
    let worst = each(measured, |one| one.worst_writer_us);
    let row = Row {
        bench: "lock",
        way: way.name(),
        engine: way.ours().map(|ours| ours.engine),
        again: way.ours().is_some_and(|ours| ours.again),
        size_mib: len / MIB,
        held_us: held.median(),
        call_us: call.median(),
        worst_writer_us: worst.median(),
    };
    let mut cells = names(way, len);
    cells.extend([held.to_string(), call.to_string(), worst.to_string()]);
    report.row(&row, cells)
}

fn names(way: Way, len: usize) -> Vec<String> {
    vec![
        way.name().to_owned(),
        way.ours().map_or("-", |ours| ours.engine.name()).to_owned(),
        way.ours()
            .map_or("-", |ours| if ours.again { "yes" } else { "no" })
            .to_owned(),
        (len / MIB).to_string(),
    ]
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.way {
        Way::SnapshotWith(ours) => measure_snapshot(ours, job.len, true),
        Way::Snapshot(ours) => measure_snapshot(ours, job.len, false),
        Way::Fork | Way::Copy => measure_other(job.way, job.len),
    };
    if let Some(code) = fresh::answer(alone) {
        return code;
    }
    support::run("lock", |options| {
        let header = [
            "way",
            "engine",
            "again",
            "MiB",
            "held us",
            "call us",
            "worst writer us",
        ];
        let mut report = Report::new(options, 3, &header);
        let ways = Way::all(&Engine::available(&mut report));
        for &len in options.choose(&SIZES, &QUICK_SIZES) {
            if let Some(why) = lacks_memory(len / 2 * 5) {
                for &way in &ways {
                    report.skipped(&names(way, len), &why);
                }
                continue;
            }
            let ask = |_, &way: &Way| fresh::process::<Measured>(&Job { way, len });
            let measured = in_turn(options.repetitions(), &ways, ask)?;
            for (&way, measured) in ways.iter().zip(&measured) {
                row(&mut report, way, len, measured)?;
            }
        }
        report.print();
        Ok(())
    })
}
