//! The snapshot that the arena was last put back to, and which armed pages may hold something else.
//!
//! After a [restore](crate::cow::restore) armed pages hold what they held at the baseline, but for
//! those noted here; what is open may hold anything. So the next restore to the same snapshot looks
//! at these and at no others, however many pages were ever written. Pages that are armed later, by
//! whomever, are noted as they are: they may have been stored to while they were open.
//!
//! Pages that were brought back by two restores in a row are likely to be stored to again. They
//! stay open, so that a loop that stores to the same pages takes no faults.

use std::io;
use std::sync::{MutexGuard, OnceLock, PoisonError};
// They order nothing, so they are plain in models too: they change under the ledger's lock.
use std::sync::Mutex as PlainMutex;
use std::sync::atomic::AtomicU64 as Plain64;

use crate::cow::state::dirty::DirtySet;
use crate::epoch::Epoch;
use crate::page::{PageCount, PageIndex, PageRange, push_page};
use crate::sync::Ordering;

pub(in crate::cow) struct Baseline {
    /// Its number, or 0.
    of: Plain64,
    /// Pages that may differ from it although they are armed. Made by the first restore.
    differing: OnceLock<DirtySet>,
    /// The pages that the last restore brought back, ascending.
    brought_back: PlainMutex<Vec<PageIndex>>,
}

impl Baseline {
    pub const fn none() -> Self {
        Self {
            of: Plain64::new(0),
            differing: OnceLock::new(),
            brought_back: PlainMutex::new(Vec::new()),
        }
    }

    /// A restore to the snapshot of this epoch brings back these pages, ascending. Returns those
    /// that the one before brought back, too.
    pub fn bring_back(&self, epoch: Epoch, pages: Vec<PageIndex>) -> Vec<PageRange> {
        let mut last = lock_plain(&self.brought_back);
        let mut again: Vec<PageRange> = Vec::new();
        if self.is(epoch) {
            let mut before = last.iter().copied().peekable();
            for page in &pages {
                while before.next_if(|before| before < page).is_some() {}
                if before.next_if_eq(page).is_none() {
                    continue;
                }
                push_page(&mut again, *page);
            }
        }
        *last = pages;
        again
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        !self.is(Epoch::ZERO)
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
        *lock_plain(&self.brought_back) = Vec::new();
    }

    /// Open pages of this range were armed, and are taken out of the dirty set next. Only with the
    /// gate closed and drained.
    pub fn armed(&self, dirty: &DirtySet, range: PageRange) {
        if !self.is_there() {
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

fn lock_plain<T>(mutex: &PlainMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_brought_back_twice_in_a_row_are_told() {
        let pages = |pages: &[usize]| pages.iter().copied().map(PageIndex::new).collect();
        let baseline = Baseline::none();
        baseline.make(PageCount::new(100)).unwrap();
        let epoch = Epoch::new(3);
        assert_eq!(baseline.bring_back(epoch, pages(&[1, 2, 3])), []);
        baseline.begin(epoch);
        let again = baseline.bring_back(epoch, pages(&[0, 2, 3, 5, 9]));
        assert_eq!(again, [PageRange::from(2..4)]);
        let again = baseline.bring_back(epoch, pages(&[1, 5, 6, 9]));
        assert_eq!(again, [PageRange::from(5..6), PageRange::from(9..10)]);
        assert_eq!(baseline.bring_back(Epoch::new(2), pages(&[1, 5])), []);
    }
}
