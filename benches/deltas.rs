//! How many bytes do deltas take, where full images would be saved?
//!
//! `cargo bench --bench deltas -- [--json] [--quick]`: a program stores 8 bytes at a time, saves,
//! stores again, and so on, with a full image each time and with a base and deltas. A table with
//! the sums up to some of the saves, or one JSON object for each. They are counts, the same on each
//! run.
//!
//! - `uniform`: any word of the arena is as likely as any other;
//! - `skewed`: pages are chosen by Zipf's law with exponent 1, in no order: some are hot.
//!
//! Between two saves there are as many stores as a 20th of the pages. Each word of the arena is
//! filled before, so that full images have all pages.

use std::collections::BTreeSet;
use std::io::sink;
use std::process::ExitCode;

use pagecow::image;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use serde::Serialize;

mod support;

use support::engines::Engine;
use support::{MIB, Report, number, said};

const SAVES: usize = 20;
/// As many stores between two saves as the pages divided by this.
const SHARE: usize = 20;

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    case: &'static str,
    size_mib: usize,
    save: usize,
    /// How many pages were stored to since the save before.
    pages_written: usize,
    /// Of a base and the deltas up to this save, together.
    delta_bytes: u64,
    /// Of full images up to this save, together.
    full_bytes: u64,
}

fn measure(engine: Engine, case: &'static str, len: usize) -> Result<Vec<Row>, String> {
    let mut arena = engine.untouched_arena(len)?;
    let mut rng = StdRng::seed_from_u64(8);
    for word in arena.as_chunks_mut::<8>().0 {
        *word = rng.random::<u64>().to_ne_bytes();
    }
    let page_size = arena.page_size();
    let mut pages: Vec<usize> = (0..arena.page_count()).collect();
    pages.shuffle(&mut rng);
    let zipf = Zipf::new(pages.len() as f64, 1.0).map_err(said)?;
    let any_page = |rng: &mut StdRng| match case {
        "skewed" => pages[zipf.sample(rng) as usize - 1],
        _ => rng.random_range(0..pages.len()),
    };

    let mut rows = Vec::new();
    let (mut delta_bytes, mut full_bytes) = (0, 0);
    let mut last = None;
    for save in 0..=SAVES {
        let mut written = BTreeSet::new();
        if save > 0 {
            for _ in 0..arena.page_count() / SHARE {
                let page = any_page(&mut rng);
                let at = page * page_size + rng.random_range(0..page_size / 8) * 8;
                let value: u64 = rng.random();
                arena[at..at + 8].copy_from_slice(&value.to_ne_bytes());
                written.insert(page);
            }
        }
        let snapshot = arena.snapshot().map_err(said)?;
        let full = image::write_to(&snapshot, sink()).map_err(said)?;
        full_bytes += full.bytes;
        delta_bytes += match &last {
            None => full.bytes,
            Some(last) => {
                let delta = image::write_delta_to(&snapshot, last, sink()).map_err(said)?;
                delta.bytes
            }
        };
        last = Some(snapshot);
        rows.push(Row {
            bench: "deltas",
            engine,
            case,
            size_mib: len / MIB,
            save,
            pages_written: written.len(),
            delta_bytes,
            full_bytes,
        });
    }
    Ok(rows)
}

fn main() -> ExitCode {
    support::run("deltas", |options| {
        let header = [
            "engine",
            "case",
            "MiB",
            "save",
            "pages written",
            "deltas MiB",
            "full MiB",
            "ratio",
        ];
        let mut report = Report::new(options, 2, &header);
        let len = if options.quick { 32 * MIB } else { 256 * MIB };
        let mib = |bytes: u64| number(bytes as f64 / MIB as f64);
        for engine in Engine::available(&mut report) {
            for case in ["uniform", "skewed"] {
                for row in measure(engine, case, len)? {
                    if ![1, 5, SAVES].contains(&row.save) {
                        report.detail(&row)?;
                        continue;
                    }
                    let cells = vec![
                        engine.name().to_owned(),
                        case.to_owned(),
                        row.size_mib.to_string(),
                        row.save.to_string(),
                        row.pages_written.to_string(),
                        mib(row.delta_bytes),
                        mib(row.full_bytes),
                        number(row.full_bytes as f64 / row.delta_bytes as f64),
                    ];
                    report.row(&row, cells)?;
                }
            }
        }
        report.print();
        Ok(())
    })
}
