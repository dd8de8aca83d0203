//! A run: neighbouring pages that one thread has claimed, saves, and disarms by one call.
//!
//! The order is fixed:
//! 1. each page that a live snapshot still needs is copied, and the copy published (invariants 1,
//!    4); where no frame is left, the loss is noted for the snapshots that need it instead
//!    (invariant 8);
//! 2. one call disarms the whole run, every page of which is claimed (invariant 3);
//! 3. the run is added to the dirty set;
//! 4. the page words get the current epoch and the claims end.
//!
//! A run begins with the page at hand and grows over neighbours ([`crate::window`]). It only tries
//! for their claims and ends at the first that another thread has, so that no thread waits while it
//! holds a claim.

use std::ops::Range;

use crate::cow::core::Core;
use crate::epoch::Epoch;
use crate::options::Window;
use crate::page::{PageIndex, PageRange};
use crate::sync::{Ordering, fence};
use crate::sys::{self, ProtectError};
use crate::window;

/// Neighbouring pages, all claimed by this thread and saved, to be disarmed by one call. Lives
/// inside the gate.
pub(super) struct Run<'a> {
    pub(super) core: &'a Core,
    /// The page that it began with.
    at: PageIndex,
    /// Its pages, from `start` up to `end`.
    start: usize,
    end: usize,
    epoch: Epoch,
    /// Copies made so far.
    saved: u64,
    /// How many of them nobody has asked for.
    ahead: u64,
}

impl<'a> Run<'a> {
    /// A run of one page, which the caller has claimed.
    pub fn start(core: &'a Core, page: PageIndex, dealt: Epoch) -> Self {
        let saved = core.save(page, dealt);
        Self {
            core,
            at: page,
            start: page.get(),
            end: page.get() + 1,
            epoch: core.epoch(),
            saved: u64::from(saved),
            ahead: 0,
        }
    }

    pub fn range(&self) -> PageRange {
        PageRange::from(self.start..self.end)
    }

    /// The page that it began with.
    pub fn at(&self) -> PageIndex {
        self.at
    }

    /// Whether a copy was made.
    pub fn has_saved(&self) -> bool {
        self.saved > 0
    }

    /// Grows by `act`; counts the copies that it makes as ones that nobody has asked for.
    pub fn ahead<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.saved;
        let result = act(self);
        self.ahead += self.saved - before;
        result
    }

    /// Claims and saves a neighbour; `false` when another thread has it.
    fn take(&mut self, page: PageIndex) -> bool {
        let Some(dealt) = self.core.table.try_claim(page) else {
            return false;
        };
        self.saved += u64::from(self.core.save(page, dealt));
        true
    }

    /// Grows upwards up to page `end`; `false` when it ends before, at a page that another thread
    /// has.
    pub fn grow_up(&mut self, end: usize) -> bool {
        while self.end < end {
            if !self.take(PageIndex::new(self.end)) {
                return false;
            }
            self.end += 1;
        }
        true
    }

    /// Grows downwards down to page `start`; as [`grow_up`](Self::grow_up).
    pub fn grow_down(&mut self, start: usize) -> bool {
        while start < self.start {
            if !self.take(PageIndex::new(self.start - 1)) {
                return false;
            }
            self.start -= 1;
        }
        true
    }

    /// Grows over these pages, as far as nobody else has one.
    pub fn grow_over(&mut self, pages: Range<usize>) {
        self.grow_up(pages.end);
        self.grow_down(pages.start);
    }

    /// Grows over these pages, as far as nobody else has one and no snapshot needs one.
    pub fn grow_without_copies(&mut self, pages: Range<usize>) {
        let core = self.core;
        // Words never go down, and `newest` does not change inside the gate.
        let needs_none = |page| core.table.load(page).epoch() >= core.newest();
        let needs_none = |page| needs_none(PageIndex::new(page));
        while self.end < pages.end && needs_none(self.end) && self.grow_up(self.end + 1) {}
        while pages.start < self.start && needs_none(self.start - 1) {
            if !self.grow_down(self.start - 1) {
                break;
            }
        }
    }

    /// Grows over the neighbours that the window has.
    pub fn grow_to_window(&mut self) {
        let core = self.core;
        if self.saved == 0 || core.window == Window::Page {
            return;
        }
        let window = core.window_around(self.at);
        self.ahead(|run| run.grow_over(window));
    }

    /// With no snapshot and no mark alive nothing is copied or counted, and opening the neighbours
    /// is all but free: the more of the arena was opened one fault at a time, the larger the block,
    /// so that faults soon end. Where the arena is to stand ready, that decides, whether or not a
    /// snapshot lives. `dealt` is what the page's word said.
    pub fn grow_while_nothing_is_saved(&mut self, dealt: Epoch) {
        let core = self.core;
        if let Some(ready) = &core.ready {
            if dealt >= core.newest() {
                self.grow_while_standing_ready(ready);
            }
            return;
        }
        if core.newest() != Epoch::ZERO || core.marks.any() {
            return;
        }
        let faults = core.free_faults.fetch_add(1, Ordering::Relaxed);
        self.grow_over(window::free_block(faults, self.at.get(), core.pages.get()));
    }

    pub fn all_open(&self) -> bool {
        self.range().iter().all(|page| self.core.is_open(page))
    }

    /// One protect call over the run; `false` when the kernel grants no further mapping.
    pub fn disarm(&self) -> bool {
        let core = self.core;
        let range = self.range();
        // Pairs with the reader's fence: a thread that reads a byte stored from here on sees the
        // claims.
        fence(Ordering::Release);
        match core.engine.disarm(range) {
            Ok(()) => {}
            Err(ProtectError::NoMappings) => {
                if range.count().get() > 1 {
                    // Its first pages may be open now, and no commit may miss them.
                    core.doubt.raise();
                    core.dirty.add(range);
                }
                return false;
            }
            Err(ProtectError::Refused(_)) => {
                sys::die("pagecow: the kernel refuses to make a page writable; cannot go on\n")
            }
        }
        if core.engine.splits_mappings() {
            core.mappings.opened(&core.dirty, range, core.pages);
        }
        core.dirty.add(range);
        true
    }

    /// Ends the claims. The pages are dealt with up to the current epoch, disarmed or not.
    pub fn release(self) {
        let core = self.core;
        core.counters.pages_saved(self.saved, self.ahead);
        if self.saved > 0 && matches!(core.window, Window::Adaptive { .. }) {
            let asked = self.saved - self.ahead;
            core.density.saved(self.at, self.range(), asked, self.ahead);
        }
        for page in self.range().iter() {
            core.table.release(page, self.epoch);
        }
    }
}
