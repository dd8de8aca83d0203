//! What does a snapshot cost on a busy machine?
//!
//! `cargo bench --bench loaded -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! Each engine and fork are measured in turn, each in a fresh process. Every page of the memory was
//! written. Threads store to words anywhere in it at full speed (`writers`), and other processes
//! keep processors busy with nothing else to do (`hogs`). No thread and no process is bound to a
//! processor. With `older_alive` another snapshot was taken before the writers started, and still
//! lives.
//!
//! `call_ms` is the whole call of `snapshot()`, `stop_us` is what writers see of it
//! (`Stats::last_pause`), `passes` are those over the arena in which it was armed ahead. `fork_ms`
//! is the whole call of `fork()` beside the same writers and hogs. No other child lives then, and
//! the new one exits at once.

#![allow(unsafe_code, reason = "memory that several threads store to")]

use std::hint;
use std::io::{self, Read};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

mod support;

use support::child::Child;
use support::engines::Engine;
use support::load::Random;
use support::{MIB, Report, Samples, each, fresh, in_turn, lacks_memory, mapping, micros};

const SIZES: [usize; 2] = [64 * MIB, 256 * MIB];
const QUICK_SIZES: [usize; 1] = [64 * MIB];
const WRITERS: [usize; 2] = [1, 4];
const HOGS: [usize; 2] = [0, 2];

/// How long the writers run before the snapshot or the fork.
const WARM_UP: Duration = Duration::from_millis(100);

/// First argument of a process that only keeps a processor busy.
const HOG: &str = "--hog";

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    size_mib: usize,
    writers: usize,
    hogs: usize,
    older_alive: bool,
    call_ms: f64,
    stop_us: f64,
    passes: f64,
    fork_ms: f64,
}

/// Memory, and what runs beside the call.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Case {
    len: usize,
    writers: usize,
    hogs: usize,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Side {
    Fork,
    Snapshot { engine: Engine, older_alive: bool },
}

/// What a fresh process is to measure.
#[derive(Serialize, Deserialize)]
struct Job {
    side: Side,
    case: Case,
}

/// One measurement. For a fork there is only the call.
#[derive(Serialize, Deserialize)]
struct Taken {
    call_ms: f64,
    stop_us: f64,
    passes: f64,
}

/// Runs `act` while this number of threads store to random words. They start a while before.
fn beside_writers<T>(
    words: &[AtomicU64],
    writers: usize,
    act: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let stop = AtomicBool::new(false);
    let write = |seed: usize| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed as u64);
        while !stop.load(Relaxed) {
            words[random.below(words.len())].store(random.0, Relaxed);
        }
    };
    thread::scope(|scope| {
        for writer in 0..writers {
            scope.spawn(move || write(writer));
        }
        thread::sleep(WARM_UP);
        let result = act();
        stop.store(true, Relaxed);
        result
    })
}

fn measure_snapshot(case: &Case, engine: Engine, older_alive: bool) -> Result<Taken, String> {
    let arena = engine.plain_arena(case.len)?;
    let snapshot = || arena.snapshot().map_err(|error| error.to_string());
    let older = older_alive.then(snapshot).transpose()?;
    // SAFETY: the arena outlives the words, and is used only for snapshots from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), case.len) };
    let taken = beside_writers(words, case.writers, || {
        let begin = Instant::now();
        let snapshot = snapshot()?;
        let took = begin.elapsed();
        let stats = arena.stats();
        drop(snapshot);
        Ok(Taken {
            call_ms: micros(took) / 1e3,
            stop_us: micros(stats.last_pause),
            passes: stats.last_passes as f64,
        })
    });
    drop(older);
    taken
}

fn measure_fork(case: &Case) -> Result<Taken, String> {
    let bytes = mapping::ordinary(case.len, false)?;
    mapping::fill(bytes);
    // SAFETY: never unmapped, and used only through the words from here on.
    let words = unsafe { mapping::words(bytes.as_mut_ptr(), case.len) };
    let (child, took) = beside_writers(words, case.writers, Child::short)?;
    drop(child);
    Ok(Taken {
        call_ms: micros(took) / 1e3,
        stop_us: 0.0,
        passes: 0.0,
    })
}

/// Processes that keep processors busy until this is dropped or this process ends.
struct Hogs(Vec<std::process::Child>);

impl Hogs {
    fn start(count: usize) -> Result<Self, String> {
        let mut hogs = Self(Vec::new());
        for _ in 0..count {
            let hog = std::env::current_exe().and_then(|program| {
                // It ends when its standard input does.
                Command::new(program).arg(HOG).stdin(Stdio::piped()).spawn()
            });
            hogs.0.push(hog.map_err(|error| format!("hog: {error}"))?);
        }
        Ok(hogs)
    }

    /// The life of such a process, if this is one.
    fn live() -> Option<ExitCode> {
        if std::env::args().nth(1)? != HOG {
            return None;
        }
        let waits = thread::spawn(|| io::stdin().read(&mut [0]));
        while !waits.is_finished() {
            for _ in 0..1 << 16 {
                hint::black_box(());
            }
        }
        Some(ExitCode::SUCCESS)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

fn compare(
    report: &mut Report,
    times: usize,
    engines: &[Engine],
    case: Case,
) -> Result<(), String> {
    let ours = engines
        .iter()
        .flat_map(|&engine| [false, true].map(|older_alive| (engine, older_alive)));
    let sides: Vec<Side> = std::iter::once(Side::Fork)
        .chain(ours.clone().map(|(engine, older_alive)| Side::Snapshot {
            engine,
            older_alive,
        }))
        .collect();
    let hogs = Hogs::start(case.hogs)?;
    let ask = |_, &side: &Side| fresh::process::<Taken>(&Job { side, case });
    let taken = in_turn(times, &sides, ask)?;
    drop(hogs);
    let (forks, taken) = taken.split_first().expect("fork is the first side");
    let fork = each(forks, |fork| fork.call_ms);
    for ((engine, older_alive), taken) in ours.zip(taken) {
        row(report, engine, older_alive, case, taken, &fork)?;
    }
    Ok(())
}

fn row(
    report: &mut Report,
    engine: Engine,
    older_alive: bool,
    case: Case,
    taken: &[Taken],
    fork: &Samples,
) -> Result<(), String> {
    let call = each(taken, |taken| taken.call_ms);
    let stop = each(taken, |taken| taken.stop_us);
    let passes = each(taken, |taken| taken.passes);
    let row = Row {
        bench: "loaded",
        engine,
        size_mib: case.len / MIB,
        writers: case.writers,
        hogs: case.hogs,
        older_alive,
        call_ms: call.median(),
        stop_us: stop.median(),
        passes: passes.median(),
        fork_ms: fork.median(),
    };
    let mut cells = names(engine, case).to_vec();
    cells.push(if older_alive { "yes" } else { "no" }.to_owned());
    cells.extend([&call, fork, &stop, &passes].map(Samples::to_string));
    report.row(&row, cells)
}

fn names(engine: Engine, case: Case) -> [String; 4] {
    [
        engine.name().to_owned(),
        (case.len / MIB).to_string(),
        case.writers.to_string(),
        case.hogs.to_string(),
    ]
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.side {
        Side::Fork => measure_fork(&job.case),
        Side::Snapshot {
            engine,
            older_alive,
        } => measure_snapshot(&job.case, engine, older_alive),
    };
    if let Some(code) = Hogs::live().or_else(|| fresh::answer(alone)) {
        return code;
    }
    support::run("loaded", |options| {
        let header = [
            "engine",
            "MiB",
            "writers",
            "hogs",
            "older alive",
            "call ms",
            "fork ms",
            "stop us",
            "passes",
        ];
        let mut report = Report::new(options, 5, &header);
        let engines = Engine::available(&mut report);
        for &len in options.choose(&SIZES, &QUICK_SIZES) {
            for writers in WRITERS {
                for hogs in HOGS {
                    let case = Case { len, writers, hogs };
                    // An older snapshot's copies and those of the one that is measured.
                    if let Some(why) = lacks_memory(4 * len) {
                        for &engine in &engines {
                            report.skipped(&names(engine, case), &why);
                        }
                        continue;
                    }
                    compare(&mut report, options.repetitions(), &engines, case)?;
                }
            }
        }
        report.print();
        Ok(())
    })
}
