//! What does the engine cost that remaps, beside `fork()` and plain memory?
//!
//! `cargo bench --bench remap -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row. `ours` and `baseline` are in the row's `unit`, and
//! `ratio` is `ours` divided by `baseline`: with times the less the better, with `GB/s` and
//! `stores/s` the more. Each measurement is in a fresh process, over small pages all of which were
//! written. Where the baseline is fork, it is in a process of its own, over ordinary memory; ours
//! and others take turns in one process.
//!
//! - `call`: all of `snapshot()`, or `fork()`, by a thread that writes, beside another that writes;
//! - `stall`: the longest time from one store to the next of a thread that writes all the time: a
//!   snapshot is taken and dropped 100 ms later, and the time ends when all is merged. Fork's child
//!   lives and is gone for as long;
//! - `merge_stall`: a store is due every 10 us, to any page, while a fully written arena is merged.
//!   From when it was due until it was done, at 99.9 %. At rest: before the snapshot;
//! - `first_write_dense`, `_sequential`, `_sparse`: the first store to each page after the
//!   snapshot, or fork: all in random order, all in order, one in 16 in random order;
//! - `first_read`: the first load from each page after the snapshot, in order;
//! - `view_read`: memcpy from a view in pieces of 64 KiB, in which no page faults;
//! - `copy_to`: saving to a file while a thread writes, beside write(2) by the child of a fork;
//! - `merge`: from when the snapshot of a fully written arena is dropped until all is merged, by
//!   the keeper, while a thread writes. The baseline is one memcpy of as many bytes. In a second
//!   row, what the thread stores meanwhile, and at rest;
//! - `branch`, `branch_first_write`: making one; the first store to each of its pages in random
//!   order;
//! - `steady`: stores to random words, before the first snapshot and after the merge of the first;
//!   and (`first touch`) what the first store of all costs a page.
//!
//! A writer stores to a hot set of 500 pages and, one time in 20, to any.

#![allow(unsafe_code, reason = "memory that several threads access")]

use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod apart;
mod memory;
#[path = "../support/mod.rs"]
mod support;
mod together;

use support::engines::Engine;
use support::{MIB, Options, Report, each, fresh, in_turn, lacks_memory};
use together::Measured;

/// How long writers run before anything is measured.
const WARM_UP: Duration = Duration::from_millis(30);

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    case: Case,
    size_mib: usize,
    unit: &'static str,
    ours: f64,
    baseline: f64,
    baseline_is: &'static str,
    ratio: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Case {
    Call,
    Stall,
    MergeStall,
    FirstWriteDense,
    FirstWriteSequential,
    FirstWriteSparse,
    FirstRead,
    ViewRead,
    CopyTo,
    Merge,
    Branch,
    BranchFirstWrite,
    Steady,
}

/// Unit and baseline of a row.
type Figure = (&'static str, &'static str);

impl Case {
    const ALL: [Self; 13] = [
        Self::Call,
        Self::Stall,
        Self::MergeStall,
        Self::FirstWriteDense,
        Self::FirstWriteSequential,
        Self::FirstWriteSparse,
        Self::FirstRead,
        Self::ViewRead,
        Self::CopyTo,
        Self::Merge,
        Self::Branch,
        Self::BranchFirstWrite,
        Self::Steady,
    ];

    fn name(self) -> String {
        let name = serde_json::to_value(self).expect("a name");
        name.as_str().expect("a name").to_owned()
    }

    fn figures(self) -> &'static [Figure] {
        match self {
            Self::Call | Self::Stall | Self::Branch => &[("us", "fork")],
            Self::MergeStall => &[("us", "rest")],
            Self::FirstWriteDense
            | Self::FirstWriteSequential
            | Self::FirstWriteSparse
            | Self::BranchFirstWrite => &[("ns/page", "fork")],
            Self::FirstRead => &[("ns/page", "plain memory")],
            Self::ViewRead => &[("GB/s", "memcpy from plain memory")],
            Self::CopyTo => &[("ms", "write by fork's child")],
            Self::Merge => &[("ms", "memcpy"), ("stores/s", "rest")],
            Self::Steady => &[
                ("ns/page", "plain memory, first touch"),
                ("ns/store", "plain memory, before the first snapshot"),
                ("ns/store", "plain memory, after the merge"),
            ],
        }
    }

    /// Whether both sides are measured in one process.
    fn is_in_one_process(self) -> bool {
        !self.figures()[0].1.contains("fork")
    }

    /// In MiB.
    fn sizes(self, options: &Options) -> &'static [usize] {
        match self {
            Self::Call | Self::Branch => options.choose(&[256, 1024, 4096], &[64, 256]),
            _ => options.choose(&[1024], &[256]),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Side {
    Ours,
    Fork,
    /// Ours and the baseline in one process, which of them comes first.
    Both {
        ours_first: bool,
    },
}

#[derive(Serialize, Deserialize)]
struct Job {
    case: Case,
    side: Side,
    len: usize,
}

fn compare(report: &mut Report, times: usize, case: Case, len: usize) -> Result<(), String> {
    let sides: &[Side] = if case.is_in_one_process() {
        &[Side::Both { ours_first: true }]
    } else {
        &[Side::Ours, Side::Fork]
    };
    let ask = |time: usize, &side: &Side| {
        let side = match side {
            Side::Both { .. } => Side::Both {
                ours_first: time.is_multiple_of(2),
            },
            side => side,
        };
        fresh::process::<Measured>(&Job { case, side, len })
    };
    let measured = in_turn(times, sides, ask)?;
    let (ours, others) = (&measured[0], &measured[sides.len() - 1]);
    for (index, &(unit, baseline_is)) in case.figures().iter().enumerate() {
        let ours = each(ours, |measured| measured[index].0);
        let others = each(others, |measured| measured[index].1);
        let row = Row {
            bench: "remap",
            case,
            size_mib: len / MIB,
            unit,
            ours: ours.median(),
            baseline: others.median(),
            baseline_is,
            ratio: ours.median() / others.median(),
        };
        let cells = vec![
            case.name(),
            (len / MIB).to_string(),
            unit.to_owned(),
            baseline_is.to_owned(),
            ours.to_string(),
            others.to_string(),
            support::number(row.ratio),
        ];
        report.row(&row, cells)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let alone = |job: &Job| match job.side {
        Side::Ours => Ok(vec![(apart::measure_ours(job)?, 0.0)]),
        Side::Fork => Ok(vec![(0.0, apart::measure_fork(job)?)]),
        Side::Both { ours_first } => together::measure_both(job, ours_first),
    };
    if let Some(code) = fresh::answer(alone) {
        return code;
    }
    support::run("remap", |options| {
        let header = [
            "case",
            "MiB",
            "unit",
            "baseline is",
            "ours",
            "baseline",
            "ratio",
        ];
        let mut report = Report::new(options, 4, &header);
        let works = Engine::available(&mut report).contains(&memory::remapping()?);
        for case in Case::ALL.iter().filter(|_| works) {
            for &mib in case.sizes(options) {
                match lacks_memory(mib * MIB * 7 / 2) {
                    Some(why) => report.skipped(&[case.name(), mib.to_string()], &why),
                    None => compare(&mut report, options.repetitions(), *case, mib * MIB)?,
                }
            }
        }
        report.print();
        Ok(())
    })
}
