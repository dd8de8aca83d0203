//! For how long does a snapshot stop the writers, and for how long does `fork()`?
//!
//! `cargo bench --bench pause -- [--json] [--quick]`: a table of medians with the least and the most in
//! brackets, or one JSON object per row.
//!
//! Both are measured in fresh processes, in turn, over memory of which every page was written, none of it since
//! a snapshot: the hard case. The child of the fork exits at once. The writer is
//!
//! - `idle`: nobody;
//! - `busy`: another thread that stores at full speed, to a hot set of 500 pages and, one time in 20, to any;
//! - `own-thread`: the same load in the thread that takes the snapshot (or forks), in bursts between the steps
//!   of a [`Pending`](pagecow::Pending) that it commits a burst after that was ready.
//!
//! `commit_us` is what writers see of the commit (`Stats::last_pause`), for `own-thread` the whole call of
//! `commit`; `fork_us` the whole call. `snapshot_us` is all of it, from the first call to the return of the last,
//! with the bursts between them. A stall is the time from one store to the next: the store, what it waits for,
//! and for `own-thread` the steps, the commit or the fork between them; the worst is that from just before the
//! first call to just after the last. Whoever else the machine runs is in these figures, too.

#![allow(unsafe_code, reason = "fork, and memory that two threads store to")]

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use std::{io, thread};

use pagecow::{Arena, Error, Snapshot};
use serde::{Deserialize, Serialize};

mod support;

use support::load::{Busy, Load};
use support::{MIB, Report, Samples, alternate, fresh, known, lacks_memory, mapping, number};

const SIZES: [usize; 4] = [64 * MIB, 256 * MIB, 1024 * MIB, 4096 * MIB];
const QUICK_SIZES: usize = 2;
const ENGINES: [Engine; 1] = [Engine::Mprotect];
const PAGE_KINDS: [bool; 1] = [false];
const WRITERS: [Writer; 3] = [Writer::Idle, Writer::Busy, Writer::OwnThread];

/// How long the writer runs before it is frozen.
const WARM_UP: Duration = Duration::from_millis(30);
/// The event loop of `own-thread`: so long for events, so long for the snapshot, in turn.
const BURST: Duration = Duration::from_micros(200);
const STEP: Duration = Duration::from_micros(200);

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    size_mib: usize,
    huge: bool,
    writer: Writer,
    commit_us: f64,
    snapshot_us: f64,
    worst_writer_stall_us: Option<f64>,
    arm_ms: f64,
    passes: f64,
    fork_us: f64,
    fork_worst_writer_stall_us: Option<f64>,
    pause_speedup: f64,
    stall_speedup: Option<f64>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Engine {
    Mprotect,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Writer {
    Idle,
    Busy,
    OwnThread,
}

impl Writer {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::OwnThread => "own-thread",
        }
    }
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Mprotect => "mprotect",
        }
    }
}

/// What a fresh process is to measure: a fork when no engine is named.
#[derive(Serialize, Deserialize)]
struct Job {
    engine: Option<Engine>,
    len: usize,
    huge: bool,
    writer: Writer,
}

/// One measurement. For a fork, the pause is the call, and nothing is armed.
#[derive(Serialize, Deserialize)]
struct Stop {
    pause_us: f64,
    call_us: f64,
    stall_us: Option<f64>,
    arm_ms: f64,
    passes: f64,
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// Runs `freeze` beside the writer, or in it: it is given the writer to let it run in bursts. Returns how long it
/// took, and the worst stall.
fn freeze_while<T>(
    words: &[AtomicU64],
    writer: Writer,
    freeze: impl FnOnce(Option<&mut Load>, &mut Duration) -> Result<T, String>,
) -> Result<(T, Duration, Option<Duration>), String> {
    let mut worst = Duration::ZERO;
    match writer {
        Writer::Idle => {
            thread::sleep(WARM_UP);
            let begin = Instant::now();
            let frozen = freeze(None, &mut worst)?;
            Ok((frozen, begin.elapsed(), None))
        }
        Writer::Busy => Busy::during(words, |busy| {
            thread::sleep(WARM_UP);
            busy.watch();
            let begin = Instant::now();
            let frozen = freeze(None, &mut worst);
            let took = begin.elapsed();
            let worst = busy.worst();
            Ok((frozen?, took, Some(worst)))
        }),
        Writer::OwnThread => {
            let mut load = Load::new(words);
            load.burst(WARM_UP);
            let begin = Instant::now();
            let frozen = freeze(Some(&mut load), &mut worst)?;
            let took = begin.elapsed();
            worst = worst.max(load.store());
            Ok((frozen, took, Some(worst)))
        }
    }
}

fn measure_snapshot(job: &Job, engine: Engine) -> Result<Stop, String> {
    match engine {
        Engine::Mprotect => {}
    }
    assert!(!job.huge, "arenas of huge pages are not there yet");
    let mut arena = Arena::new(job.len).map_err(|error| error.to_string())?;
    mapping::advise(&mut arena, job.huge);
    mapping::fill(&mut arena);
    // SAFETY: the arena outlives them, and is used for nothing else than snapshots from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), job.len) };
    let mut commit = None;
    let freeze = |load: Option<&mut Load>, worst: &mut Duration| {
        let Some(load) = load else {
            return arena.snapshot().map_err(|error| error.to_string());
        };
        let (snapshot, took) =
            step_and_commit(&arena, load, worst).map_err(|error| error.to_string())?;
        commit = Some(took);
        Ok(snapshot)
    };
    let (snapshot, took, stall) = freeze_while(words, job.writer, freeze)?;
    let stats = arena.stats();
    drop(snapshot);
    Ok(Stop {
        pause_us: micros(commit.unwrap_or(stats.last_pause)),
        call_us: micros(took),
        stall_us: stall.map(micros),
        arm_ms: micros(stats.last_arm) / 1e3,
        passes: stats.last_passes as f64,
    })
}

/// What an event loop does; returns how long the commit took.
fn step_and_commit(
    arena: &Arena,
    load: &mut Load,
    worst: &mut Duration,
) -> Result<(Snapshot, Duration), Error> {
    let mut pending = arena.prepare()?;
    loop {
        pending.step(STEP)?;
        let ready = pending.is_ready();
        *worst = (*worst).max(load.burst(BURST));
        if ready {
            break;
        }
    }
    let begin = Instant::now();
    let snapshot = pending.commit()?;
    Ok((snapshot, begin.elapsed()))
}

fn measure_fork(job: &Job) -> Result<Stop, String> {
    let bytes = mapping::ordinary(job.len, job.huge)?;
    mapping::fill(bytes);
    // SAFETY: mapped for good, and not used otherwise from here on.
    let words = unsafe { mapping::words(bytes.as_mut_ptr(), job.len) };
    let freeze = |_: Option<&mut Load>, _: &mut Duration| {
        let begin = Instant::now();
        // SAFETY: the child ends at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the process, without running anything of it.
            unsafe { libc::_exit(0) };
        }
        let took = begin.elapsed();
        if child < 0 {
            return Err(format!("fork: {}", io::Error::last_os_error()));
        }
        Ok((child, took))
    };
    let ((child, pause), _, stall) = freeze_while(words, job.writer, freeze)?;
    // SAFETY: our own child; how it ended does not matter.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    Ok(Stop {
        pause_us: micros(pause),
        call_us: micros(pause),
        stall_us: stall.map(micros),
        arm_ms: 0.0,
        passes: 0.0,
    })
}

fn compare(
    report: &mut Report,
    times: usize,
    engine: Engine,
    len: usize,
    huge: bool,
    writer: Writer,
) -> Result<(), String> {
    let ask = |engine| {
        fresh::process::<Stop>(&Job {
            engine,
            len,
            huge,
            writer,
        })
    };
    let pairs = alternate(times, || ask(Some(engine)), || ask(None))?;
    let ours = |value: fn(&Stop) -> f64| pairs.iter().map(|pair| value(&pair.0)).collect();
    let forks = |value: fn(&Stop) -> f64| pairs.iter().map(|pair| value(&pair.1)).collect();
    let commit: Samples = ours(|stop| stop.pause_us);
    let whole: Samples = ours(|stop| stop.call_us);
    let arm: Samples = ours(|stop| stop.arm_ms);
    let passes: Samples = ours(|stop| stop.passes);
    let fork: Samples = forks(|stop| stop.pause_us);
    let stalls: Option<(Samples, Samples)> = (writer != Writer::Idle).then(|| {
        let stall = |stop: &Stop| stop.stall_us.unwrap_or(0.0);
        (ours(stall), forks(stall))
    });
    let row = Row {
        bench: "pause",
        engine,
        size_mib: len / MIB,
        huge,
        writer,
        commit_us: commit.median(),
        snapshot_us: whole.median(),
        worst_writer_stall_us: stalls.as_ref().map(|stalls| stalls.0.median()),
        arm_ms: arm.median(),
        passes: passes.median(),
        fork_us: fork.median(),
        fork_worst_writer_stall_us: stalls.as_ref().map(|stalls| stalls.1.median()),
        pause_speedup: fork.median() / commit.median(),
        stall_speedup: stalls
            .as_ref()
            .map(|(ours, forks)| forks.median() / ours.median()),
    };
    let mut cells = names(engine, len, huge, writer);
    cells.extend([
        commit.to_string(),
        fork.to_string(),
        number(row.pause_speedup),
        known(stalls.as_ref().map(|stalls| &stalls.0)),
        known(stalls.as_ref().map(|stalls| &stalls.1)),
        known(row.stall_speedup.map(number)),
        whole.to_string(),
        number(row.arm_ms),
        number(row.passes),
    ]);
    report.row(&row, cells)
}

fn names(engine: Engine, len: usize, huge: bool, writer: Writer) -> Vec<String> {
    vec![
        engine.name().to_owned(),
        (len / MIB).to_string(),
        if huge { "yes" } else { "no" }.to_owned(),
        writer.name().to_owned(),
    ]
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.engine {
        Some(engine) => measure_snapshot(job, engine),
        None => measure_fork(job),
    };
    if let Some(code) = fresh::answer(alone) {
        return code;
    }
    support::run("pause", |options| {
        let header = [
            "engine",
            "MiB",
            "huge",
            "writer",
            "commit us",
            "fork us",
            "speedup",
            "worst stall us",
            "fork's us",
            "speedup",
            "snapshot us",
            "arm ms",
            "passes",
        ];
        let mut report = Report::new(options, 4, &header);
        let sizes = if options.quick {
            &SIZES[..QUICK_SIZES]
        } else {
            &SIZES
        };
        for &len in sizes {
            let lack = lacks_memory(len / 2 * 5);
            for engine in ENGINES {
                for huge in PAGE_KINDS {
                    for writer in WRITERS {
                        if let Some(why) = &lack {
                            report.skipped(names(engine, len, huge, writer), why);
                            continue;
                        }
                        let times = options.repetitions();
                        compare(&mut report, times, engine, len, huge, writer)?;
                    }
                }
            }
        }
        report.print();
        Ok(())
    })
}
