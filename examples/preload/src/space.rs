//! Which pages of the served address space are handed out. Allocates nothing.
//!
//! A page is *free* (zeros, and no memory behind it), *taken*, or *unclean*: given back while a
//! child of a fork may look at it, so that it cannot be made zeros yet.

use std::ops::Range;

/// Pages from which on a run begins at a multiple of as many: allocators ask for such, and then
/// give back what lies before it.
const ALIGNED: usize = 512;

/// One bit a page.
pub struct Bits(&'static mut [u64]);

pub struct Space {
    /// Taken or unclean.
    used: Bits,
    unclean: Bits,
    unclean_pages: usize,
    /// No page below is free.
    lowest: usize,
    /// No page from here on was ever taken.
    border: usize,
    pages: usize,
}

impl Bits {
    /// `words` are zeros.
    pub fn new(words: &'static mut [u64]) -> Self {
        Self(words)
    }

    #[cfg(test)]
    fn has(&self, page: usize) -> bool {
        self.0[page / 64] >> (page % 64) & 1 == 1
    }

    fn set(&mut self, pages: Range<usize>, to: bool) {
        let mut page = pages.start;
        while page < pages.end {
            let in_word = page % 64;
            let count = (64 - in_word).min(pages.end - page);
            let mask = (u64::MAX >> (64 - count)) << in_word;
            if to {
                self.0[page / 64] |= mask;
            } else {
                self.0[page / 64] &= !mask;
            }
            page += count;
        }
    }

    /// The first page from `from` on, and below `end`, whose bit is `wanted`; or `end`.
    fn next(&self, from: usize, end: usize, wanted: bool) -> usize {
        let mut page = from;
        while page < end {
            let word = self.0[page / 64];
            let rest = (if wanted { word } else { !word }) >> (page % 64);
            if rest != 0 {
                return (page + rest.trailing_zeros() as usize).min(end);
            }
            page = (page / 64 + 1) * 64;
        }
        end
    }
}

impl Space {
    /// All free. Each has a bit for each page.
    pub fn new(pages: usize, used: Bits, unclean: Bits) -> Self {
        Self {
            used,
            unclean,
            unclean_pages: 0,
            lowest: 0,
            border: 0,
            pages,
        }
    }

    /// Pages below which all are that were ever taken.
    pub fn border(&self) -> usize {
        self.border
    }

    /// Takes a run of free pages.
    pub fn take(&mut self, count: usize) -> Option<usize> {
        let aligned = count >= ALIGNED;
        let mut start = self.used.next(self.lowest, self.pages, false);
        self.lowest = start;
        loop {
            if aligned {
                start = start.next_multiple_of(ALIGNED);
            }
            let end = start.checked_add(count).filter(|end| *end <= self.pages)?;
            let taken = self.used.next(start, end, true);
            if taken == end {
                self.mark_taken(start..end);
                return Some(start);
            }
            start = self.used.next(taken, self.pages, false);
        }
    }

    /// Takes exactly these pages, if all are free.
    pub fn take_at(&mut self, pages: Range<usize>) -> bool {
        let is_free =
            pages.end <= self.pages && self.used.next(pages.start, pages.end, true) == pages.end;
        if is_free {
            self.mark_taken(pages);
        }
        is_free
    }

    /// Takes these pages, whatever they were: the program has something else mapped there.
    pub fn take_over(&mut self, pages: Range<usize>) {
        let mut page = pages.start;
        while page < pages.end {
            let start = self.unclean.next(page, pages.end, true);
            page = self.unclean.next(start, pages.end, false);
            self.unclean_pages -= page - start;
        }
        self.unclean.set(pages.clone(), false);
        self.mark_taken(pages);
    }

    fn mark_taken(&mut self, pages: Range<usize>) {
        self.border = self.border.max(pages.end);
        if self.lowest == pages.start {
            self.lowest = pages.end;
        }
        self.used.set(pages, true);
    }

    /// The first run of taken pages in this range.
    pub fn next_taken(&self, pages: Range<usize>) -> Option<Range<usize>> {
        let mut start = pages.start;
        loop {
            start = self.used.next(start, pages.end, true);
            if start == pages.end {
                return None;
            }
            let used = self.used.next(start, pages.end, false);
            let unclean = self.unclean.next(start, used, true);
            if unclean > start {
                return Some(start..unclean);
            }
            start = self.unclean.next(start, used, false);
        }
    }

    /// Taken pages, which are zeros again, are free.
    pub fn free(&mut self, pages: Range<usize>) {
        self.lowest = self.lowest.min(pages.start);
        self.used.set(pages, false);
    }

    /// Taken pages are given back, but are no zeros yet.
    pub fn free_unclean(&mut self, pages: Range<usize>) {
        self.unclean_pages += pages.len();
        self.unclean.set(pages, true);
    }

    /// Takes the first run of unclean pages from `from` on.
    pub fn take_unclean(&mut self, from: usize) -> Option<Range<usize>> {
        if self.unclean_pages == 0 {
            return None;
        }
        let start = self.unclean.next(from, self.border, true);
        let run = start..self.unclean.next(start, self.border, false);
        self.unclean_pages -= run.len();
        self.unclean.set(run.clone(), false);
        (!run.is_empty()).then_some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: usize = 3000;

    fn space() -> Space {
        let bits = || Bits::new(vec![0; PAGES.div_ceil(64)].leak());
        Space::new(PAGES, bits(), bits())
    }

    #[test]
    fn runs_do_not_overlap_and_are_found_again() {
        let mut space = space();
        assert_eq!(space.take(3), Some(0));
        assert_eq!(space.take(70), Some(3));
        assert_eq!(space.take(ALIGNED), Some(ALIGNED));
        assert_eq!(space.take(1), Some(73));
        space.free(1..2);
        assert_eq!(space.take(2), Some(74));
        assert_eq!(space.take(1), Some(1));
        assert_eq!(space.border(), 2 * ALIGNED);
        assert_eq!(space.take(PAGES), None);
        assert!(space.take_at(76..80));
        assert!(!space.take_at(79..81));
        assert!(!space.take_at(PAGES - 1..PAGES + 1));
    }

    #[test]
    fn unclean_pages_are_not_handed_out() {
        let mut space = space();
        assert_eq!(space.take(200), Some(0));
        space.free_unclean(50..130);
        assert_eq!(space.next_taken(0..200), Some(0..50));
        assert_eq!(space.next_taken(50..200), Some(130..200));
        assert_eq!(space.next_taken(60..100), None);
        assert_eq!(space.take(1), Some(200));
        assert_eq!(space.take_unclean(130), None);
        assert_eq!(space.take_unclean(0), Some(50..130));
        assert_eq!(space.take_unclean(0), None);
        space.free(50..130);
        assert_eq!(space.take(80), Some(50));
    }

    /// Against a plain list of pages.
    #[test]
    fn random_operations() {
        let mut space = space();
        let mut model = vec![0u8; PAGES];
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let start = random(PAGES - 100);
            let range = start..start + 1 + random(99);
            match random(5) {
                4 if random(4) == 0 => {
                    space.take_over(range.clone());
                    model[range].fill(1);
                }
                0 => {
                    let count = 1 + random(60);
                    if let Some(start) = space.take(count) {
                        let taken = &mut model[start..start + count];
                        assert!(taken.iter().all(|kind| *kind == 0));
                        taken.fill(1);
                    }
                }
                1 | 2 => {
                    let unclean = random(2) == 0;
                    let mut rest = range;
                    while let Some(run) = space.next_taken(rest.clone()) {
                        assert!(model[run.clone()].iter().all(|kind| *kind == 1));
                        model[run.clone()].fill(if unclean { 2 } else { 0 });
                        if unclean {
                            space.free_unclean(run.clone());
                        } else {
                            space.free(run.clone());
                        }
                        rest.start = run.end;
                    }
                    assert!(!model[rest].contains(&1));
                }
                _ => {
                    if let Some(run) = space.take_unclean(start) {
                        assert!(model[run.clone()].iter().all(|kind| *kind == 2));
                        model[run.clone()].fill(0);
                        space.free(run);
                    }
                }
            }
            let unclean_pages = model.iter().filter(|kind| **kind == 2).count();
            assert_eq!(space.unclean_pages, unclean_pages);
            let (used, unclean) = (&space.used, &space.unclean);
            for page in [start, PAGES - 1 - start] {
                assert_eq!(used.has(page), model[page] != 0);
                assert_eq!(unclean.has(page), model[page] == 2);
            }
        }
    }
}
