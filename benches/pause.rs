//! For how long does a snapshot stop the writers, and for how long does `fork()`?
//!
//! `cargo bench --bench pause -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! Each engine and fork are measured in turn, each in a fresh process. Every page of the memory was
//! written, and no snapshot was taken before: the hard case. The child of the fork exits at once.
//! With `huge`, the memory is in huge pages on all sides. Where the kernel gave less than nine
//! tenths of them, there is no row. The writer is
//!
//! - `idle`: no thread;
//! - `busy`: another thread that stores at full speed, to a hot set of 500 pages and, one time in
//!   20, to any;
//! - `hot`: the same on another thread, at 10 000 stores a second (500 of them to any page);
//! - `own-thread`: the load of `busy` in the thread that takes the snapshot (or forks), in bursts
//!   between the steps of a [`Pending`](pagecow::Pending). When that is ready (or stalled), the
//!   thread commits it after one more burst.
//!
//! With `stand_ready`, the arena stands ready for snapshots, and the writer runs for three seconds
//! before it is taken (or the process forks) without notice, instead of 30 ms. There `own-hot` is
//! the load of `hot` in the thread that calls `snapshot` (or forks), without any step before.
//! `call_us` is the whole call of `snapshot` there, or of the commit for `own-thread`.
//!
//! `commit_us` is what writers see of the commit (`Stats::last_pause`); for `own-thread` it is the
//! whole call of `commit`. `fork_us` is the whole call of `fork()`. `snapshot_us` is everything
//! from the first call to the return of the last, with the bursts between them. `arm_ms` and
//! `passes` are the part of it that took write permission. A stall is the time from one store to
//! the next: the store, what it waits for, and for `own-thread` the steps, the commit or the fork
//! between them. The worst one is taken from just before the first call to just after the last.
//! Other programs on the machine are in these figures, too.

#![allow(unsafe_code, reason = "memory that two threads store to")]

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use pagecow::{Arena, Error, Snapshot, Window};
use serde::{Deserialize, Serialize};

mod support;

use support::child::Child;
use support::engines::{Engine, Side};
use support::load::{Busy, Load};
use support::{
    MIB, Options, Report, each, fresh, in_turn, known, lacks_memory, mapping, micros, number,
};

const SIZES: [usize; 4] = [64 * MIB, 256 * MIB, 1024 * MIB, 4096 * MIB];
const QUICK_SIZES: [usize; 2] = [64 * MIB, 256 * MIB];
const WRITERS: [Writer; 3] = [Writer::Idle, Writer::Busy, Writer::OwnThread];

/// Where the arena may stand ready.
const READY_SIZES: [usize; 2] = [1024 * MIB, 4096 * MIB];
const QUICK_READY_SIZES: [usize; 1] = [256 * MIB];
const READY_WRITERS: [(Writer, bool); 4] = [
    (Writer::Hot, false),
    (Writer::Hot, true),
    (Writer::OwnHot, true),
    (Writer::Busy, true),
];

/// Of huge pages, with no writer.
const HUGE_SIZES: [usize; 2] = [1024 * MIB, 4096 * MIB];
const QUICK_HUGE_SIZES: [usize; 1] = [256 * MIB];
/// At least this part of the memory must be in huge pages then.
const HUGE_ENOUGH: f64 = 0.9;

/// How long the writer runs before the snapshot or the fork.
const WARM_UP: Duration = Duration::from_millis(30);
/// The same where the arena is to stand ready.
const LONG_WARM_UP: Duration = Duration::from_secs(3);
/// The event loop of `own-thread` takes this long for events and this long for a step, in turn.
const BURST: Duration = Duration::from_micros(200);
const STEP: Duration = Duration::from_micros(200);

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    size_mib: usize,
    huge: bool,
    writer: Writer,
    stand_ready: bool,
    commit_us: f64,
    call_us: f64,
    snapshot_us: f64,
    worst_writer_stall_us: Option<f64>,
    arm_ms: f64,
    passes: f64,
    fork_us: f64,
    fork_worst_writer_stall_us: Option<f64>,
    pause_speedup: f64,
    stall_speedup: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Writer {
    Idle,
    Busy,
    Hot,
    OwnThread,
    OwnHot,
}

impl Writer {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Hot => "hot",
            Self::OwnThread => "own-thread",
            Self::OwnHot => "own-hot",
        }
    }
}

/// Memory and what happens to it.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Case {
    len: usize,
    huge: bool,
    writer: Writer,
    stand_ready: bool,
}

impl Case {
    /// How long the writer runs before.
    fn warm_up(&self) -> Duration {
        if self.stand_ready {
            LONG_WARM_UP
        } else {
            WARM_UP
        }
    }
}

/// What a fresh process is to measure.
#[derive(Serialize, Deserialize)]
struct Job {
    side: Side,
    case: Case,
}

/// One measurement. For a fork, the pause is the call, and nothing is armed.
#[derive(Serialize, Deserialize)]
struct Stop {
    pause_us: f64,
    call_us: f64,
    /// From the first call to the last.
    whole_us: f64,
    stall_us: Option<f64>,
    arm_ms: f64,
    passes: f64,
    /// Which part of the memory was in huge pages.
    huge_share: f64,
}

/// Runs `freeze` beside the writer, or in the writer's own thread: then `freeze` gets the writer
/// and lets it run in bursts. Returns how long `freeze` took, and the worst stall.
fn freeze_while<T>(
    words: &[AtomicU64],
    case: &Case,
    freeze: impl FnOnce(Option<&mut Load>, &mut Duration) -> Result<T, String>,
) -> Result<(T, Duration, Option<Duration>), String> {
    let mut worst = Duration::ZERO;
    let warm_up = case.warm_up();
    match case.writer {
        Writer::Idle => {
            thread::sleep(warm_up);
            let begin = Instant::now();
            let frozen = freeze(None, &mut worst)?;
            Ok((frozen, begin.elapsed(), None))
        }
        Writer::Busy | Writer::Hot => {
            let beside = |busy: &Busy| {
                thread::sleep(warm_up);
                busy.watch();
                let begin = Instant::now();
                let frozen = freeze(None, &mut worst);
                let took = begin.elapsed();
                let worst = busy.worst();
                Ok((frozen?, took, Some(worst)))
            };
            match case.writer {
                Writer::Busy => Busy::during(words, beside),
                _ => Busy::during_paced(words, beside),
            }
        }
        Writer::OwnThread | Writer::OwnHot => {
            let mut load = Load::new(words);
            let is_paced = case.writer == Writer::OwnHot;
            if is_paced {
                load.paced(warm_up);
            } else {
                load.burst(warm_up);
            }
            let begin = Instant::now();
            let frozen = freeze((!is_paced).then_some(&mut load), &mut worst)?;
            let took = begin.elapsed();
            worst = worst.max(load.store());
            Ok((frozen, took, Some(worst)))
        }
    }
}

fn measure_snapshot(case: &Case, engine: Engine) -> Result<Stop, String> {
    let arena = if case.huge {
        engine.arena(case.len, true, Window::default())?
    } else {
        engine.ready_arena(case.len, case.stand_ready)?
    };
    let huge_share = mapping::huge_share(&arena)?;
    // SAFETY: the arena outlives the words, and is used only for snapshots from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), case.len) };
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
    let (snapshot, took, stall) = freeze_while(words, case, freeze)?;
    let timings = snapshot.timings();
    drop(snapshot);
    Ok(Stop {
        pause_us: micros(commit.unwrap_or(timings.stop)),
        call_us: micros(commit.unwrap_or(took)),
        whole_us: micros(took),
        stall_us: stall.map(micros),
        arm_ms: micros(timings.arm) / 1e3,
        passes: timings.passes as f64,
        huge_share,
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
        // A loop that writes as fast as steps arm commits what is left.
        let ready = pending.is_ready() || pending.is_stalled();
        *worst = (*worst).max(load.burst(BURST));
        if ready {
            break;
        }
    }
    let begin = Instant::now();
    let snapshot = pending.commit()?;
    Ok((snapshot, begin.elapsed()))
}

fn measure_fork(case: &Case) -> Result<Stop, String> {
    let bytes = mapping::ordinary(case.len, case.huge)?;
    mapping::fill(bytes);
    let huge_share = mapping::huge_share(bytes)?;
    // SAFETY: never unmapped, and used only through the words from here on.
    let words = unsafe { mapping::words(bytes.as_mut_ptr(), case.len) };
    let freeze = |_: Option<&mut Load>, _: &mut Duration| Child::short();
    let ((child, pause), _, stall) = freeze_while(words, case, freeze)?;
    drop(child);
    Ok(Stop {
        pause_us: micros(pause),
        call_us: micros(pause),
        whole_us: micros(pause),
        stall_us: stall.map(micros),
        arm_ms: 0.0,
        passes: 0.0,
        huge_share,
    })
}

fn compare(
    report: &mut Report,
    times: usize,
    engines: &[Engine],
    case: Case,
) -> Result<(), String> {
    let sides = Side::of(engines);
    let ask = |_, &side: &Side| fresh::process::<Stop>(&Job { side, case });
    let stops = in_turn(times, &sides, ask)?;
    let (forks, ours) = stops.split_first().expect("fork is the first side");
    for (&engine, ours) in engines.iter().zip(ours) {
        let shares = ours.iter().chain(forks).map(|stop| stop.huge_share);
        let share = shares.fold(1.0, f64::min);
        if case.huge && share < HUGE_ENOUGH {
            let why = format!("{:.0} % of the memory was in huge pages", share * 100.0);
            report.skipped(&names(engine, case), &why);
            continue;
        }
        row(report, engine, case, ours, forks)?;
    }
    Ok(())
}

fn row(
    report: &mut Report,
    engine: Engine,
    case: Case,
    ours: &[Stop],
    forks: &[Stop],
) -> Result<(), String> {
    let commit = each(ours, |stop| stop.pause_us);
    let call = each(ours, |stop| stop.call_us);
    let whole = each(ours, |stop| stop.whole_us);
    let arm = each(ours, |stop| stop.arm_ms);
    let passes = each(ours, |stop| stop.passes);
    let fork = each(forks, |stop| stop.pause_us);
    let stalls = (case.writer != Writer::Idle).then(|| {
        let stall = |stop: &Stop| stop.stall_us.unwrap_or(f64::NAN);
        (each(ours, stall), each(forks, stall))
    });
    let row = Row {
        bench: "pause",
        engine,
        size_mib: case.len / MIB,
        huge: case.huge,
        writer: case.writer,
        stand_ready: case.stand_ready,
        commit_us: commit.median(),
        call_us: call.median(),
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
    let mut cells = names(engine, case);
    cells.extend([
        commit.to_string(),
        fork.to_string(),
        number(row.pause_speedup),
        known(stalls.as_ref().map(|stalls| &stalls.0)),
        known(stalls.as_ref().map(|stalls| &stalls.1)),
        known(row.stall_speedup.map(number)),
        call.to_string(),
        whole.to_string(),
        number(row.arm_ms),
        number(row.passes),
    ]);
    report.row(&row, cells)
}

fn names(engine: Engine, case: Case) -> Vec<String> {
    vec![
        engine.name().to_owned(),
        (case.len / MIB).to_string(),
        if case.huge { "yes" } else { "no" }.to_owned(),
        case.writer.name().to_owned(),
        if case.stand_ready { "yes" } else { "no" }.to_owned(),
    ]
}

/// All that is compared, small pages first.
fn cases(options: &Options) -> Vec<Case> {
    let sizes = options.choose(&SIZES, &QUICK_SIZES);
    let huge_sizes = options.choose(&HUGE_SIZES, &QUICK_HUGE_SIZES);
    let small = sizes.iter().flat_map(|&len| {
        WRITERS.map(|writer| Case {
            len,
            huge: false,
            writer,
            stand_ready: false,
        })
    });
    let ready_sizes = options.choose(&READY_SIZES, &QUICK_READY_SIZES);
    let ready = ready_sizes.iter().flat_map(|&len| {
        READY_WRITERS.map(|(writer, stand_ready)| Case {
            len,
            huge: false,
            writer,
            stand_ready,
        })
    });
    let huge = huge_sizes.iter().map(|&len| Case {
        len,
        huge: true,
        writer: Writer::Idle,
        stand_ready: false,
    });
    small.chain(ready).chain(huge).collect()
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.side {
        Side::Engine(engine) => measure_snapshot(&job.case, engine),
        Side::Fork => measure_fork(&job.case),
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
            "stand ready",
            "commit us",
            "fork us",
            "speedup",
            "worst stall us",
            "fork's us",
            "speedup",
            "call us",
            "snapshot us",
            "arm ms",
            "passes",
        ];
        let mut report = Report::new(options, 5, &header);
        let engines = Engine::available(&mut report);
        for case in cases(options) {
            if let Some(why) = lacks_memory(case.len / 2 * 5) {
                for &engine in &engines {
                    report.skipped(&names(engine, case), &why);
                }
                continue;
            }
            let times = options.repetitions();
            let times = if case.stand_ready {
                times.min(5)
            } else {
                times
            };
            compare(&mut report, times, &engines, case)?;
        }
        report.print();
        Ok(())
    })
}
