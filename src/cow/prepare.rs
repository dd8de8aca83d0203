//! The first phase of a snapshot: arming ahead, slice by slice, while writers run.
//!
//! Taking write permission from a GiB takes tens of milliseconds, and a writer that faults
//! meanwhile waits. So most of it is done before the snapshot's instant, in slices of a fraction of
//! a millisecond. Between two slices the gate is set ajar, without an epoch: the writers that wait
//! get through their faults, and no others. A store to a page that was armed ahead is a soft fault:
//! the page needs no copy, it is disarmed and becomes dirty again. Passes over what became dirty
//! are repeated until little is left, which the commit arms, or until they do not help.
//!
//! So a writer that gets a processor waits for a slice at most, and yet dirties one page a slice at
//! most, however fast it is and however long this thread waits for a processor meanwhile. With the
//! gate open between slices, a pass on a loaded machine found thousands of pages that were written
//! during the one before.
//!
//! A slice is bounded by its pages, since arming costs time for each resident page, and by its
//! runs, since each run is a mapping that has to be joined. Its size follows the time that arming
//! takes. It does not end inside a block that the engine would protect as a whole. The pages of
//! `writable` guards are left out.
//!
//! No new race comes with it: with the gate closed and drained nobody disarms, so after each slice
//! the dirty set still says exactly what is open.

use std::time::Duration;

use crate::cow::budget::Budget;
use crate::cow::commit::Committed;
use crate::cow::core::Core;
use crate::cow::guard;
use crate::cow::passes::Passes;
use crate::cow::state::dirty::{DirtySet, Slice};
use crate::error::{Error, Result};
use crate::page::PageRange;
use crate::protect::Protection;
use crate::sync::gate::Admitted;
use crate::sys;

/// How long arming a slice may take: writers that fault wait for it.
const SLICE_NS: std::ops::Range<u64> = 150_000..400_000;
/// How long writers that wait may take to get through the gate between two slices.
const ADMIT_NS: u64 = 50_000;
const LEAST_PAGES: usize = 64;
/// Copies compared between two looks at the clock, and frames made resident.
const COMPARED: usize = 128;
const FRAMES: usize = 32;
/// Joining a run of pages costs about as much time as arming this many pages.
const RUN_COST: usize = 32;
/// About how long arming one page takes, for when no slice was timed yet.
const PAGE_NS: u64 = 100;
/// About how long a commit stops writers when nothing is left to arm.
const LEAST_STOP_NS: u64 = 20_000;
use bounds::{FIRST_PAGES, MOST_PASSES, READY_PAGES, READY_RUNS, RUNS};

#[cfg(not(loom))]
mod bounds {
    pub const FIRST_PAGES: usize = 1024;
    /// Runs in a slice: a few microseconds each.
    pub const RUNS: usize = 64;
    /// What may be left for the commit.
    pub const READY_PAGES: usize = 512;
    pub const READY_RUNS: usize = 32;
    /// One call begins no more passes than this, so that no writer, however fast, can keep a
    /// snapshot from happening.
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
    passes: Passes,
    /// Most pages of the next slice.
    pages: usize,
    /// Since when a writer may be waiting.
    closed_at: u64,
    /// The system refused to arm a slice. It may still arm everything by one call.
    refused: bool,
    /// All slices: how long arming took in nanoseconds, and of how many pages, counted as `armed`.
    arming_ns: u64,
    arming_pages: u64,
    /// How long it waited for guards to end, in nanoseconds.
    guards_ns: u64,
    /// Copies of the time before that were compared with the arena.
    compared: usize,
    /// Frames that are resident for the copies of the time after the commit.
    frames: usize,
}

/// Why no more slices were armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Little is left.
    Ready,
    /// Nothing is left but the pages of guards.
    Guarded,
    /// Further slices would not help.
    Enough,
    /// No further slices were wanted.
    Over,
}

/// What a commit would have to arm.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Open {
    pub pages: usize,
    pub runs: usize,
}

/// What arming these pages costs, their runs included, as a number of pages.
fn in_pages(pages: usize, runs: usize) -> usize {
    pages + runs * RUN_COST
}

impl Preparation {
    pub fn new() -> Self {
        Self {
            next: 0,
            passes: Passes::new(),
            pages: FIRST_PAGES,
            closed_at: 0,
            refused: false,
            arming_ns: 0,
            arming_pages: 0,
            guards_ns: 0,
            compared: 0,
            frames: 0,
        }
    }

    /// The next slice of this pass, or the first of the next one, outside the pages `kept`, which
    /// it widens to whole blocks. Only with the gate closed and drained.
    fn choose(
        &mut self,
        dirty: &DirtySet,
        engine: &Protection,
        kept: &mut [PageRange],
    ) -> Option<Slice> {
        for pages in &mut *kept {
            *pages = engine.whole_blocks(*pages);
        }
        let cut = |end| engine.whole_end(end);
        let slice = |from, pages| dirty.slice_outside(from, pages, RUNS, kept, cut);
        let rest = (self.next > 0)
            .then(|| slice(self.next, self.pages - self.next % self.pages))
            .flatten();
        let slice = rest.or_else(|| {
            // A pass that finds nothing is none.
            let first = slice(0, self.pages)?;
            self.passes.begin();
            Some(first)
        });
        self.next = slice.map_or(0, |slice| slice.range.end());
        slice
    }

    /// Notes for how long this thread ran to arm a slice: no wait for a processor counts. Slices
    /// get larger where that is little, as in memory that was never touched.
    fn adapt(&mut self, slice: Slice, nanoseconds: u64) {
        let pages = in_pages(slice.pages, slice.runs);
        self.passes.armed(pages);
        self.arming_pages += pages as u64;
        // One that was short because little was dirty says nothing.
        if nanoseconds < SLICE_NS.start && slice.pages >= self.pages {
            self.pages = self.pages.saturating_mul(2);
        } else if nanoseconds > SLICE_NS.end {
            self.pages = (self.pages / 2).max(LEAST_PAGES);
        }
    }

    /// Passes begun.
    #[cfg(not(loom))]
    pub fn passes(&self) -> u32 {
        self.passes.begun()
    }

    /// How long arming took so far, in nanoseconds.
    #[cfg(not(loom))]
    pub fn arming_ns(&self) -> u64 {
        self.arming_ns
    }

    /// How long it waited for guards so far, in nanoseconds.
    #[cfg(not(loom))]
    pub fn guards_ns(&self) -> u64 {
        self.guards_ns
    }

    /// Whether further passes would not help, at the rate at which pages were dirtied so far.
    pub fn is_stalled(&self) -> bool {
        self.refused || self.passes.is_stalled()
    }

    /// About how long a commit would stop writers, in nanoseconds, from what slices took.
    #[cfg(not(loom))]
    pub fn stop_ns(&self, open: Open) -> u64 {
        let pages = in_pages(open.pages, open.runs) as u64;
        let arming = match self.arming_pages {
            0 => pages * PAGE_NS,
            timed => (u128::from(pages) * u128::from(self.arming_ns) / u128::from(timed)) as u64,
        };
        LEAST_STOP_NS + arming
    }
}

impl Core {
    /// Whether a commit would find little to arm.
    pub fn is_ready(&self) -> bool {
        let rest = self.dirty.slice(0, READY_PAGES + 1, READY_RUNS + 1);
        rest.is_none_or(|rest| rest.pages <= READY_PAGES && rest.runs <= READY_RUNS)
    }

    /// What a commit would have to arm. A guess while pages are opened or armed.
    #[cfg(not(loom))]
    pub fn open_pages(&self) -> Open {
        self.all_dirty().map_or_else(Open::default, |slice| Open {
            pages: slice.pages,
            runs: slice.runs,
        })
    }

    /// Gets everything ready that takes time and arms nothing; `false` when the budget was used up.
    /// Before arming: pages that are armed already would be written again meanwhile.
    fn get_ready(&self, preparation: &mut Preparation, budget: Budget) -> bool {
        self.tell_the_past();
        while self.look_back(preparation) || self.ready_frames(preparation) {
            if budget.is_used_up() {
                return false;
            }
        }
        true
    }

    /// Arms ahead until the commit has little left to do, further slices do not help, or `budget`
    /// is used up. Leaves the pages of guards out; when there are no others it waits for a guard to
    /// go.
    pub fn arm_ahead(&self, preparation: &mut Preparation, budget: Duration) -> Result<()> {
        let budget = Budget::new(budget);
        if guard::held_by_this_thread() {
            return Err(Error::GuardHeld);
        }
        if !self.get_ready(preparation, budget) {
            return Ok(());
        }
        let begun = preparation.passes.begun();
        let mut ledger = self.ledger();
        loop {
            let mut kept: Vec<PageRange> = ledger.guards.pages().collect();
            let masked = sys::signal::Masked::new();
            self.gate.close();
            let is_over = || budget.is_used_up() || self.ledger_is_wanted();
            let ended = self.arm_slices(preparation, begun, &mut kept, is_over);
            self.gate.open();
            drop(masked);
            match ended? {
                Ended::Ready | Ended::Enough => return Ok(()),
                _ if budget.is_used_up() => return Ok(()),
                Ended::Over => {
                    // A guard or a snapshot that begins or ends would wait for the whole step.
                    self.lend(ledger);
                    ledger = self.ledger();
                }
                Ended::Guarded => {
                    let waited;
                    (ledger, waited) = self.wait_for_guard(ledger, Some(budget.left()));
                    preparation.guards_ns += waited;
                }
            }
        }
    }

    /// Takes a snapshot, all of it in one call: gets ready, arms in slices, commits.
    pub fn take(&self) -> Result<(Preparation, Committed)> {
        if guard::held_by_this_thread() {
            return Err(Error::GuardHeld);
        }
        let mut preparation = Preparation::new();
        self.reserve()?;
        self.get_ready(&mut preparation, Budget::new(Duration::MAX));
        let taken = self.commit_after(|closed_at| {
            preparation.closed_at = closed_at;
            self.arm_slices(&mut preparation, 0, &mut [], || false)?;
            Ok(preparation.closed_at)
        });
        if taken.is_err() {
            // The frames that were made resident for it are not needed.
            self.trim();
        }
        taken.map(|committed| (preparation, committed))
    }

    /// Arms slice by slice until little is left, further slices do not help, or `is_over`. Lets
    /// writers that wait through between them. `begun` is how many passes there were before. Gate
    /// closed and drained, before and after.
    fn arm_slices(
        &self,
        preparation: &mut Preparation,
        begun: u32,
        kept: &mut [PageRange],
        is_over: impl Fn() -> bool,
    ) -> Result<Ended> {
        preparation.refused = false;
        loop {
            if self.is_ready() {
                preparation.passes.caught_up();
                return Ok(Ended::Ready);
            }
            let Some(slice) = preparation.choose(&self.dirty, &self.engine, kept) else {
                let is_guarded = !kept.is_empty();
                return Ok(if is_guarded {
                    Ended::Guarded
                } else {
                    Ended::Ready
                });
            };
            self.counters.passes(preparation.passes.begun());
            let begin = sys::clock::of_thread();
            let took = match self.arm(Some(slice)) {
                Ok(took) => took,
                Err(Error::Protect { .. }) => {
                    // Slices split mappings, and one call over everything does not: the commit's
                    // part.
                    preparation.refused = true;
                    return Ok(Ended::Enough);
                }
                Err(error) => return Err(error),
            };
            preparation.arming_ns += took;
            preparation.adapt(slice, sys::clock::of_thread().saturating_sub(begin));
            if !preparation.passes.pay(begun, MOST_PASSES) {
                return Ok(Ended::Enough);
            }
            if is_over() {
                return Ok(Ended::Over);
            }
            let admitted = self.gate.admit(ADMIT_NS);
            if admitted != Admitted::Some {
                preparation.closed_at = sys::clock::now();
            }
            if admitted != Admitted::Nobody {
                self.gate.shut();
            }
        }
    }

    /// Compares some copies with the arena, until enough were to know how many of them were of
    /// pages that were written. Returns whether it did anything.
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

    /// Makes some more frames resident, until the store has as many as are expected to be used.
    /// Returns whether it did anything.
    fn ready_frames(&self, preparation: &mut Preparation) -> bool {
        let expected = self.frames_expected();
        if preparation.frames >= expected {
            return false;
        }
        preparation.frames = expected.min(preparation.frames + FRAMES);
        self.prefault(preparation.frames);
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slice(pages: usize, runs: usize) -> Slice {
        let range = PageRange::from(0..pages * 2);
        Slice { range, pages, runs }
    }

    #[test]
    fn slices_grow_where_full_ones_take_little_time_and_shrink_where_they_take_much() {
        let mut preparation = Preparation::new();
        for _ in 0..60 {
            preparation.adapt(slice(FIRST_PAGES / 2, 40), 1000);
        }
        assert_eq!(preparation.pages, FIRST_PAGES);
        preparation.adapt(slice(FIRST_PAGES, 1), SLICE_NS.start - 1);
        assert_eq!(preparation.pages, 2 * FIRST_PAGES);
        preparation.adapt(slice(2 * FIRST_PAGES, 1), SLICE_NS.start);
        assert_eq!(preparation.pages, 2 * FIRST_PAGES);
        for _ in 0..60 {
            preparation.adapt(slice(10, 1), SLICE_NS.end + 1);
        }
        assert_eq!(preparation.pages, LEAST_PAGES);
    }
}
