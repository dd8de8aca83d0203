//! The first phase of a snapshot: arming ahead, slice by slice, while writers run.
//!
//! Taking write permission from a GiB takes tens of milliseconds, and whoever faults meanwhile waits. So
//! most of it is done before the snapshot's instant: for each slice the gate is closed for a fraction of
//! a millisecond and opened again, without an epoch. A store to a page that was armed ahead is a soft
//! fault: the page needs no copy, it is disarmed and becomes dirty again. Passes over what became dirty are
//! repeated until little is left, which the commit arms.
//!
//! A slice is bounded by its pages, since arming costs time for each resident page, and by its runs, since
//! each run is a mapping to be joined. Its size follows the time that slices take.
//!
//! No new race comes with it: with the gate closed and drained nobody disarms, so after each slice the
//! dirty set still says exactly what is open.

use std::time::Duration;

use crate::dirty::{DirtySet, Slice};
use crate::error::Result;
use crate::guard;
use crate::shared::Shared;
use crate::sync::lock;
use crate::sys;

/// How long a slice may take: faulting writers wait for it.
const SLICE_NS: std::ops::Range<u64> = 100_000..300_000;
const LEAST_PAGES: usize = 64;
/// Copies compared between two slices, and frames made resident: less than a slice's time each.
const COMPARED: usize = 128;
const FRAMES: usize = 256;
/// Resident before the first snapshot, when nothing is known.
const FEW_FRAMES: usize = 256;
use bounds::{FIRST_PAGES, MOST_PASSES, READY_PAGES, READY_RUNS, RUNS};

#[cfg(not(loom))]
mod bounds {
    pub const FIRST_PAGES: usize = 1024;
    /// Runs in a slice: a few microseconds each.
    pub const RUNS: usize = 64;
    /// What may be left for the commit.
    pub const READY_PAGES: usize = 512;
    pub const READY_RUNS: usize = 32;
    /// After so many passes the commit arms what is left, however much that is: no writer, however
    /// fast, can keep a snapshot from happening.
    pub const MOST_PASSES: u32 = 16;
}

/// So small that the models' few pages need several slices and passes.
#[cfg(loom)]
mod bounds {
    pub const FIRST_PAGES: usize = 1;
    pub const RUNS: usize = 1;
    pub const READY_PAGES: usize = 0;
    pub const READY_RUNS: usize = 0;
    pub const MOST_PASSES: u32 = 1;
}

/// How far arming ahead has come.
#[derive(Debug)]
pub(crate) struct Preparation {
    /// Where the next slice begins.
    next: usize,
    /// Passes begun.
    passes: u32,
    /// Pages of the next slice.
    pages: usize,
    /// Copies of the time before that were compared with the arena.
    compared: usize,
    /// Frames that are resident for the copies of the time after the commit.
    frames: usize,
}

/// What a step did.
enum Armed {
    /// Little enough was left that nothing was done.
    Ready,
    /// A guard is alive, whose pages must stay open.
    Guarded,
    Slice {
        /// A writer slept meanwhile.
        waited_for: bool,
        nanoseconds: u64,
    },
}

impl Preparation {
    pub fn new() -> Self {
        Self {
            next: 0,
            passes: 0,
            pages: FIRST_PAGES,
            compared: 0,
            frames: 0,
        }
    }

    /// The next slice of this pass, or the first of the next one.
    fn choose(&mut self, dirty: &DirtySet) -> Option<Slice> {
        let rest = (self.next > 0)
            // Ends where a block of the engine may end.
            .then(|| dirty.slice(self.next, self.pages - self.next % self.pages, RUNS))
            .flatten();
        let slice = rest.or_else(|| {
            self.passes += 1;
            dirty.slice(0, self.pages, RUNS)
        });
        self.next = slice.map_or(0, |slice| slice.range.last().get() + 1);
        slice
    }

    /// Slices get larger where they take little time, as in memory that was never touched.
    fn adapt(&mut self, nanoseconds: u64) {
        if nanoseconds < SLICE_NS.start {
            self.pages = self.pages.saturating_mul(2);
        } else if nanoseconds > SLICE_NS.end {
            self.pages = (self.pages / 2).max(LEAST_PAGES);
        }
    }
}

impl Shared {
    /// Whether a commit would find little to arm, or passes are used up.
    pub fn is_ready(&self, preparation: &Preparation) -> bool {
        preparation.passes > MOST_PASSES || self.is_nearly_armed()
    }

    fn is_nearly_armed(&self) -> bool {
        let rest = self.dirty.slice(0, READY_PAGES, READY_RUNS);
        rest.is_none_or(|rest| {
            let end = rest.range.last().get() + 1;
            self.dirty.slice(end, 1, 1).is_none()
        })
    }

    /// Arms ahead until the commit has little left to do, or `budget` is used up. Gives faulting writers
    /// room between slices. Returns at once while a guard lives.
    pub fn arm_ahead(&self, preparation: &mut Preparation, budget: Duration) -> Result<()> {
        if preparation.passes > MOST_PASSES {
            // Asked to go on all the same.
            preparation.passes = 0;
        }
        let begin = sys::clock::now();
        let budget = u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let more = self.look_back(preparation) | self.ready_frames(preparation);
            match self.arm_slice(preparation)? {
                Armed::Ready | Armed::Guarded if more => {}
                Armed::Ready | Armed::Guarded => return Ok(()),
                Armed::Slice {
                    waited_for,
                    nanoseconds,
                } => {
                    preparation.adapt(nanoseconds);
                    if waited_for {
                        // Who waited runs now, and gets through its fault before the next slice. Not for
                        // long: a soft fault costs a writer about what arming its page again costs us,
                        // and with as much time as we take it would undo all that we do.
                        sys::clock::sleep(nanoseconds.min(SLICE_NS.end) / 8);
                    }
                }
            }
            if sys::clock::since(begin) >= budget {
                return Ok(());
            }
        }
    }

    /// Compares some copies with the arena, until enough were to know how many of them were of pages that were
    /// written. Returns whether it did anything.
    fn look_back(&self, preparation: &mut Preparation) -> bool {
        let wanted = self.copies_to_compare();
        if preparation.compared >= wanted {
            return false;
        }
        let first = preparation.compared;
        preparation.compared = wanted.min(first + COMPARED);
        self.compare_copies(first..preparation.compared);
        true
    }

    /// Makes some more frames resident, until there are as many as were used since the last commit: as many
    /// are expected to be used after the next one, and not next to none. Returns whether it did anything.
    fn ready_frames(&self, preparation: &mut Preparation) -> bool {
        let used = self.counters.saved_since_commit() as usize;
        let expected = used.max((self.pages / 64).min(FEW_FRAMES)).min(self.pages);
        if preparation.frames >= expected {
            return false;
        }
        preparation.frames = expected.min(preparation.frames + FRAMES);
        self.prefault(preparation.frames);
        true
    }

    /// One slice.
    fn arm_slice(&self, preparation: &mut Preparation) -> Result<Armed> {
        let ledger = lock(&self.ledger);
        if ledger.guard.is_some() || guard::held_by_this_thread() {
            return Ok(Armed::Guarded);
        }
        if self.is_ready(preparation) {
            return Ok(Armed::Ready);
        }
        let begin = sys::clock::now();
        let waited_for = self.arm(|| {
            let slice = preparation.choose(&self.dirty);
            self.counters.passes(preparation.passes);
            slice
        })?;
        Ok(Armed::Slice {
            waited_for,
            nanoseconds: sys::clock::since(begin),
        })
    }
}
