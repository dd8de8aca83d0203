//! The dirty set: which pages are open (writable), and so must be armed again by the next snapshot.
//!
//! A bit is set *after* the call that disarmed the page and before the claim on it is released;
//! bits are cleared only while the gate is closed and drained. So under a claim, "in the set" means
//! "open", and no late handler can leave an open page that the next commit does not know of. A
//! protect call that failed half way leaves its pages in the set, and "open" in
//! [`Doubt`](super::doubt::Doubt).
//!
//! Three levels of bits, so that neither taking a snapshot nor looking for the nearest open page
//! walks what was never written: 16 TiB of 4 KiB pages has 16384 words in the uppermost.

mod slice;

pub(crate) use self::slice::Slice;
use crate::page::{PageCount, PageIndex, PageRange};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::Zeroed;

const BITS: usize = u64::BITS as usize;
const LEVELS: usize = 3;

/// The bits of the word that `from` is in, from there up to `end` or the end of the word.
const fn mask(from: usize, end: usize) -> u64 {
    let above = u64::MAX << (from % BITS);
    let word_end = from / BITS * BITS + BITS;
    if end < word_end {
        above & !(u64::MAX << (end % BITS))
    } else {
        above
    }
}

pub(crate) struct DirtySet {
    pages: PageCount,
    /// All pages from here on are open, whatever the bits say: never armed so far, or disarmed as a
    /// whole.
    open_from: AtomicU32,
    /// The lowest has one bit a page; each other has one bit a word of the one below, set when that
    /// word has one set.
    levels: [Zeroed<AtomicU64>; LEVELS],
}

impl DirtySet {
    /// The set of an arena that was never armed: everything is open.
    pub fn new(pages: PageCount) -> std::io::Result<Self> {
        let leaves = pages.get().div_ceil(BITS);
        let middle = leaves.div_ceil(BITS);
        let top = middle.div_ceil(BITS);
        Ok(Self {
            pages,
            open_from: AtomicU32::new(0),
            levels: [
                Zeroed::new(leaves)?,
                Zeroed::new(middle)?,
                Zeroed::new(top)?,
            ],
        })
    }

    fn leaves(&self) -> &[AtomicU64] {
        &self.levels[0]
    }

    pub fn contains(&self, page: PageIndex) -> bool {
        page.get() >= self.open_from() || self.has_bit(page)
    }

    fn open_from(&self) -> usize {
        self.open_from.load(Ordering::Relaxed) as usize
    }

    fn has_bit(&self, page: PageIndex) -> bool {
        let bits = self.leaves()[page.get() / BITS].load(Ordering::Relaxed);
        bits & (1 << (page.get() % BITS)) != 0
    }

    /// Adds pages that the caller has claimed and disarmed.
    pub fn add(&self, range: PageRange) {
        for (leaf, part) in range.parts(BITS) {
            let bits = mask(part.start(), part.end());
            self.leaves()[leaf].fetch_or(bits, Ordering::Relaxed);
            self.mark(leaf);
        }
    }

    /// Notes in the upper levels that a word of the lowest has bits. A thread that finds a bit set
    /// leaves the levels above to the one that set it, which is inside the gate until that is done.
    fn mark(&self, leaf: usize) {
        let mut below = leaf;
        for level in &self.levels[1..] {
            let word = &level[below / BITS];
            let bit = 1 << (below % BITS);
            if word.load(Ordering::Relaxed) & bit != 0 {
                return;
            }
            // Release: a thread that finds the bit finds those below it.
            if word.fetch_or(bit, Ordering::Release) != 0 {
                return;
            }
            below /= BITS;
        }
    }

    /// Takes a word of the lowest level, which has no bits any more, out of the upper levels. Only
    /// with the gate closed and drained.
    fn unmark(&self, leaf: usize) {
        let mut below = leaf;
        for level in &self.levels[1..] {
            let word = &level[below / BITS];
            let left = word.load(Ordering::Relaxed) & !(1 << (below % BITS));
            word.store(left, Ordering::Relaxed);
            if left != 0 {
                return;
            }
            below /= BITS;
        }
    }

    /// Makes it the set of all pages. Only with the gate closed and drained.
    pub fn add_everything(&self) {
        self.open_from.store(0, Ordering::Relaxed);
    }

    /// Makes it the empty set. Only with the gate closed and drained.
    pub fn remove_everything(&self) {
        self.remove(PageRange::all(self.pages));
    }

    /// Whether each page has a bit of its own.
    pub fn is_exact(&self) -> bool {
        self.open_from() == self.pages.get()
    }

    /// Takes pages out that are all in one [`Slice`]. Only with the gate closed and drained.
    pub fn remove(&self, range: PageRange) {
        let (first, end) = (range.start(), range.end());
        debug_assert!(first <= self.open_from());
        if end > self.open_from() {
            self.open_from.store(end as u32, Ordering::Relaxed);
        }
        let mut at = first;
        while let Some(open) = self.next_bit(0, at, end) {
            let leaf = open / BITS;
            let left = self.leaves()[leaf].load(Ordering::Relaxed) & !mask(open, end);
            self.leaves()[leaf].store(left, Ordering::Relaxed);
            if left == 0 {
                self.unmark(leaf);
            }
            at = leaf * BITS + BITS;
        }
    }

    /// The first open page from `from` on. A guess while pages are opened or armed.
    pub fn first_open(&self, from: usize) -> Option<PageIndex> {
        self.next_open(from, self.pages.get())
    }

    /// The open pages, ascending. A guess while pages are opened or armed.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> {
        std::iter::successors(self.first_open(0), |page| self.first_open(page.get() + 1))
    }

    /// Which of the 64 pages from `first` on are open, the lowest bit for the first; `first` is a
    /// multiple of 64. A guess as [`first_open`](Self::first_open).
    pub fn open_bits(&self, first: usize) -> u64 {
        let all = mask(first, self.pages.get());
        let from = self.open_from().max(first);
        let above = if from < first + BITS {
            mask(from, first + BITS)
        } else {
            0
        };
        (self.leaves()[first / BITS].load(Ordering::Relaxed) | above) & all
    }

    /// The first open page from `from` up to `end`.
    fn next_open(&self, from: usize, end: usize) -> Option<PageIndex> {
        let end = end.min(self.pages.get());
        let bits_end = end.min(self.open_from());
        let open = self
            .next_bit(0, from, bits_end)
            .unwrap_or(from.max(bits_end));
        (open < end).then(|| PageIndex::new(open))
    }

    /// One past the last open page of the run that `page` is in, `end` at most.
    fn run_end(&self, page: usize, end: usize) -> usize {
        let bits_end = end.min(self.open_from());
        let mut at = page;
        while at < bits_end {
            let closed =
                !self.leaves()[at / BITS].load(Ordering::Relaxed) & (u64::MAX << (at % BITS));
            if closed != 0 {
                return (at / BITS * BITS + closed.trailing_zeros() as usize).min(end);
            }
            at = at / BITS * BITS + BITS;
        }
        end
    }

    /// Open pages in a row just below `page`, as far as its word and the one below tell.
    pub fn run_below(&self, page: PageIndex) -> usize {
        let at = page.get();
        let mut run = 0;
        for leaf in (0..=at / BITS).rev().take(2) {
            let end = at.min(leaf * BITS + BITS) - leaf * BITS;
            let bits = self.leaves()[leaf].load(Ordering::Relaxed);
            // The bits below `end`, moved to the top.
            let here = match end {
                0 => continue,
                end => (bits << (BITS - end)).leading_ones() as usize,
            };
            run += here.min(end);
            if here < end {
                break;
            }
        }
        run
    }

    /// Open pages in a row just above `page`, as far as its word and the one above tell.
    pub fn run_above(&self, page: PageIndex) -> usize {
        let at = page.get() + 1;
        let mut run = 0;
        for leaf in (at / BITS..self.leaves().len()).take(2) {
            let from = at.max(leaf * BITS) % BITS;
            let bits = self.leaves()[leaf].load(Ordering::Relaxed);
            let here = (bits >> from).trailing_ones() as usize;
            run += here;
            if here < BITS - from {
                break;
            }
        }
        run
    }

    /// Pages from `first` up to `end` that are not open.
    pub fn closed(&self, first: usize, end: usize) -> usize {
        let end = end.min(self.open_from());
        let mut open = 0;
        let mut at = first;
        while at < end {
            let leaf = at / BITS;
            let bits = self.leaves()[leaf].load(Ordering::Relaxed) & mask(at, end);
            open += bits.count_ones() as usize;
            at = leaf * BITS + BITS;
        }
        end.saturating_sub(first) - open
    }

    /// The open page nearest to `range`, at most `reach` pages away on either side.
    pub fn nearest(&self, range: PageRange, reach: usize) -> Option<PageIndex> {
        let (start, end) = (range.start(), range.end());
        let below = self
            .previous_bit(0, start.saturating_sub(reach), start)
            .map(|page| (start - page, PageIndex::new(page)));
        let above = self
            .next_open(end, end.saturating_add(reach))
            .map(|page| (page.get() + 1 - end, page));
        let (_, page) = below.into_iter().chain(above).min()?;
        Some(page)
    }

    /// The first bit of a level that is set, from `from` up to `end`.
    fn next_bit(&self, level: usize, from: usize, end: usize) -> Option<usize> {
        let mut from = from;
        while from < end {
            let word = from / BITS;
            let bits =
                self.levels[level][word].load(Ordering::Acquire) & (u64::MAX << (from % BITS));
            if bits != 0 {
                let found = word * BITS + bits.trailing_zeros() as usize;
                return (found < end).then_some(found);
            }
            let word = match level + 1 {
                LEVELS => word + 1,
                above => self.next_bit(above, word + 1, end.div_ceil(BITS))?,
            };
            from = word * BITS;
        }
        None
    }

    /// The last bit of a level that is set, from `from` up to `end`.
    fn previous_bit(&self, level: usize, from: usize, end: usize) -> Option<usize> {
        let mut end = end;
        while from < end {
            let word = (end - 1) / BITS;
            let mask = u64::MAX >> (BITS - 1 - (end - 1) % BITS);
            let bits = self.levels[level][word].load(Ordering::Acquire) & mask;
            if bits != 0 {
                let found = word * BITS + bits.ilog2() as usize;
                return (found >= from).then_some(found);
            }
            end = match level + 1 {
                LEVELS => word * BITS,
                above => self.previous_bit(above, from / BITS, word)? * BITS + BITS,
            };
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::ops::Range;

    fn page(index: usize) -> PageIndex {
        PageIndex::new(index)
    }

    #[test]
    fn everything_is_open_until_it_is_taken_out() {
        let set = DirtySet::new(PageCount::new(70)).unwrap();
        assert!(set.contains(page(69)));
        let slice = |pages: Range<usize>, runs| {
            let range = PageRange::from(pages);
            Some(Slice {
                range,
                pages: range.count().get(),
                runs,
            })
        };
        assert_eq!(set.slice(0, 70, 1), slice(0..70, 1));
        // A cursor beyond what was never armed goes back to it.
        assert_eq!(set.slice(40, 10, 1), slice(0..10, 1));
        set.remove((0..10).into());
        assert!(!set.contains(page(9)));
        assert!(set.contains(page(10)));
        assert_eq!(set.slice(0, 70, 1), slice(10..70, 1));
        set.remove((10..70).into());
        assert_eq!(set.slice(0, 70, 70), None);
        set.add_everything();
        assert!(set.contains(page(0)));
    }

    /// More than a word of the middle level stands for.
    const PAGES: usize = 300_000;

    fn somewhere() -> impl Strategy<Value = usize> {
        prop_oneof![0usize..9000, 262_000usize..262_300, 0usize..PAGES]
    }

    proptest! {
        /// Against a `BTreeSet`: membership, slices and nearest neighbour, over word borders of all
        /// levels.
        #[test]
        fn behaves_as_a_set_of_pages(
            runs in prop::collection::vec((somewhere(), 0usize..200), 0..12),
            probes in prop::collection::vec((somewhere(), 0usize..9000), 1..20),
            most in (1usize..500, 1usize..5),
        ) {
            let set = DirtySet::new(PageCount::new(PAGES)).unwrap();
            set.remove(PageRange::all(PageCount::new(PAGES)));
            let mut model = BTreeSet::new();
            for (first, more) in runs {
                let end = (first + more + 1).min(PAGES);
                set.add((first..end).into());
                model.extend(first..end);
            }
            for (at, reach) in probes {
                prop_assert_eq!(set.contains(page(at)), model.contains(&at));
                let wanted = model.iter().filter(|other| **other != at)
                    .map(|other| other.abs_diff(at)).filter(|far| *far <= reach).min();
                let found = set.nearest(page(at).into(), reach);
                prop_assert_eq!(found.map(|found| found.get().abs_diff(at)), wanted);
                prop_assert!(found.is_none_or(|found| model.contains(&found.get())));
                let end = (at + reach).min(PAGES);
                prop_assert_eq!(set.closed(at, end), end - at - model.range(at..end).count());
                // At least the rest of the page's word is looked at, and at most one more.
                let below = (0..at).rev().take_while(|page| model.contains(page)).count();
                let seen = at % BITS..=at % BITS + BITS;
                prop_assert_eq!(set.run_below(page(at)), below.min(*seen.end()));
                let above = (at + 1..PAGES).take_while(|page| model.contains(page)).count();
                let seen = (2 * BITS) - (at + 1) % BITS;
                prop_assert_eq!(set.run_above(page(at)), above.min(seen));
            }
            let mut runs = Vec::new();
            let mut from = 0;
            while let Some(run) = set.run_from(from..PAGES, most.1) {
                prop_assert!(model.contains(&run.start()) && model.contains(&(run.end() - 1)));
                runs.push(run);
                from = run.end();
            }
            let far = |two: &[PageRange]| two[1].start() - two[0].end() > most.1;
            prop_assert!(runs.windows(2).all(far));
            prop_assert_eq!(runs.iter().flat_map(|run| run.iter())
                .filter(|page| model.contains(&page.get())).count(), model.len());
            // Slice by slice until nothing is left.
            let mut from = 0;
            while let Some(slice) = set.slice(from, most.0, most.1) {
                let pages = slice.range.start()..slice.range.end();
                let inside: Vec<usize> = model.range(pages.clone()).copied().collect();
                prop_assert_eq!(model.range(from..).next(), Some(&pages.start));
                prop_assert_eq!(inside[0]..inside[inside.len() - 1] + 1, pages.clone());
                prop_assert_eq!(slice.pages, inside.len());
                let breaks = inside.windows(2).filter(|pair| pair[0] + 1 < pair[1]).count();
                prop_assert_eq!(slice.runs, breaks + 1);
                // The same, cut at a border of 256 pages.
                let cut = |end: usize| end.next_multiple_of(256);
                let longer = set.slice_up_to(from, most.0, most.1, cut).unwrap();
                let end = longer.range.end();
                prop_assert!(end == pages.end || end <= cut(pages.end));
                prop_assert!(end.is_multiple_of(256) || end == PAGES || !model.contains(&end) || end == pages.end
                    && slice.runs == most.1 && slice.pages < most.0);
                prop_assert_eq!(longer.pages, model.range(pages.start..end).count());
                prop_assert!(slice.pages <= most.0 && slice.runs <= most.1);
                set.remove(slice.range);
                prop_assert!(inside.iter().all(|at| !set.contains(page(*at))));
                from = pages.end;
            }
            prop_assert_eq!(model.range(from..).next(), None);
            prop_assert_eq!(set.slice(0, PAGES, PAGES), None);
        }

        /// Slice by slice around pages that stay open, also where nothing was ever armed.
        #[test]
        fn slices_leave_out_what_is_kept(
            closed in 0usize..900,
            opened in prop::collection::vec((0usize..900, 0usize..50), 0..8),
            kept in prop::collection::vec((0usize..900, 1usize..200), 0..4),
            most in (1usize..300, 1usize..5),
        ) {
            const PAGES: usize = 900;
            let set = DirtySet::new(PageCount::new(PAGES)).unwrap();
            let mut model: BTreeSet<usize> = (0..PAGES).collect();
            if closed > 0 {
                set.remove((0..closed).into());
                model.retain(|at| *at >= closed);
            }
            for (first, more) in opened {
                let end = (first + more + 1).min(PAGES);
                set.add((first..end).into());
                model.extend(first..end);
            }
            let kept = kept.iter().map(|(start, more)| *start..(start + more).min(PAGES));
            let kept: Vec<PageRange> = kept.map(PageRange::from).collect();
            let is_kept = |at| kept.iter().any(|kept| (kept.start()..kept.end()).contains(&at));
            let mut from = 0;
            while let Some(slice) = set.slice_outside(from, most.0, most.1, &kept, |end| end) {
                let pages = slice.range.start()..slice.range.end();
                prop_assert!(!pages.clone().any(is_kept));
                prop_assert_eq!(slice.pages, model.range(pages.clone()).count());
                set.remove(slice.range);
                model.retain(|at| !pages.contains(at));
                from = pages.end;
                prop_assert!((0..PAGES).all(|at| set.contains(page(at)) == model.contains(&at)));
            }
            prop_assert!(model.iter().all(|at| is_kept(*at)));
        }
    }
}
