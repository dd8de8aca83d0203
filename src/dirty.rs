//! The dirty set: which pages are open (writable), and so must be armed again by the next snapshot.
//!
//! A bit is set *after* the call that disarmed the page and before the claim on it is released; bits
//! are cleared only while the gate is closed and drained. So under a claim, "in the set" means "open",
//! and no late handler can leave an open page that the next commit does not know of. A protect call
//! that failed half way leaves its pages in the set, and "open" in doubt
//! ([`half_armed`](crate::shared::Shared::half_armed)).
//!
//! Two levels of bits, so that neither taking a snapshot nor looking for the nearest open page walks
//! what was never written: 64 GiB of 4 KiB pages has 4096 words in the upper one.

use crate::page::{PageIndex, PageRange};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::sys::Zeroed;

const BITS: usize = u64::BITS as usize;

pub(crate) struct DirtySet {
    pages: usize,
    /// All pages are open, whatever the bits say: never armed so far, or disarmed as a whole.
    everything: AtomicBool,
    /// One bit a page.
    leaves: Zeroed<AtomicU64>,
    /// One bit a word of `leaves`: set when that word has one set.
    summary: Zeroed<AtomicU64>,
}

impl DirtySet {
    /// The set of an arena that was never armed: everything is open.
    pub fn new(pages: usize) -> std::io::Result<Self> {
        let leaves = pages.div_ceil(BITS);
        Ok(Self {
            pages,
            everything: AtomicBool::new(true),
            leaves: Zeroed::new(leaves)?,
            summary: Zeroed::new(leaves.div_ceil(BITS))?,
        })
    }

    pub fn contains(&self, page: PageIndex) -> bool {
        self.everything.load(Ordering::Relaxed) || self.has_bit(page)
    }

    fn has_bit(&self, page: PageIndex) -> bool {
        let bits = self.leaves[page.get() / BITS].load(Ordering::Relaxed);
        bits & (1 << (page.get() % BITS)) != 0
    }

    /// Adds pages that the caller has claimed and disarmed.
    pub fn add(&self, range: PageRange) {
        let (first, last) = (range.first().get(), range.last().get());
        for leaf in first / BITS..=last / BITS {
            let from = first.max(leaf * BITS) % BITS;
            let to = last.min(leaf * BITS + BITS - 1) % BITS;
            let bits = (u64::MAX >> (BITS - 1 - (to - from))) << from;
            self.leaves[leaf].fetch_or(bits, Ordering::Relaxed);
            let summary = &self.summary[leaf / BITS];
            let bit = 1 << (leaf % BITS);
            if summary.load(Ordering::Relaxed) & bit == 0 {
                // Release: who finds the bit finds the leaf's.
                summary.fetch_or(bit, Ordering::Release);
            }
        }
    }

    /// Makes it the set of all pages. Only with the gate closed and drained.
    pub fn add_everything(&self) {
        self.everything.store(true, Ordering::Relaxed);
    }

    /// The pages from the first to the last that is open, or `None`. Only with the gate closed.
    pub fn span(&self) -> Option<PageRange> {
        if self.everything.load(Ordering::Relaxed) {
            return Some(PageRange::all(self.pages));
        }
        let first = self.next_from(0)?;
        let last = self.previous_from(self.pages - 1)?;
        Some(PageRange::new(first, last))
    }

    /// Empties the set. Only with the gate closed and drained.
    pub fn clear(&self) {
        self.everything.store(false, Ordering::Relaxed);
        for (index, summary) in self.summary.iter().enumerate() {
            let mut bits = summary.load(Ordering::Relaxed);
            if bits == 0 {
                continue;
            }
            summary.store(0, Ordering::Relaxed);
            while bits != 0 {
                let leaf = index * BITS + bits.trailing_zeros() as usize;
                self.leaves[leaf].store(0, Ordering::Relaxed);
                bits &= bits - 1;
            }
        }
    }

    /// The open page nearest to `range`, at most `reach` pages away on either side.
    pub fn nearest(&self, range: PageRange, reach: usize) -> Option<PageIndex> {
        let (first, last) = (range.first().get(), range.last().get());
        let below = first
            .checked_sub(1)
            .and_then(|from| self.previous_from(from))
            .map(|page| (first - page.get(), page));
        let above = self
            .next_from(last + 1)
            .map(|page| (page.get() - last, page));
        let (far, page) = below.into_iter().chain(above).min()?;
        (far <= reach).then_some(page)
    }

    /// The first page from `from` upwards that has a bit.
    fn next_from(&self, from: usize) -> Option<PageIndex> {
        if from >= self.pages {
            return None;
        }
        let leaf = from / BITS;
        let here = self.leaves[leaf].load(Ordering::Relaxed) & (u64::MAX << (from % BITS));
        if here != 0 {
            return Some(Self::page(leaf, here.trailing_zeros()));
        }
        let leaf = self.next_leaf(leaf + 1)?;
        let bits = self.leaves[leaf].load(Ordering::Relaxed);
        (bits != 0).then(|| Self::page(leaf, bits.trailing_zeros()))
    }

    /// The last page from `from` downwards that has a bit.
    fn previous_from(&self, from: usize) -> Option<PageIndex> {
        let leaf = from / BITS;
        let mask = u64::MAX >> (BITS - 1 - from % BITS);
        let here = self.leaves[leaf].load(Ordering::Relaxed) & mask;
        if here != 0 {
            return Some(Self::page(leaf, here.ilog2()));
        }
        let leaf = self.previous_leaf(leaf.checked_sub(1)?)?;
        let bits = self.leaves[leaf].load(Ordering::Relaxed);
        (bits != 0).then(|| Self::page(leaf, bits.ilog2()))
    }

    fn page(leaf: usize, bit: u32) -> PageIndex {
        PageIndex::new(leaf * BITS + bit as usize)
    }

    fn next_leaf(&self, from: usize) -> Option<usize> {
        let mut mask = u64::MAX << (from % BITS);
        for index in from / BITS..self.summary.len() {
            let bits = self.summary[index].load(Ordering::Acquire) & mask;
            if bits != 0 {
                return Some(index * BITS + bits.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    fn previous_leaf(&self, from: usize) -> Option<usize> {
        let mut mask = u64::MAX >> (BITS - 1 - from % BITS);
        for index in (0..=from / BITS).rev() {
            let bits = self.summary[index].load(Ordering::Acquire) & mask;
            if bits != 0 {
                return Some(index * BITS + bits.ilog2() as usize);
            }
            mask = u64::MAX;
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn page(index: usize) -> PageIndex {
        PageIndex::new(index)
    }

    #[test]
    fn everything_is_open_until_the_first_clear() {
        let set = DirtySet::new(70).unwrap();
        assert!(set.contains(page(69)));
        assert_eq!(set.span(), Some(PageRange::all(70)));
        set.clear();
        assert!(!set.contains(page(69)));
        assert_eq!(set.span(), None);
        set.add_everything();
        assert!(set.contains(page(0)));
    }

    proptest! {
        /// Against a `BTreeSet`: membership, span and nearest neighbour, over word borders of both levels.
        #[test]
        fn behaves_as_a_set_of_pages(
            runs in prop::collection::vec((0usize..9000, 0usize..200), 0..12),
            probes in prop::collection::vec((0usize..9000, 0usize..9000), 1..20),
        ) {
            const PAGES: usize = 9000;
            let set = DirtySet::new(PAGES).unwrap();
            set.clear();
            let mut model = BTreeSet::new();
            for (first, more) in runs {
                let last = (first + more).min(PAGES - 1);
                set.add(PageRange::new(page(first), page(last)));
                model.extend(first..=last);
            }
            let span = set.span().map(|span| (span.first().get(), span.last().get()));
            prop_assert_eq!(span, model.first().map(|first| (*first, *model.last().unwrap())));
            for (at, reach) in probes {
                prop_assert_eq!(set.contains(page(at)), model.contains(&at));
                let wanted = model.iter().filter(|other| **other != at)
                    .map(|other| other.abs_diff(at)).filter(|far| *far <= reach).min();
                let found = set.nearest(PageRange::new(page(at), page(at)), reach);
                prop_assert_eq!(found.map(|found| found.get().abs_diff(at)), wanted);
                prop_assert!(found.is_none_or(|found| model.contains(&found.get())));
            }
            set.clear();
            prop_assert!(model.iter().all(|at| !set.contains(page(*at))));
            prop_assert_eq!(set.span(), None);
        }
    }
}
