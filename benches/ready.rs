//! What does it cost writers that an arena stands ready for snapshots, while none is taken?
//!
//! `cargo bench --bench ready -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! An arena that stands ready and one that does not are measured in turn, each in a fresh process,
//! after some seconds in which the first has found out what is hot. One thread stores at full
//! speed, to a hot set of 500 pages and to any page: one time in 20 (`busy`), or one time in
//! 20 000 (`everyday`, some 500 times a second). `ratio` is the rate of stores with standing ready,
//! divided by that without. `soft_faults_per_s` and `cost_percent` are its own account of what it
//! costs (`Stats::soft_faults`, `Stats::soft_fault_time`). `open_percent` is the part of the pages
//! that a snapshot would have to arm at the end.

#![allow(unsafe_code, reason = "memory as words")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

mod support;

use support::engines::Engine;
use support::load::Load;
use support::{MIB, Report, each, fresh, in_turn, lacks_memory, mapping, number};

const SIZES: [usize; 2] = [256 * MIB, 1024 * MIB];
const QUICK_SIZES: [usize; 1] = [256 * MIB];
const LOADS: [(&str, u64); 2] = [("busy", 20), ("everyday", 20_000)];
const WARM_UP: Duration = Duration::from_secs(3);
const TIME: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    size_mib: usize,
    load: &'static str,
    stores_per_s: f64,
    stores_per_s_without: f64,
    ratio: f64,
    soft_faults_per_s: f64,
    cost_percent: f64,
    open_percent: f64,
}

/// What a fresh process is to measure.
#[derive(Serialize, Deserialize)]
struct Job {
    engine: Engine,
    len: usize,
    anywhere: u64,
    stand_ready: bool,
}

#[derive(Serialize, Deserialize)]
struct Seen {
    stores_per_s: f64,
    soft_faults_per_s: f64,
    cost_percent: f64,
    open_percent: f64,
}

fn measure(job: &Job) -> Result<Seen, String> {
    let arena = job.engine.ready_arena(job.len, job.stand_ready)?;
    // SAFETY: the arena outlives the words, and is used only for snapshots from here on.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), job.len) };
    let mut load = Load::new(words).with_anywhere(job.anywhere);
    load.burst(WARM_UP);
    let before = arena.stats();
    let begin = Instant::now();
    let mut stores = 0_u64;
    while begin.elapsed() < TIME {
        for _ in 0..1000 {
            load.store();
        }
        stores += 1000;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let after = arena.stats();
    let cost = after.soft_fault_time - before.soft_fault_time;
    let pending = arena.prepare().map_err(|error| error.to_string())?;
    Ok(Seen {
        stores_per_s: stores as f64 / seconds,
        soft_faults_per_s: (after.soft_faults - before.soft_faults) as f64 / seconds,
        cost_percent: cost.as_secs_f64() / seconds * 100.0,
        open_percent: pending.left().pages as f64 / arena.page_count() as f64 * 100.0,
    })
}

fn compare(
    report: &mut Report,
    times: usize,
    engine: Engine,
    len: usize,
    (name, anywhere): (&'static str, u64),
) -> Result<(), String> {
    let ask = |_, &stand_ready: &bool| {
        fresh::process::<Seen>(&Job {
            engine,
            len,
            anywhere,
            stand_ready,
        })
    };
    let seen = in_turn(times, &[false, true], ask)?;
    let (without, with) = (&seen[0], &seen[1]);
    let rate = each(with, |seen| seen.stores_per_s);
    let plain = each(without, |seen| seen.stores_per_s);
    let faults = each(with, |seen| seen.soft_faults_per_s);
    let cost = each(with, |seen| seen.cost_percent);
    let open = each(with, |seen| seen.open_percent);
    let row = Row {
        bench: "ready",
        engine,
        size_mib: len / MIB,
        load: name,
        stores_per_s: rate.median(),
        stores_per_s_without: plain.median(),
        ratio: rate.median() / plain.median(),
        soft_faults_per_s: faults.median(),
        cost_percent: cost.median(),
        open_percent: open.median(),
    };
    let cells = vec![
        engine.name().to_owned(),
        row.size_mib.to_string(),
        name.to_owned(),
        rate.to_string(),
        plain.to_string(),
        format!("{:.3}", row.ratio),
        faults.to_string(),
        cost.to_string(),
        number(row.open_percent),
    ];
    report.row(&row, cells)
}

fn main() -> ExitCode {
    if let Some(code) = fresh::answer(measure) {
        return code;
    }
    support::run("ready", |options| {
        let header = [
            "engine",
            "MiB",
            "load",
            "stores/s",
            "without",
            "ratio",
            "soft faults/s",
            "cost %",
            "open %",
        ];
        let mut report = Report::new(options, 3, &header);
        let mut engines = Engine::available(&mut report);
        // The one without windows arms nothing.
        engines.retain(|engine| engine.has_windows());
        // Each takes seconds.
        let times = options.repetitions().min(5);
        for &len in options.choose(&SIZES, &QUICK_SIZES) {
            for load in LOADS {
                for &engine in &engines {
                    if let Some(why) = lacks_memory(len / 2 * 3) {
                        let names = [engine.name(), &(len / MIB).to_string(), load.0];
                        report.skipped(&names.map(str::to_owned), &why);
                        continue;
                    }
                    compare(&mut report, times, engine, len, load)?;
                }
            }
        }
        report.print();
        Ok(())
    })
}
