//! Putting the arena back to what a snapshot holds.
//!
//! It stores as any writer does: a page that is armed is saved first for the snapshots that need
//! it, and opened ([`fault`](crate::cow::fault)). So other snapshots stay exact, no epoch changes,
//! and no page word goes down. The copies stay with the snapshot, which may be restored again.
//!
//! Which pages: where the snapshot is the [baseline](crate::cow::state::baseline), those that are
//! open, and those noted there; else those of which it has a copy, since a page that has none was
//! not stored to since. Of these, the ones that differ.
//!
//! Then all are armed but those that are stored to again and again, in the order
//! 1. close the gate and drain it;
//! 2. begin the baseline; arm what is open, which notes it there;
//! 3. compare each noted page with its copy; one that is the same is not noted any more;
//! 4. open the gate.
//!
//! Between 2 and 4 no store succeeds, so what 3 finds the same is the same. A store by another
//! thread that fell between the copying and 2 is found by 3: the next restore brings it back.
//!
//! The ledger is locked throughout: no snapshot is taken of half of it, and nobody arms.

use crate::cow::core::Core;
use crate::cow::state::ledger::{Ledger, Live};
use crate::error::{Error, Result};
use crate::page::{PageIndex, PageRange};
use crate::store::Frame;
use crate::sys;
use crate::window;

/// What a restore did. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Restored {
    /// Pages that differed and were brought back.
    pub pages: usize,
    /// All of it, but for waiting for guards.
    pub took_ns: u64,
    /// Arming, and looking for what was stored meanwhile.
    pub arming_ns: u64,
}

impl Core {
    /// Brings back what was stored since the snapshot.
    pub fn restore(&self, snapshot: &Live) -> Result<Restored> {
        let (ledger, _) = self.ledger_without_guard()?;
        self.baseline
            .make(self.pages)
            .map_err(|source| Error::Reserve {
                bytes: self.pages.get() / u8::BITS as usize,
                source,
            })?;
        self.check(snapshot)?;
        let begin = sys::clock::now();
        let copies = self.copies_that_differ(snapshot);
        let pages: Vec<PageIndex> = copies.iter().map(|(page, _)| *page).collect();
        self.open(&ledger, &pages);
        for (page, frame) in &copies {
            self.store.put_back(*frame, self.engine.memory(), *page);
        }
        let arming = sys::clock::now();
        let again = self.baseline.bring_back(snapshot.epoch, pages);
        self.arm_at_baseline(&ledger, snapshot, &again);
        let end = sys::clock::now();
        drop(ledger);
        self.confirm()?;
        self.check(snapshot)?;
        Ok(Restored {
            pages: copies.len(),
            took_ns: end.saturating_sub(begin),
            arming_ns: end.saturating_sub(arming),
        })
    }

    /// The pages that differ from what the snapshot holds, with its copies of them.
    fn copies_that_differ(&self, snapshot: &Live) -> Vec<(PageIndex, Frame)> {
        let copy = |page| Some((page, self.copy_for(snapshot, page)?));
        let mut copies: Vec<_> = if self.baseline.is(snapshot.epoch) {
            let open = self.dirty.iter();
            self.baseline
                .differing()
                .chain(open)
                .filter_map(copy)
                .collect()
        } else {
            let serves = |frame: &Frame| self.store.meta(*frame).serves(snapshot.epoch.get());
            let frames = self.store.frames().filter(serves);
            frames
                .map(|frame| (self.store.meta(frame).page(), frame))
                .collect()
        };
        copies.retain(|(_, frame)| self.store.differs(*frame, self.engine.memory()));
        copies.sort_unstable();
        copies.dedup();
        copies
    }

    /// The snapshot's copy of a page.
    fn copy_for(&self, snapshot: &Live, page: PageIndex) -> Option<Frame> {
        self.versions.find(&self.store, page, snapshot.epoch)
    }

    /// Opens pages, which come in ascending order. They stay open while the ledger is locked.
    pub(super) fn open(&self, _ledger: &Ledger, pages: &[PageIndex]) {
        let is_next = |a: &PageIndex, b: &PageIndex| a.get() + 1 == b.get();
        for run in pages.chunk_by(is_next) {
            // Nobody arms what is open now.
            if !run.iter().all(|page| self.is_open(*page)) {
                let first = run[0].get();
                self.make_writable(PageRange::from(first..first + run.len()));
            }
        }
    }

    /// Arms all pages but those of `kept`, ascending, and notes which of them are not what the
    /// snapshot holds. When the system refuses, they stay open: the next restore looks at all of
    /// them.
    fn arm_at_baseline(&self, _ledger: &Ledger, snapshot: &Live, kept: &[PageRange]) {
        let masked = sys::signal::Masked::new();
        self.gate.close();
        self.baseline.begin(snapshot.epoch);
        if self.arm_outside(kept).is_ok() {
            self.baseline.retain(|page| {
                let copy = self.copy_for(snapshot, page);
                copy.is_none_or(|copy| self.store.differs(copy, self.engine.memory()))
            });
        }
        self.gate.open();
        drop(masked);
    }

    /// Arms what lies between these pages. All of it where each border counts, or where not even
    /// the bits say what is open. Gate closed and drained.
    fn arm_outside(&self, kept: &[PageRange]) -> Result<()> {
        let in_use = sys::mappings::in_use();
        let is_scarce = window::reach(in_use, sys::mappings::limit()) > 0;
        if kept.is_empty() || !self.dirty.is_exact() || self.engine.splits_mappings() && is_scarce {
            return self.arm(self.all_dirty()).map(drop);
        }
        let ends = kept.iter().map(|run| run.end());
        let starts = kept.iter().map(|run| run.start());
        let all = starts.chain([self.pages.get()]);
        for (from, to) in std::iter::once(0).chain(ends).zip(all) {
            self.arm(self.dirty.slice_within(from..to))?;
        }
        Ok(())
    }
}
