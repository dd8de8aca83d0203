//! What does each of many small arenas cost?
//!
//! `cargo bench --bench many -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! Arenas of 64 KiB are made, a snapshot of each is taken, a byte of each is written, and all are
//! dropped. Each time is that of the whole divided by the number of arenas (`make_us`,
//! `snapshot_us`, `write_us`, `drop_us`: a snapshot and its arena). The baseline `mmap_us` makes
//! plain mappings of the same size, each between two forbidden pages as an arena is, and writes a
//! byte of each. The sides take turns, each in a fresh process.
//!
//! `bookkeeping_kib` is the memory that was resident for each arena after its snapshot, less the
//! one page that making the arena had written. `mappings` is how many more mappings the process had
//! then, for each arena.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use pagecow::{Arena, Snapshot};
use serde::{Deserialize, Serialize};

mod support;

use support::engines::Engine;
use support::{Report, each, fresh, in_turn, mapping, number};

const LEN: usize = 64 << 10;
/// The most mappings that an arena may need.
const MAPPINGS: usize = 5;

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    arenas: usize,
    make_us: f64,
    mmap_us: f64,
    cost_ratio: f64,
    snapshot_us: f64,
    write_us: f64,
    drop_us: f64,
    bookkeeping_kib: f64,
    mappings: f64,
}

#[derive(Serialize, Deserialize)]
struct Job {
    /// `None`: plain mappings.
    engine: Option<Engine>,
    arenas: usize,
}

/// For each arena.
#[derive(Default, Serialize, Deserialize)]
struct Cost {
    make_us: f64,
    snapshot_us: f64,
    write_us: f64,
    drop_us: f64,
    bookkeeping_kib: f64,
    mappings: f64,
}

/// What `act` makes, and the microseconds that it took for each of `count`.
fn timed<T>(count: usize, act: impl FnOnce() -> Result<T, String>) -> Result<(T, f64), String> {
    let begin = Instant::now();
    let made = act()?;
    Ok((made, begin.elapsed().as_secs_f64() * 1e6 / count as f64))
}

fn measure(job: &Job) -> Result<Cost, String> {
    let count = job.arenas;
    let Some(engine) = job.engine else {
        return measure_plain(count);
    };
    // The first arena makes what a process has once. That is not counted.
    drop(engine.untouched_arena(LEN)?);
    let resident = mapping::resident_kib()?;
    let mappings = mapping::count()?;

    let (mut arenas, make_us) = timed(count, || {
        (0..count)
            .map(|_| engine.untouched_arena(LEN))
            .collect::<Result<Vec<Arena>, _>>()
    })?;
    let (snapshots, snapshot_us) = timed(count, || {
        let taken: Result<Vec<Snapshot>, _> = arenas.iter().map(Arena::snapshot).collect();
        taken.map_err(|error| error.to_string())
    })?;
    let own = region::page::size() as f64 / 1024.0;
    let each_has = |before: usize, now: usize| (now as f64 - before as f64) / count as f64;
    let bookkeeping_kib = each_has(resident, mapping::resident_kib()?) - own;
    let mappings = each_has(mappings, mapping::count()?);

    let ((), write_us) = timed(count, || {
        arenas.iter_mut().for_each(|arena| arena[LEN / 2] = 1);
        Ok(())
    })?;
    if arenas.iter().any(|arena| arena.stats().pages_saved != 1) {
        return Err("not every write saved its page".to_owned());
    }
    let ((), drop_us) = timed(count, || {
        drop((snapshots, arenas));
        Ok(())
    })?;
    Ok(Cost {
        make_us,
        snapshot_us,
        write_us,
        drop_us,
        bookkeeping_kib,
        mappings,
    })
}

fn measure_plain(count: usize) -> Result<Cost, String> {
    let (made, make_us) = timed(count, || {
        (0..count)
            .map(|_| mapping::between_forbidden_pages(LEN))
            .collect::<Result<Vec<_>, _>>()
    })?;
    black_box(made);
    Ok(Cost {
        make_us,
        ..Cost::default()
    })
}

fn compare(
    report: &mut Report,
    times: usize,
    engines: &[Engine],
    arenas: usize,
) -> Result<(), String> {
    let ours = engines.iter().copied().map(Some);
    let sides: Vec<Option<Engine>> = std::iter::once(None).chain(ours).collect();
    let costs = in_turn(times, &sides, |_, &engine| {
        fresh::process::<Cost>(&Job { engine, arenas })
    })?;
    let (plain, ours) = costs
        .split_first()
        .expect("plain mappings are the first side");
    let plain = each(plain, |cost| cost.make_us);
    for (&engine, ours) in engines.iter().zip(ours) {
        let making = each(ours, |cost| cost.make_us);
        let taking = each(ours, |cost| cost.snapshot_us);
        let writing = each(ours, |cost| cost.write_us);
        let dropping = each(ours, |cost| cost.drop_us);
        let row = Row {
            bench: "many",
            engine,
            arenas,
            make_us: making.median(),
            mmap_us: plain.median(),
            cost_ratio: making.median() / plain.median(),
            snapshot_us: taking.median(),
            write_us: writing.median(),
            drop_us: dropping.median(),
            bookkeeping_kib: each(ours, |cost| cost.bookkeeping_kib).median(),
            mappings: each(ours, |cost| cost.mappings).median(),
        };
        let cells = vec![
            engine.name().to_owned(),
            arenas.to_string(),
            making.to_string(),
            plain.to_string(),
            number(row.cost_ratio),
            taking.to_string(),
            writing.to_string(),
            dropping.to_string(),
            number(row.bookkeeping_kib),
            number(row.mappings),
        ];
        report.row(&row, cells)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    if let Some(code) = fresh::answer(measure) {
        return code;
    }
    support::run("many", |options| {
        let header = [
            "engine",
            "arenas",
            "make, us each",
            "mmap's",
            "ratio",
            "snapshot, us",
            "first write, us",
            "drop, us",
            "bookkeeping, KiB",
            "mappings",
        ];
        let mut report = Report::new(options, 2, &header);
        let engines = Engine::available(&mut report);
        for &arenas in options.choose(&[100, 1000, 10_000], &[1000, 10_000]) {
            if let Some(why) = mapping::lacks_mappings(arenas * MAPPINGS) {
                report.skipped(&[arenas.to_string()], &why);
                continue;
            }
            compare(&mut report, options.repetitions(), &engines, arenas)?;
        }
        report.print();
        Ok(())
    })
}
