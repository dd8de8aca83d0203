//! How many faults do first writes cost, and how many copies? Exactly one of each.
//!
//! `cargo bench --bench fault_count -- [--json] [--quick]`: a table, or one JSON object per row.
//! The arena has 64 MiB (`--quick`: 8 MiB) and a window of one page. Each engine that works here
//! has its rows. A row is `exact` when `faults - spurious - soft == pages_saved == pages_written`.
//! When a row is not, or a byte is wrong, the exit code is 1.
//!
//! `pages_written` does not come from pagecow. It follows from what the writers store: it is the
//! number of pages stored to *while a snapshot lived that had to keep them*, added up over the
//! rounds of a case. So it is 0 in `after-last-drop`, where each page may cost one soft fault. The
//! same stores, made to a plain copy, say what the arena must hold afterwards; the copy before them
//! says what its snapshots must hold.
//!
//! With 2 threads both write everything that the case writes. They start together, so where the
//! case fixes the order they meet on the same pages. In `fork` they share the pages out: when two
//! threads meet on a page, the kernel counts a fault for each, and does not tell which faults these
//! were.
//!
//! `fork` is the kernel's own copy-on-write, in a fresh process with an ordinary mapping of small
//! pages. Its faults are the minor faults of the writing threads, counted over the loop that writes
//! and nothing else (see [`forked`]). Fields that the kernel does not tell are null, as is the
//! engine. Exact means `faults == pages_written`.
//!
//! With mprotect, pages are also saved ahead of their writes once the mappings reach half of
//! `vm.max_map_count`. These sizes stay below that with the kernel's default of 65530.

#![allow(unsafe_code, reason = "mmap, fork and getrusage")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use comfy_table::{CellAlignment, Table, presets};
use pagecow::{Arena, Engine, Snapshot, Window};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Zipf};
use serde::Serialize;

mod forked;

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Option<&'static str>,
    case: &'static str,
    threads: usize,
    pages_written: u64,
    faults: u64,
    spurious: Option<u64>,
    soft: Option<u64>,
    pages_saved: Option<u64>,
    protect_calls: Option<u64>,
    vma_peak: Option<u64>,
    exact: bool,
}

/// In each round the snapshots are taken (and dropped at once, if `dropped`); then each thread
/// accesses the pages of its `order`, one after the other.
struct Case {
    name: &'static str,
    rounds: usize,
    snapshots: usize,
    dropped: bool,
    reads: bool,
    /// The pages for a thread, from its number and the arena's length in pages.
    order: fn(u64, usize) -> Vec<usize>,
}

const PLAIN: Case = Case {
    name: "",
    rounds: 1,
    snapshots: 1,
    dropped: false,
    reads: false,
    order: in_order,
};

const CASES: [Case; 8] = [
    Case {
        name: "sequential",
        ..PLAIN
    },
    Case {
        name: "random",
        order: shuffled,
        ..PLAIN
    },
    Case {
        name: "every-second",
        order: every_second,
        ..PLAIN
    },
    Case {
        name: "zipf",
        order: zipf,
        ..PLAIN
    },
    Case {
        name: "same-page",
        rounds: 60,
        order: same_page,
        ..PLAIN
    },
    Case {
        name: "read-only",
        reads: true,
        ..PLAIN
    },
    Case {
        name: "after-last-drop",
        dropped: true,
        ..PLAIN
    },
    Case {
        name: "shared-by-3",
        snapshots: 3,
        order: shuffled,
        ..PLAIN
    },
];

fn in_order(_: u64, pages: usize) -> Vec<usize> {
    (0..pages).collect()
}

fn shuffled(thread: u64, pages: usize) -> Vec<usize> {
    let mut order = in_order(thread, pages);
    order.shuffle(&mut StdRng::seed_from_u64(thread));
    order
}

fn every_second(_: u64, pages: usize) -> Vec<usize> {
    (0..pages).step_by(2).collect()
}

/// Twice as many stores as there are pages. Most go to a few pages, which lie anywhere.
fn zipf(thread: u64, pages: usize) -> Vec<usize> {
    let ranked = shuffled(u64::MAX, pages);
    let ranks = Zipf::new(pages as f64, 1.0).expect("a positive exponent");
    let rng = StdRng::seed_from_u64(thread);
    ranks
        .sample_iter(rng)
        .take(2 * pages)
        .map(|rank: f64| ranked[rank as usize - 1])
        .collect()
}

fn same_page(_: u64, pages: usize) -> Vec<usize> {
    vec![pages / 2; 1000]
}

/// Fills each word with something that no other word has.
fn fill(bytes: &mut [u8]) {
    for (index, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = (index as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_ne_bytes();
    }
}

/// Adds one to the first word of each page of `order`.
fn store(words: &[AtomicU64], words_per_page: usize, order: &[usize]) {
    for page in order {
        words[page * words_per_page].fetch_add(1, Relaxed);
    }
}

fn load(words: &[AtomicU64], words_per_page: usize, order: &[usize]) {
    for page in order {
        black_box(words[page * words_per_page].load(Relaxed));
    }
}

fn run(engine: Engine, case: &Case, len: usize, threads: usize) -> Result<Row, String> {
    let mut arena = Arena::builder()
        .engine(engine)
        .window(Window::Page)
        .build(len)
        .map_err(|error| error.to_string())?;
    let (pages, page_size) = (arena.page_count(), arena.page_size());
    fill(&mut arena);
    let mut expected = arena.to_vec();
    let orders: Vec<_> = (0..threads as u64)
        .map(|thread| (case.order)(thread, pages))
        .collect();
    let mut pages_written = 0;
    for _ in 0..case.rounds {
        let mut snapshots = Vec::new();
        for _ in 0..case.snapshots {
            snapshots.push(arena.snapshot().map_err(|error| error.to_string())?);
        }
        if case.dropped {
            snapshots.clear();
        }
        let act = if case.reads { load } else { store };
        let start = Barrier::new(threads);
        let words = arena.atomic_u64();
        thread::scope(|scope| {
            for order in &orders {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    act(words, page_size / 8, order);
                });
            }
        });
        for snapshot in &snapshots {
            check(snapshot, &expected, page_size)?;
        }
        if !case.reads {
            let written = add_up(&orders, &mut expected, page_size);
            pages_written += if snapshots.is_empty() { 0 } else { written };
        }
        if arena[..] != expected {
            return Err("a store was lost".to_owned());
        }
    }
    let stats = arena.stats();
    let copied = stats.faults - stats.spurious_faults - stats.soft_faults;
    Ok(Row {
        bench: "fault_count",
        engine: Some(engine.name()),
        case: case.name,
        threads,
        pages_written,
        faults: stats.faults,
        spurious: Some(stats.spurious_faults),
        soft: Some(stats.soft_faults),
        pages_saved: Some(stats.pages_saved),
        protect_calls: Some(stats.protect_calls),
        vma_peak: Some(stats.vma_peak),
        exact: copied == stats.pages_saved && stats.pages_saved == pages_written,
    })
}

/// Does to a plain copy what the threads do to the arena; returns how many different pages that is.
fn add_up(orders: &[Vec<usize>], bytes: &mut [u8], page_size: usize) -> u64 {
    let mut written = vec![false; bytes.len() / page_size];
    for page in orders.iter().flatten() {
        written[*page] = true;
        let word = bytes[page * page_size..]
            .first_chunk_mut::<8>()
            .expect("whole pages");
        *word = u64::from_ne_bytes(*word).wrapping_add(1).to_ne_bytes();
    }
    written.into_iter().filter(|written| *written).count() as u64
}

fn check(snapshot: &Snapshot, expected: &[u8], page_size: usize) -> Result<(), String> {
    for (index, wanted) in expected.chunks_exact(page_size).enumerate() {
        let page = snapshot.page(index).map_err(|error| error.to_string())?;
        if page.bytes() != wanted {
            return Err(format!("page {index} of a snapshot has a wrong byte"));
        }
    }
    Ok(())
}

/// The engines that arm pages and work here. Prints which do not.
fn engines() -> Vec<Engine> {
    let checked = |engine: &Engine| match engine.check() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("skipped: {engine}: {error}");
            false
        }
    };
    // The kernel makes the copies of the engine that remaps, and arms nothing.
    let arming = |engine: &Engine| *engine != Engine::Remap;
    let all = Engine::ALL.iter().copied();
    all.filter(arming).filter(checked).collect()
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "case",
        "engine",
        "threads",
        "pages written",
        "faults",
        "spurious",
        "soft",
        "pages saved",
        "protect calls",
        "vma peak",
        "exact",
    ]);
    let known =
        |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    for row in rows {
        table.add_row([
            row.case.to_owned(),
            row.engine.unwrap_or("-").to_owned(),
            row.threads.to_string(),
            row.pages_written.to_string(),
            row.faults.to_string(),
            known(row.spurious),
            known(row.soft),
            known(row.pages_saved),
            known(row.protect_calls),
            known(row.vma_peak),
            if row.exact { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn measure(json: bool, len: usize) -> Result<bool, String> {
    let mut rows = Vec::new();
    for engine in engines() {
        for threads in [1, 2] {
            for case in &CASES {
                let row = run(engine, case, len, threads);
                let of = format!("{engine}, {}, {threads} threads", case.name);
                rows.push(row.map_err(|error| format!("{of}: {error}"))?);
            }
        }
    }
    for threads in [1, 2] {
        rows.push(forked::row(len, threads).map_err(|error| format!("fork: {error}"))?);
    }
    rows.sort_by_key(|row| {
        CASES
            .iter()
            .position(|case| case.name == row.case)
            .unwrap_or(CASES.len())
    });
    if json {
        for row in &rows {
            println!(
                "{}",
                serde_json::to_string(row).map_err(|error| error.to_string())?
            );
        }
    } else {
        println!("{}", table(&rows));
    }
    Ok(rows.iter().all(|row| row.exact))
}

fn main() -> ExitCode {
    let (mut json, mut len) = (false, 64 << 20);
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_some_and(|arg| arg == forked::ALONE) {
        return forked::alone(args.skip(1));
    }
    for arg in args {
        match arg.as_str() {
            "--json" => json = true,
            "--quick" => len = 8 << 20,
            // cargo's own.
            "--bench" => {}
            other => {
                eprintln!("fault_count: unknown option {other:?}; there are --json and --quick");
                return ExitCode::from(2);
            }
        }
    }
    match measure(json, len) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("fault_count: not every row is exact");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("fault_count: {error}");
            ExitCode::FAILURE
        }
    }
}
