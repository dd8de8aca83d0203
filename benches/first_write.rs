//! What does the first write to a page after a snapshot cost, beside the kernel's copy-on-write
//! after `fork()`?
//!
//! `cargo bench --bench first_write -- [--json] [--quick]`: a table of medians, with the least and
//! the most in brackets, or one JSON object per row.
//!
//! One thread stores one word to each page that a case names, in the order of the case. The order
//! is fixed before the clock starts:
//!
//! - `sequential`: every page, in order;
//! - `dense-random`: every page, in random order;
//! - `quarter-random`, `sixteenth-random`: a quarter or a sixteenth of the pages, chosen at random,
//!   in random order;
//! - `zipf`: as many stores as there are pages, to pages chosen by Zipf's law (exponent 1). The
//!   popular pages lie anywhere.
//!
//! Each engine with each window, and fork, are measured in turn, each in a fresh process, over
//! small pages all of which are resident. A process of pagecow takes a snapshot, makes the stores
//! of the case, and drops the snapshot. Then it does the same again with other random numbers. Rows
//! of `first_write` are of the second time, as in a program that takes snapshots now and then. Rows
//! of `first_write_cold` are of the first time. After the clock has stopped, the benchmark checks
//! that the snapshot kept the old bytes, and that each page cost a fault after the fork.
//!
//! `ns_per_page` is the time of all stores divided by `pages_written`, the number of different
//! pages among them. `cost_ratio` is `ns_per_page` divided by fork's. `faults` and `pages_saved`
//! are those of the stores. The windows are `page` (`Window::Page`), `fixed` (`Window::Fixed(16)`)
//! and `adaptive` (the default). With the engine that remaps there is only `page`, and the faults
//! are the kernel's; the second snapshot is taken when the first is merged.

#![allow(unsafe_code, reason = "memory as words")]

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use pagecow::Arena;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Zipf};
use serde::{Deserialize, Serialize};

mod support;

use support::child::{Child, minor_faults};
use support::engines::Engine;
use support::{MIB, Report, Samples, each, fresh, in_turn, lacks_memory, mapping, number};

const SIZES: [usize; 2] = [256 * MIB, 1024 * MIB];
const QUICK_SIZES: [usize; 1] = [64 * MIB];
/// Few, because one repetition of everything takes a minute.
const REPETITIONS: usize = 5;

const CASES: [Case; 5] = [
    Case::Sequential,
    Case::DenseRandom,
    Case::QuarterRandom,
    Case::SixteenthRandom,
    Case::Zipf,
];
const WINDOWS: [Window; 3] = [Window::Page, Window::Fixed, Window::Adaptive];

/// How many pages of a snapshot are checked, of those written and of all.
const CHECKED: usize = 64;

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    window: Window,
    case: Case,
    size_mib: usize,
    ns_per_page: f64,
    fork_ns_per_page: f64,
    cost_ratio: f64,
    faults: u64,
    pages_written: u64,
    pages_saved: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Window {
    Page,
    Fixed,
    Adaptive,
}

impl Window {
    fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Fixed => "fixed",
            Self::Adaptive => "adaptive",
        }
    }

    fn real(self) -> pagecow::Window {
        match self {
            Self::Page => pagecow::Window::Page,
            Self::Fixed => pagecow::Window::Fixed(16),
            Self::Adaptive => pagecow::Window::default(),
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    Sequential,
    DenseRandom,
    QuarterRandom,
    SixteenthRandom,
    Zipf,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::DenseRandom => "dense-random",
            Self::QuarterRandom => "quarter-random",
            Self::SixteenthRandom => "sixteenth-random",
            Self::Zipf => "zipf",
        }
    }

    /// The pages to store to, in order.
    fn order(self, pages: usize, seed: u64) -> Vec<u32> {
        let last = u32::try_from(pages).expect("few pages");
        let mut order: Vec<u32> = (0..last).collect();
        let mut rng = StdRng::seed_from_u64(seed);
        if !matches!(self, Self::Sequential) {
            order.shuffle(&mut rng);
        }
        match self {
            Self::Sequential | Self::DenseRandom => {}
            Self::QuarterRandom => order.truncate(pages / 4),
            Self::SixteenthRandom => order.truncate(pages / 16),
            Self::Zipf => {
                let ranks = Zipf::new(pages as f64, 1.0).expect("a positive exponent");
                let ranks = ranks.sample_iter(rng).take(pages);
                return ranks.map(|rank: f64| order[rank as usize - 1]).collect();
            }
        }
        order
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Way {
    Ours(Engine, Window),
    Fork,
}

/// What a fresh process is to measure.
#[derive(Serialize, Deserialize)]
struct Job {
    way: Way,
    case: Case,
    len: usize,
    seed: u64,
}

/// What the stores of a case cost.
#[derive(Serialize, Deserialize)]
struct Cost {
    ns_per_page: f64,
    faults: u64,
    pages_written: u64,
    pages_saved: u64,
}

/// Of pagecow: the first time and the second. A fork has no second time.
#[derive(Serialize, Deserialize)]
struct Costs {
    cold: Cost,
    warm: Option<Cost>,
}

/// Stores `value` to the first word of each page; returns nanoseconds per different page, and how
/// many there are.
fn write(words: &[AtomicU64], order: &[u32], value: u64) -> (f64, u64) {
    let words_per_page = region::page::size() / 8;
    let begin = Instant::now();
    for &page in order {
        words[page as usize * words_per_page].store(value, Relaxed);
    }
    let took = begin.elapsed();
    let mut seen = vec![false; words.len() / words_per_page];
    for &page in order {
        seen[page as usize] = true;
    }
    let written = seen.into_iter().filter(|seen| *seen).count();
    (took.as_secs_f64() * 1e9 / written as f64, written as u64)
}

fn measure_ours(job: &Job, engine: Engine, window: Window) -> Result<Costs, String> {
    let arena = engine.arena(job.len, false, window.real())?;
    Ok(Costs {
        cold: one_snapshot(&arena, job, !job.seed)?,
        warm: Some(one_snapshot(&arena, job, job.seed)?),
    })
}

/// What the stores cost from a snapshot until it is dropped.
fn one_snapshot(arena: &Arena, job: &Job, seed: u64) -> Result<Cost, String> {
    let (pages, page_size) = (arena.page_count(), arena.page_size());
    let order = job.case.order(pages, seed);
    // SAFETY: the arena outlives the words, and is used only for snapshots meanwhile.
    let words = unsafe { mapping::words(arena.as_mut_ptr(), job.len) };
    // Some of the pages that are written, and some of all pages.
    let written = order.iter().step_by(order.len().div_ceil(CHECKED));
    let others = (0..pages).step_by(pages.div_ceil(CHECKED));
    let known: Vec<(usize, u64)> = written
        .map(|page| *page as usize)
        .chain(others)
        .map(|page| (page, words[page * page_size / 8].load(Relaxed)))
        .collect();

    let snapshot = arena.snapshot().map_err(|error| error.to_string())?;
    let before = arena.stats();
    let faults = minor_faults();
    let (ns_per_page, pages_written) = write(words, &order, seed);
    let faults = minor_faults() - faults;
    let after = arena.stats();

    for (page, value) in known {
        let mut bytes = [0; 8];
        snapshot
            .read_at(page * page_size, &mut bytes)
            .map_err(|error| error.to_string())?;
        if u64::from_ne_bytes(bytes) != value {
            return Err(format!("page {page} of the snapshot has a wrong byte"));
        }
    }
    for &page in &order {
        if words[page as usize * page_size / 8].load(Relaxed) != seed {
            return Err(format!("the store to page {page} is lost"));
        }
    }
    let pages_saved = after.pages_saved - before.pages_saved;
    if pages_saved < pages_written {
        return Err(format!(
            "{pages_written} pages were written, {pages_saved} saved"
        ));
    }
    Ok(Cost {
        ns_per_page,
        // Where pages are not armed it is the kernel that makes copies.
        faults: match after.faults - before.faults {
            0 => faults,
            ours => ours,
        },
        pages_written,
        pages_saved,
    })
}

fn measure_fork(job: &Job) -> Result<Costs, String> {
    let bytes = mapping::ordinary(job.len, false)?;
    mapping::fill(bytes);
    // SAFETY: never unmapped, and used only through the words from here on.
    let words = unsafe { mapping::words(bytes.as_mut_ptr(), job.len) };
    let order = job.case.order(job.len / region::page::size(), job.seed);
    let child = Child::sleeping()?;
    let before = minor_faults();
    let (ns_per_page, pages_written) = write(words, &order, job.seed);
    let faults = minor_faults() - before;
    drop(child);
    if faults < pages_written {
        return Err(format!(
            "{pages_written} pages were written after a fork, in {faults} faults"
        ));
    }
    let cold = Cost {
        ns_per_page,
        faults,
        pages_written,
        pages_saved: pages_written,
    };
    Ok(Costs { cold, warm: None })
}

fn compare(report: &mut Report, engines: &[Engine], case: Case, len: usize) -> Result<(), String> {
    let ours = engines.iter().flat_map(|&engine| {
        let windows: &[Window] = if engine.has_windows() {
            &WINDOWS
        } else {
            &[Window::Page]
        };
        windows.iter().map(move |&window| (engine, window))
    });
    let ours: Vec<_> = ours.collect();
    let ways: Vec<Way> = std::iter::once(Way::Fork)
        .chain(
            ours.iter()
                .map(|&(engine, window)| Way::Ours(engine, window)),
        )
        .collect();
    let ask = |time, &way: &Way| {
        fresh::process::<Costs>(&Job {
            way,
            case,
            len,
            seed: time as u64,
        })
    };
    let costs = in_turn(REPETITIONS, &ways, ask)?;
    let (forks, costs) = costs.split_first().expect("fork is the first");
    let forks = each(forks, |costs| costs.cold.ns_per_page);
    for ((engine, window), costs) in ours.into_iter().zip(costs) {
        let cold = costs.iter().map(|costs| &costs.cold).collect();
        let warm = costs
            .iter()
            .filter_map(|costs| costs.warm.as_ref())
            .collect();
        for (bench, costs) in [("first_write_cold", cold), ("first_write", warm)] {
            let costs: Vec<&Cost> = costs;
            let ours = each(&costs, |cost| cost.ns_per_page);
            let count = |value: fn(&Cost) -> u64| {
                each(&costs, |cost| value(cost) as f64).median().round() as u64
            };
            let row = Row {
                bench,
                engine,
                window,
                case,
                size_mib: len / MIB,
                ns_per_page: ours.median(),
                fork_ns_per_page: forks.median(),
                cost_ratio: ours.median() / forks.median(),
                faults: count(|cost| cost.faults),
                pages_written: count(|cost| cost.pages_written),
                pages_saved: count(|cost| cost.pages_saved),
            };
            let cells = cells(&row, &ours, &forks);
            report.row(&row, cells)?;
        }
    }
    Ok(())
}

fn cells(row: &Row, ours: &Samples, forks: &Samples) -> Vec<String> {
    let time = match row.bench {
        "first_write" => "again",
        _ => "first",
    };
    let mut cells = names(row.engine, row.case, row.size_mib).to_vec();
    cells.extend([
        row.window.name().to_owned(),
        time.to_owned(),
        ours.to_string(),
        forks.to_string(),
        number(row.cost_ratio),
        row.faults.to_string(),
        row.pages_written.to_string(),
        row.pages_saved.to_string(),
    ]);
    cells
}

fn names(engine: Engine, case: Case, size_mib: usize) -> [String; 3] {
    [
        engine.name().to_owned(),
        size_mib.to_string(),
        case.name().to_owned(),
    ]
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.way {
        Way::Ours(engine, window) => measure_ours(job, engine, window),
        Way::Fork => measure_fork(job),
    };
    if let Some(code) = fresh::answer(alone) {
        return code;
    }
    support::run("first_write", |options| {
        let header = [
            "engine",
            "MiB",
            "case",
            "window",
            "snapshot",
            "ns per page",
            "fork's",
            "ratio",
            "faults",
            "pages written",
            "pages saved",
        ];
        let mut report = Report::new(options, 5, &header);
        let engines = Engine::available(&mut report);
        for &len in options.choose(&SIZES, &QUICK_SIZES) {
            for case in CASES {
                if let Some(why) = lacks_memory(len / 2 * 5) {
                    for &engine in &engines {
                        report.skipped(&names(engine, case, len / MIB), &why);
                    }
                    continue;
                }
                compare(&mut report, &engines, case, len)?;
            }
        }
        report.print();
        Ok(())
    })
}
