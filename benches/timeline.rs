//! What does a writer see, before, during and after a snapshot?
//!
//! `cargo bench --bench timeline -- [--json] [--quick]`: a table, or one JSON object per side and
//! bucket of 2 ms.
//!
//! One thread stores at full speed for 1.2 s, to a hot set of 500 pages and, one time in 20, to any
//! page. All pages are resident, and small. After a third of the time another thread calls
//! `snapshot()`, or `fork()`. The snapshot stays until the end, as does the child, which sleeps.
//! Each side runs five times, in turn, in fresh processes. One whole run of a side is shown: the
//! one with the median worst stall.
//!
//! `at_ms` is when a bucket begins, counted from the call. `stores` are those that ended in the
//! bucket. `worst_us` is the longest time from one store to the next that reaches into it: a stall
//! that lasts for several buckets is in each of them. In the table, the worst stall is that from
//! the call on. The table counts stores for the time before the call, for the first 100 ms after
//! it, and for the rest.

#![allow(unsafe_code, reason = "memory that two threads store to")]

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

mod support;

use support::child::Child;
use support::engines::{Engine, Side};
use support::load::Load;
use support::{MIB, Report, fresh, in_turn, lacks_memory, mapping, number};

const LEN: usize = 1024 * MIB;
const QUICK_LEN: usize = 256 * MIB;
const RUNS: usize = 5;

const WHOLE: Duration = Duration::from_millis(1200);
const CALL: Duration = Duration::from_millis(400);
const SOON_AFTER_MS: f64 = 100.0;

/// The writer counts in finer steps than a bucket, since it does not know when the call will come.
const TICK_US: u64 = 100;
const TICKS_PER_BUCKET: usize = 20;
const BUCKET_MS: f64 = TICK_US as f64 * TICKS_PER_BUCKET as f64 / 1e3;

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    side: &'static str,
    size_mib: usize,
    at_ms: f64,
    stores: u64,
    worst_us: f64,
}

/// What a fresh process is to measure.
#[derive(Serialize, Deserialize)]
struct Job {
    side: Side,
    len: usize,
}

/// What the writer did in a stretch of time.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Bucket {
    stores: u64,
    worst_us: f64,
}

impl Bucket {
    fn add(&mut self, other: &Self) {
        self.stores += other.stores;
        self.worst_us = self.worst_us.max(other.worst_us);
    }
}

/// One run of a side.
#[derive(Serialize, Deserialize)]
struct Run {
    buckets: Vec<Bucket>,
    /// The bucket that begins with the call.
    call: usize,
}

impl Run {
    fn at_ms(&self, bucket: usize) -> f64 {
        (bucket as f64 - self.call as f64) * BUCKET_MS
    }

    fn worst_us(&self) -> f64 {
        let after = &self.buckets[self.call..];
        after
            .iter()
            .map(|bucket| bucket.worst_us)
            .fold(0.0, f64::max)
    }

    fn stores_per_second(&self, buckets: Range<usize>) -> f64 {
        let buckets = &self.buckets[buckets];
        let stores: u64 = buckets.iter().map(|bucket| bucket.stores).sum();
        stores as f64 / (buckets.len() as f64 * BUCKET_MS / 1e3)
    }
}

/// Makes stores until the time is over; returns what was done in each tick since `begin`.
fn write(words: &[AtomicU64], begin: Instant) -> Vec<Bucket> {
    let ticks = WHOLE.as_micros() as usize / TICK_US as usize;
    let mut seen = vec![Bucket::default(); ticks];
    let mut load = Load::new(words);
    loop {
        let took = load.store();
        let end = load.last().saturating_duration_since(begin);
        let tick = |time: Duration| time.as_micros() as usize / TICK_US as usize;
        let (first, last) = (tick(end.saturating_sub(took)), tick(end));
        let took = took.as_nanos() as f64 / 1e3;
        for bucket in &mut seen[first.min(ticks)..(last + 1).min(ticks)] {
            bucket.worst_us = bucket.worst_us.max(took);
        }
        match seen.get_mut(last) {
            Some(bucket) => bucket.stores += 1,
            None => return seen,
        }
    }
}

/// Calls `freeze` beside the writer, and keeps what it made until the end.
fn watch<T>(
    words: &[AtomicU64],
    freeze: impl FnOnce() -> Result<T, String>,
) -> Result<Run, String> {
    let begin = Instant::now();
    let (ticks, call, frozen) = thread::scope(|scope| {
        let writer = scope.spawn(|| write(words, begin));
        thread::sleep(CALL);
        let call = begin.elapsed();
        let frozen = freeze();
        (writer.join(), call, frozen)
    });
    let ticks = ticks.map_err(|_| "the writer panicked".to_owned())?;
    drop(frozen?);
    // Only whole buckets, one of which begins with the call.
    let call = call.as_micros() as usize / TICK_US as usize;
    let whole = ticks.get(call % TICKS_PER_BUCKET..).unwrap_or_default();
    let buckets = whole.chunks_exact(TICKS_PER_BUCKET).map(|ticks| {
        let mut bucket = Bucket::default();
        ticks.iter().for_each(|tick| bucket.add(tick));
        bucket
    });
    let run = Run {
        buckets: buckets.collect(),
        call: call / TICKS_PER_BUCKET,
    };
    if run.call + soon_after() > run.buckets.len() {
        return Err("the call came too late".to_owned());
    }
    Ok(run)
}

/// How many buckets "soon after" the call are.
fn soon_after() -> usize {
    (SOON_AFTER_MS / BUCKET_MS) as usize
}

fn measure_snapshot(len: usize, engine: Engine) -> Result<Run, String> {
    let arena = engine.plain_arena(len)?;
    // SAFETY: the arena outlives the words, and is used only for snapshots from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), len) };
    watch(words, || {
        arena.snapshot().map_err(|error| error.to_string())
    })
}

fn measure_fork(len: usize) -> Result<Run, String> {
    let bytes = mapping::ordinary(len, false)?;
    mapping::fill(bytes);
    // SAFETY: never unmapped, and used only through the words from here on.
    let words = unsafe { mapping::words(bytes.as_mut_ptr(), len) };
    watch(words, Child::sleeping)
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Engine(engine) => engine.name(),
        Side::Fork => "fork",
    }
}

/// The run with the median worst stall.
fn typical(mut runs: Vec<Run>) -> Run {
    runs.sort_by(|one, other| one.worst_us().total_cmp(&other.worst_us()));
    runs.swap_remove(runs.len() / 2)
}

/// The rows of a side. The table for people has one row for them all.
fn rows(report: &mut Report, side: Side, len: usize, run: &Run) -> Result<(), String> {
    for (index, bucket) in run.buckets.iter().enumerate() {
        report.detail(&Row {
            bench: "timeline",
            side: name(side),
            size_mib: len / MIB,
            at_ms: run.at_ms(index),
            stores: bucket.stores,
            worst_us: bucket.worst_us,
        })?;
    }
    let soon = run.call + soon_after();
    let millions = |buckets| number(run.stores_per_second(buckets) / 1e6);
    report.cells(vec![
        name(side).to_owned(),
        (len / MIB).to_string(),
        number(run.worst_us()),
        millions(0..run.call),
        millions(run.call..soon),
        millions(soon..run.buckets.len()),
    ]);
    Ok(())
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.side {
        Side::Engine(engine) => measure_snapshot(job.len, engine),
        Side::Fork => measure_fork(job.len),
    };
    if let Some(code) = fresh::answer(alone) {
        return code;
    }
    support::run("timeline", |options| {
        let header = [
            "side",
            "MiB",
            "worst stall us",
            "million stores per s before",
            "in the 100 ms after",
            "later",
        ];
        let mut report = Report::new(options, 1, &header);
        let engines = Engine::available(&mut report);
        let len = if options.quick { QUICK_LEN } else { LEN };
        if let Some(why) = lacks_memory(len / 2 * 5) {
            report.skipped(&["all".to_owned()], &why);
            report.print();
            return Ok(());
        }
        let sides = Side::of(&engines);
        let ask = |_, &side: &Side| fresh::process::<Run>(&Job { side, len });
        let runs = in_turn(RUNS, &sides, ask)?;
        for (&side, runs) in sides.iter().zip(runs) {
            rows(&mut report, side, len, &typical(runs))?;
        }
        report.print();
        Ok(())
    })
}
