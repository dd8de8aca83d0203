//! How do first writes scale with writer threads and live snapshots, and what does dropping a
//! snapshot cost?
//!
//! `cargo bench --bench scale -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! The snapshots are taken of memory that was written. Then the threads share its pages out and
//! store to each page once, in random order. `ns_per_write` is the time until the last thread is
//! done, divided by the pages: on as many processors as there are threads, perfect scaling halves
//! it with each doubling. `fork_ns_per_write` is the same after as many forks, whose children
//! sleep. Both take turns, each in a fresh process.
//!
//! Then the snapshots are dropped, newest first, which is the most expensive order: each but the
//! last hands all its copies down to the next older one (`hand_down_ns_per_copy`, the mean over
//! these). The last one frees them (`drop_ns_per_copy`).

#![allow(unsafe_code, reason = "memory as words")]

use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

mod support;

use support::child::Child;
use support::engines::{Engine, Side};
use support::{MIB, Report, Samples, each, fresh, in_turn, known, lacks_memory, mapping, number};

const THREADS: [usize; 3] = [1, 2, 4];
const SNAPSHOTS: [usize; 3] = [1, 4, 16];

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    threads: usize,
    snapshots: usize,
    size_mib: usize,
    ns_per_write: f64,
    fork_ns_per_write: f64,
    cost_ratio: f64,
    hand_down_ns_per_copy: Option<f64>,
    drop_ns_per_copy: f64,
}

#[derive(Serialize, Deserialize)]
struct Job {
    side: Side,
    threads: usize,
    snapshots: usize,
    len: usize,
}

#[derive(Serialize, Deserialize)]
struct Cost {
    write_ns: f64,
    /// Per copy. A fork has no copies.
    hand_down_ns: f64,
    drop_ns: f64,
}

/// Stores to all pages; returns nanoseconds per page.
fn write_all(words: &[AtomicU64], threads: usize) -> f64 {
    let words_per_page = region::page::size() / 8;
    let mut order: Vec<usize> = (0..words.len() / words_per_page).collect();
    order.shuffle(&mut StdRng::seed_from_u64(1));
    let start = Barrier::new(threads + 1);
    let begin = thread::scope(|scope| {
        for share in order.chunks(order.len().div_ceil(threads)) {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                for page in share {
                    words[page * words_per_page].store(1, Relaxed);
                }
            });
        }
        // No thread starts before the clock does.
        let begin = Instant::now();
        start.wait();
        begin
    });
    begin.elapsed().as_secs_f64() * 1e9 / order.len() as f64
}

fn measure_snapshots(job: &Job, engine: Engine) -> Result<Cost, String> {
    let arena = engine.plain_arena(job.len)?;
    let snapshots: Result<Vec<_>, _> = (0..job.snapshots).map(|_| arena.snapshot()).collect();
    let mut snapshots = snapshots.map_err(|error| error.to_string())?;
    // SAFETY: the arena outlives the words, and is used only through them from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), job.len) };
    let write_ns = write_all(words, job.threads);

    let pages = arena.page_count() as u64;
    let held = snapshots
        .iter()
        .map(|snapshot| snapshot.stats().pages_saved);
    if arena.stats().pages_saved != pages || held.sum::<u64>() != pages * job.snapshots as u64 {
        return Err("not every page was saved once, for all snapshots together".to_owned());
    }
    let oldest = snapshots.remove(0);
    let handed_down = pages * snapshots.len() as u64;
    let hand_down_ns = nanoseconds(handed_down.max(1), || {
        while let Some(newest) = snapshots.pop() {
            drop(newest);
        }
    });
    Ok(Cost {
        write_ns,
        hand_down_ns,
        drop_ns: nanoseconds(pages, || drop(oldest)),
    })
}

/// How long `act` took for each of `copies`.
fn nanoseconds(copies: u64, act: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    act();
    begin.elapsed().as_secs_f64() * 1e9 / copies as f64
}

fn measure_fork(job: &Job) -> Result<Cost, String> {
    let bytes = mapping::ordinary(job.len, false)?;
    mapping::fill(bytes);
    // SAFETY: never unmapped, and used only through the words from here on.
    let words = unsafe { mapping::words(bytes.as_mut_ptr(), job.len) };
    let children = (0..job.snapshots)
        .map(|_| Child::sleeping())
        .collect::<Result<Vec<_>, _>>()?;
    let write_ns = write_all(words, job.threads);
    drop(children);
    Ok(Cost {
        write_ns,
        hand_down_ns: 0.0,
        drop_ns: 0.0,
    })
}

fn compare(
    report: &mut Report,
    times: usize,
    engines: &[Engine],
    threads: usize,
    snapshots: usize,
    len: usize,
) -> Result<(), String> {
    let sides = Side::of(engines);
    let ask = |_, &side: &Side| {
        fresh::process::<Cost>(&Job {
            side,
            threads,
            snapshots,
            len,
        })
    };
    let costs = in_turn(times, &sides, ask)?;
    let (forks, ours) = costs.split_first().expect("fork is the first side");
    let forks = each(forks, |cost| cost.write_ns);
    for (&engine, ours) in engines.iter().zip(ours) {
        let writing = each(ours, |cost| cost.write_ns);
        let dropping = each(ours, |cost| cost.drop_ns);
        let handing = (snapshots > 1).then(|| each(ours, |cost| cost.hand_down_ns));
        let row = Row {
            bench: "scale",
            engine,
            threads,
            snapshots,
            size_mib: len / MIB,
            ns_per_write: writing.median(),
            fork_ns_per_write: forks.median(),
            cost_ratio: writing.median() / forks.median(),
            hand_down_ns_per_copy: handing.as_ref().map(Samples::median),
            drop_ns_per_copy: dropping.median(),
        };
        let mut cells = names(engine, threads, snapshots);
        cells.extend([
            row.size_mib.to_string(),
            writing.to_string(),
            forks.to_string(),
            number(row.cost_ratio),
            known(handing.as_ref()),
            dropping.to_string(),
        ]);
        report.row(&row, cells)?;
    }
    Ok(())
}

fn names(engine: Engine, threads: usize, snapshots: usize) -> Vec<String> {
    vec![
        engine.name().to_owned(),
        threads.to_string(),
        snapshots.to_string(),
    ]
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.side {
        Side::Engine(engine) => measure_snapshots(job, engine),
        Side::Fork => measure_fork(job),
    };
    if let Some(code) = fresh::answer(alone) {
        return code;
    }
    support::run("scale", |options| {
        let header = [
            "engine",
            "threads",
            "snapshots",
            "MiB",
            "ns per first write",
            "fork's",
            "ratio",
            "hand down, ns per copy",
            "drop, ns per copy",
        ];
        let mut report = Report::new(options, 3, &header);
        let len = if options.quick { 32 * MIB } else { 128 * MIB };
        let engines = Engine::available(&mut report);
        for threads in THREADS {
            for snapshots in SNAPSHOTS {
                if let Some(why) = lacks_memory(4 * len) {
                    for &engine in &engines {
                        report.skipped(&names(engine, threads, snapshots), &why);
                    }
                    continue;
                }
                let times = options.repetitions();
                compare(&mut report, times, &engines, threads, snapshots, len)?;
            }
        }
        report.print();
        Ok(())
    })
}
