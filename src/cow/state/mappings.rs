//! An estimate of the kernel mappings that an arena is made of.
//!
//! Each border between an armed and an open page is a border between two mappings. Exact while one
//! thread writes; neighbours that are opened at the same moment are counted apart, which errs on
//! the safe side and is put right by the next commit.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::cow::state::dirty::DirtySet;
use crate::page::{PageCount, PageIndex, PageRange};
use crate::sys;

/// The pages of an arena and the guard page on either side.
const UNBROKEN: i64 = 3;

pub(crate) struct Mappings {
    now: AtomicI64,
    peak: AtomicI64,
    /// How many are left when all pages have the same protection.
    least: AtomicI64,
}

impl Mappings {
    pub fn new() -> Self {
        sys::mappings::add(UNBROKEN);
        Self {
            now: AtomicI64::new(UNBROKEN),
            peak: AtomicI64::new(UNBROKEN),
            least: AtomicI64::new(UNBROKEN),
        }
    }

    /// Counts what opening `range` splits and joins; called before it is added to the dirty set.
    pub fn opened(&self, dirty: &DirtySet, range: PageRange, pages: PageCount) {
        let below = range.first().below();
        let above = PageIndex::checked(range.end(), pages);
        let low = range.start() - usize::from(below.is_some());
        let end = range.end() + usize::from(above.is_some());
        let mut previous = dirty.contains(PageIndex::new(low));
        let mut borders = 0;
        for index in low + 1..end {
            let open = dirty.contains(PageIndex::new(index));
            borders -= i64::from(open != previous);
            previous = open;
        }
        borders += i64::from(below.is_some_and(|page| !dirty.contains(page)));
        borders += i64::from(above.is_some_and(|page| !dirty.contains(page)));
        self.change(borders);
    }

    /// Whether the arena consists of more mappings than it has to.
    pub fn is_split(&self) -> bool {
        self.now.load(Ordering::Relaxed) > self.least.load(Ordering::Relaxed)
    }

    /// `runs` runs of open pages were armed.
    pub fn joined(&self, runs: usize) {
        let now = self.now.load(Ordering::Relaxed);
        let least = self.least.load(Ordering::Relaxed);
        self.change((now - 2 * runs as i64).max(least) - now);
    }

    /// All pages have the same protection again.
    pub fn reset(&self) {
        let least = self.least.load(Ordering::Relaxed);
        self.change(least - self.now.load(Ordering::Relaxed));
    }

    /// In the child of a fork each mapping has bookkeeping of its own, and none merge any more.
    #[cfg(not(loom))]
    pub fn forked(&self) {
        self.least
            .store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).unsigned_abs()
    }

    fn change(&self, by: i64) {
        if by != 0 {
            sys::mappings::add(by);
            let now = self.now.fetch_add(by, Ordering::Relaxed) + by;
            self.peak.fetch_max(now, Ordering::Relaxed);
        }
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        sys::mappings::add(-self.now.load(Ordering::Relaxed));
    }
}
