//! A program that changes its memory all the time, and saves it to a directory: a base once, and
//! then what changed, every some milliseconds. It may be killed at any moment: the directory has a
//! chain of images that loads, and the next process goes on from it.
//!
//! ```sh
//! cargo run --release --example incremental_backup -- --dir /tmp/backup --size 64M
//! cargo run --release --example incremental_backup -- --verify /tmp/backup
//! ```
//!
//! Between two deltas no snapshot lives, but a mark, which keeps no copies. The bytes can be
//! checked without anything beside them (`records.rs`), so `--verify` knows a chain that lost a
//! page, or has pages of two moments.

#[path = "../common/chain.rs"]
mod chain;
#[cfg(test)]
#[path = "../common/processes.rs"]
mod processes;
#[path = "../common/records.rs"]
mod records;
#[path = "../common/writer.rs"]
mod writer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};
use pagecow::image::{Info, Saver};
use pagecow::{Arena, Engine};

use crate::chain::{Directory, Failure};
use crate::writer::Writer;

/// Save memory that changes all the time: a base, and then what changed.
#[derive(Debug, Parser)]
struct Args {
    /// Save here; go on from the chain that is here, if there is one
    #[arg(long, required_unless_present = "verify")]
    dir: Option<PathBuf>,

    /// Load the chain that is here, check it, and do nothing else
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    verify: Option<PathBuf>,

    /// Bytes of memory, as in 4096K or 64M, where there is no chain to go on from
    #[arg(long, default_value = "64M", value_parser = parse_size)]
    size: usize,

    /// How many deltas to save
    #[arg(long, value_name = "N", default_value_t = 20)]
    deltas: u32,

    /// Time between two deltas
    #[arg(long, value_name = "MS", default_value_t = 200)]
    interval_ms: u64,

    /// How memory is frozen
    #[arg(long, default_value = "best", value_parser = engine_parser())]
    engine: Engine,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    match (&args.verify, &args.dir) {
        (Some(directory), _) => {
            let (last, images) = verify(directory)?;
            println!("{images} images are whole, and hold all up to write {last}");
            Ok(())
        }
        (None, Some(directory)) => back_up(directory, args),
        (None, None) => unreachable!("clap asks for one of them"),
    }
}

/// Loads the chain in a directory and checks that it is of one moment. Returns the number of the
/// last write, and how many images there are.
fn verify(directory: &Path) -> Result<(u64, u32), Failure> {
    let loaded = chain::load(directory, &Arena::builder())?;
    let (arena, images) = loaded.ok_or_else(|| {
        let shown = directory.display();
        format!("there is no chain in {shown}; name a directory that --dir made one in")
    })?;
    Ok((records::check(&arena, arena.page_size())?, images))
}

fn back_up(directory: &Path, args: &Args) -> Result<(), Failure> {
    let saved_in = Directory::open(directory)?;
    let builder = Arena::builder().engine(args.engine);
    let arena = match chain::load(directory, &builder)? {
        Some((arena, _)) => {
            let last = records::check(&arena, arena.page_size())?;
            println!("goes on from write {last}");
            arena
        }
        // Room for the first page and a record.
        None => builder.build(args.size.max(2 * Arena::new(1)?.page_size()))?,
    };
    let writer = Writer::start(arena);

    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{msg:>10} {wide_bar} {pos}/{len} pages",
    )?);
    let (base, last) = writer.snapshot()?;
    let mut mark = base.mark()?;
    let (mut chain, info) = saved_in.begin(&base, shown_by(&bar, "base".to_owned()))?;
    drop(base);
    tell(&bar, last, &info);
    for _ in 0..args.deltas {
        thread::sleep(Duration::from_millis(args.interval_ms));
        let (snapshot, last) = writer.snapshot()?;
        let next = snapshot.mark()?;
        let saver = shown_by(&bar, format!("delta {}", chain.images()));
        let info = chain.add(&snapshot, &mark, saver)?;
        mark = next;
        tell(&bar, last, &info);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Saves with a progress bar.
fn shown_by(bar: &ProgressBar, what: String) -> Saver<'_> {
    bar.set_message(what);
    Saver::new().progress(|progress| {
        bar.set_length(progress.pages_total);
        bar.set_position(progress.pages_done);
    })
}

fn tell(bar: &ProgressBar, last: u64, info: &Info) {
    let kind = info.parent.map_or("base", |_| "delta");
    let (pages, bytes) = (info.pages, info.bytes);
    bar.suspend(|| println!("saved write {last}: {kind}, {pages} pages, {bytes} bytes"));
}

/// An engine by its name, or "best".
fn engine_parser() -> impl TypedValueParser<Value = Engine> {
    let names = Engine::ALL.iter().map(|engine| engine.name());
    PossibleValuesParser::new(names.chain(["best"]))
        .map(|name| name.parse().unwrap_or_else(|_| Engine::best()))
}

fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err("sizes look like 4096, 256M or 1G".into()),
    };
    let number: Option<usize> = digits.parse().ok();
    let size = number.and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| "sizes look like 4096, 256M or 1G".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::{Process, be_the_example};

    #[test]
    fn as_a_process() {
        be_the_example(|args| run(&Args::parse_from(args)).unwrap());
    }

    fn engines() -> impl Iterator<Item = Engine> {
        let there = |engine: &Engine| engine.check().is_ok();
        Engine::ALL.iter().copied().filter(there)
    }

    fn started(directory: &Path, engine: Engine, interval: &str, deltas: &str) -> Process {
        Process::start(&[
            "--dir",
            directory.to_str().unwrap(),
            "--size=1M",
            "--interval-ms",
            interval,
            "--deltas",
            deltas,
            "--engine",
            engine.name(),
        ])
    }

    /// The number in "saved write NUMBER: ...".
    fn number(line: &str) -> u64 {
        line.split(':').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_run_to_the_end_leaves_all_it_has_saved() {
        for engine in engines() {
            let directory = tempfile::tempdir().unwrap();
            let process = started(directory.path(), engine, "5", "6");
            let saved: Vec<_> = std::iter::from_fn(|| process.line("saved write ")).collect();
            assert_eq!(saved.len(), 7, "{engine:?}");
            let last = number(saved.last().unwrap());
            assert_eq!(verify(directory.path()).unwrap(), (last, 7), "{engine:?}");
        }
    }

    #[test]
    fn killed_at_any_moment_it_loses_nothing_that_was_saved() {
        for engine in engines() {
            let directory = tempfile::tempdir().unwrap();
            let mut saved = None;
            for round in 0..8_u64 {
                let process = started(directory.path(), engine, "1", "1000000");
                // In some rounds it is killed while it loads or saves the base.
                for _ in 0..round % 4 {
                    saved = process.line("saved write ").map(|line| number(&line));
                }
                thread::sleep(Duration::from_millis(round * 3));
                saved = process
                    .kill("saved write ")
                    .last()
                    .map(|line| number(line))
                    .or(saved);
                match verify(directory.path()) {
                    Ok((last, _)) => {
                        assert!(Some(last) >= saved, "{engine:?}, round {round}: {last}");
                        saved = Some(last);
                    }
                    Err(error) => {
                        assert!(saved.is_none(), "{engine:?}, round {round}: {error}");
                    }
                }
            }
            assert!(saved.is_some());
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("2M"), Ok(2 << 20));
        for bad in ["", "M", "-1", "1X", "99999999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }
}
