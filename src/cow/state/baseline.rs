//! The snapshot that the arena was last put back to, and which armed pages may hold something else.
//!
//! After a [restore](crate::cow::restore) armed pages hold what they held at the baseline, but for
//! those noted here; what is open may hold anything. So the next restore to the same snapshot looks
//! at these and at no others, however many pages were ever written. Pages that are armed later, by
//! whomever, are noted as they are: they may have been stored to while they were open.

use std::io;
use std::sync::OnceLock;
// Orders nothing, so it is plain in models too: it changes with the gate closed.
use std::sync::atomic::AtomicU64 as Plain64;

use crate::cow::state::dirty::DirtySet;
use crate::epoch::Epoch;
use crate::page::{PageCount, PageIndex, PageRange};
use crate::sync::Ordering;

pub(in crate::cow) struct Baseline {
    /// Its number, or 0.
    of: Plain64,
    /// Pages that may differ from it although they are armed. Made by the first restore.
    differing: OnceLock<DirtySet>,
}

impl Baseline {
    pub const fn none() -> Self {
        Self {
            of: Plain64::new(0),
            differing: OnceLock::new(),
        }
    }

    /// Whether it is the snapshot of this epoch.
    pub fn is(&self, epoch: Epoch) -> bool {
        self.of.load(Ordering::Relaxed) == epoch.get()
    }

    /// Makes the set of differing pages, unless it is there. Under the ledger's lock.
    pub fn make(&self, pages: PageCount) -> io::Result<()> {
        if self.differing.get().is_none() {
            let set = DirtySet::new(pages)?;
            set.remove_everything();
            // Nobody else makes one: the ledger is locked.
            let _ = self.differing.set(set);
        }
        Ok(())
    }

    /// From now on it is the snapshot of this epoch, and no page is noted. It was
    /// [made](Self::make). Only with the gate closed and drained.
    pub fn begin(&self, epoch: Epoch) {
        if let Some(differing) = self.differing.get() {
            differing.remove_everything();
            self.of.store(epoch.get(), Ordering::Relaxed);
        }
    }

    /// There is none any more.
    pub fn end(&self) {
        self.of.store(0, Ordering::Relaxed);
    }

    /// Open pages of this range were armed, and are taken out of the dirty set next. Only with the
    /// gate closed and drained.
    pub fn armed(&self, dirty: &DirtySet, range: PageRange) {
        if self.is(Epoch::ZERO) {
            return;
        }
        let Some(differing) = self.differing.get() else {
            return;
        };
        let mut next = range.start();
        while let Some(run) = dirty.run_from(next..range.end(), 0) {
            differing.add(run);
            next = run.end();
        }
    }

    /// The noted pages that `keep` says stay noted. Only with the gate closed and drained.
    pub fn retain(&self, keep: impl Fn(PageIndex) -> bool) {
        let Some(differing) = self.differing.get() else {
            return;
        };
        let mut next = 0;
        while let Some(page) = differing.first_open(next) {
            if !keep(page) {
                differing.remove(page.into());
            }
            next = page.get() + 1;
        }
    }

    /// The noted pages, ascending.
    pub fn differing(&self) -> impl Iterator<Item = PageIndex> {
        self.differing.get().into_iter().flat_map(DirtySet::iter)
    }
}
