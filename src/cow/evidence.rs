//! What a fault's window is decided by: how dense the writes were here, and how many of the copies
//! made so far were of pages that were written.
//!
//! The latter is estimated by comparing copies with the arena: a copy that differs from its live
//! page was of a page that was written ([`crate::window`]).

use std::ops::Range;

use crate::cow::core::Core;
use crate::page::PageIndex;
use crate::window::{self, Block, Evidence};

impl Core {
    /// The pages that a first write to `page`, which has been saved, deals with.
    pub(super) fn window_around(&self, page: PageIndex) -> Range<usize> {
        let saved = self.counters.saved_since_commit() + 1;
        let left = (self.pages.get() as u64).saturating_sub(saved) as usize;
        if self.store.free() < left || self.baseline.is_there() {
            // A copy ahead might take a frame that a write needs. And where it is restored again
            // and again, each page is copied once but looked at whenever it was open.
            return page.get()..page.get() + 1;
        }
        if self.density.ahead() > 0 {
            self.compare_a_copy(saved);
        }
        let (small, large) = self.density.around(page);
        let one_more = |block: Block| Block {
            now: block.now + 1,
            ..block
        };
        let evidence = Evidence {
            written: self.density.written() + 1,
            before: self.density.before(),
            ahead: self.density.ahead(),
            small: one_more(small),
            large: one_more(large),
            run_below: self.dirty.run_below(page),
            run_above: self.dirty.run_above(page),
            fault_cost: self.engine.fault_cost(),
        };
        window::choose(
            self.window,
            page.get(),
            self.pages.get(),
            &evidence,
            |range| self.dirty.closed(range.start, range.end),
        )
    }

    /// Compares one pseudo-randomly chosen copy with its live page, to learn whether the page was
    /// written; `number` seeds the choice. Does nothing unless the newest snapshot ever taken is
    /// still alive: an older one has copies from before, too. Async-signal-safe.
    fn compare_a_copy(&self, number: u64) {
        let newest = self.newest();
        if newest != self.epoch() {
            return;
        }
        // Older snapshots' copies are passed over.
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut tries = (0..4).map(|time| random.wrapping_add(time * 0x9e37_79b9));
        if let Some(frame) = tries.find_map(|random| self.store.sample(random, newest.get())) {
            let differs = self.store.differs(frame, self.engine.memory());
            self.density.compared(differs);
        }
    }

    /// How many copies to compare before this period ends: before the snapshot goes that they were
    /// made for, or another is taken.
    pub fn copies_to_compare(&self) -> usize {
        const MOST: usize = 1024;
        if self.density.ahead() == 0 || self.newest() != self.epoch() {
            return 0;
        }
        (self.density.copies() as usize / 16).clamp(8, MOST)
    }

    /// Compares copies with the arena, those of these numbers. Number 0 begins a new sample.
    pub fn compare_copies(&self, numbers: Range<usize>) {
        if numbers.start == 0 && !numbers.is_empty() {
            self.density.forget_comparisons();
        }
        for number in numbers {
            self.compare_a_copy(number as u64 + 1);
        }
    }
}
