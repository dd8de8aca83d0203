//! The protocol of a first write: claim the page, save it, disarm it, note it as dirty, release it;
//! for it and its neighbours together ([`crate::cow::run`]).
//!
//! Called by the SIGSEGV handler for one page and by [`crate::cow::guard`] for a range; everything
//! here is async-signal-safe (invariant 6), and outside the handler it is called with signals
//! masked.
//!
//! A thread that has to wait - for the gate, or for another thread's claim - holds no claim, is not
//! inside the gate, and starts again from the top.

use crate::cow::core::Core;
use crate::cow::run::Run;
use crate::epoch::Epoch;
use crate::page::{PageIndex, PageRange};
use crate::sys;

/// What it took to make a page writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The page was saved.
    Saved,
    /// It was armed, but no copy was made: no live snapshot needed one, or the store had none to
    /// give.
    Soft,
    /// It was writable already.
    Already,
}

/// Most pages that `make_writable` claims and disarms at one time: an aligned block of them, which
/// may be a huge page.
const BATCH: usize = 512;

impl Core {
    /// Makes `page` writable after a store to it was refused.
    pub fn first_write(&self, page: PageIndex) -> Opened {
        let mut saved = false;
        loop {
            self.gate.enter();
            let Some(dealt) = self.table.try_claim(page) else {
                self.gate.leave();
                self.table.wait_free(page);
                continue;
            };
            if self.is_open(page) {
                self.table.release(page, dealt);
                self.gate.leave();
                return if saved {
                    Opened::Saved
                } else {
                    Opened::Already
                };
            }
            let mut run = Run::start(self, page, dealt);
            saved |= run.has_saved();
            run.grow_while_nothing_is_saved(dealt);
            run.grow_to_window();
            let open = run.disarm_near_the_wall();
            run.release();
            self.gate.leave();
            if open || self.open_everything() {
                return if saved { Opened::Saved } else { Opened::Soft };
            }
        }
    }

    /// Counts a fault that was resolved, which took this many nanoseconds.
    #[cfg(not(loom))]
    pub fn count_fault(&self, opened: Opened, nanoseconds: u64) {
        self.counters.waited(nanoseconds);
        match opened {
            Opened::Saved => self.counters.saved_fault(nanoseconds),
            Opened::Soft => {
                self.counters.soft_fault();
                if let Some(ready) = &self.ready {
                    ready.tokens.charge_fault(nanoseconds);
                }
            }
            Opened::Already => self.counters.spurious_fault(),
        }
    }

    /// Makes all pages of `range` writable. The caller keeps commits away, or does not mind that a
    /// commit arms them again.
    pub fn make_writable(&self, range: PageRange) {
        let end = range.end();
        let mut next = range.start();
        while next < end {
            let page = PageIndex::new(next);
            // Claims are held outside the handler here: a signal handler that stores to a claimed
            // page would wait for the thread that it interrupts.
            let _masked = sys::signal::Masked::new();
            self.gate.enter();
            let Some(dealt) = self.table.try_claim(page) else {
                self.gate.leave();
                self.table.wait_free(page);
                continue;
            };
            let mut run = Run::start(self, page, dealt);
            run.grow_up((next + 1).next_multiple_of(BATCH).min(end));
            let done = run.range().end();
            let open = run.all_open() || run.disarm_near_the_wall();
            run.release();
            self.gate.leave();
            if open || self.open_everything() {
                next = done;
            }
        }
    }

    /// Whether a page that the caller has claimed is certain to be open.
    pub(super) fn is_open(&self, page: PageIndex) -> bool {
        self.dirty.contains(page) && !self.doubt.is_raised()
    }

    /// Saves a page that no one else can disarm meanwhile: it is claimed, or the gate is closed.
    /// `dealt` is what its word says. Returns whether a copy was made.
    pub(super) fn save(&self, page: PageIndex, dealt: Epoch) -> bool {
        let newest = self.newest();
        if newest <= dealt || self.losses.cover(dealt) {
            return false;
        }
        let Some(frame) = self.store.take() else {
            self.losses.add(dealt);
            return false;
        };
        self.store.fill(frame, self.engine.memory(), page);
        self.versions
            .publish(&self.store, frame, page, dealt, newest);
        true
    }
}
