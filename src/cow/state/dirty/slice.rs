//! Parts of the dirty set that are armed by one call.

use std::ops::Range;

use super::DirtySet;
use crate::page::PageRange;
use crate::sync::Ordering;

/// A part of the dirty set that can be armed by one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// From the first to the last of its pages; what lies between and is not open is armed already.
    pub range: PageRange,
    /// Open pages in it.
    pub pages: usize,
    /// Runs of neighbours that these are.
    pub runs: usize,
}

impl DirtySet {
    /// A stretch that starts at an open page, the first one from `from` on, and has at most `pages`
    /// of them (one at least) in at most `runs` runs; and how many pages and runs those are. `None`
    /// when no page from there on is open. A guess while pages are opened or armed.
    pub fn slice(&self, from: usize, pages: usize, runs: usize) -> Option<Slice> {
        self.slice_up_to(from, pages, runs, |end| end)
    }

    /// The same; a run of which not all fits in is cut at `cut`, which is given the first page that
    /// does not fit, and may answer with a later one. A guess as [`slice`](Self::slice).
    pub fn slice_up_to(
        &self,
        from: usize,
        pages: usize,
        runs: usize,
        cut: impl Fn(usize) -> usize,
    ) -> Option<Slice> {
        // What lies beyond a page that was never armed must not be armed before it.
        let first = self.next_open(from.min(self.open_from()), self.pages.get())?;
        let mut slice = Slice {
            range: first.into(),
            pages: 0,
            runs: 0,
        };
        let mut next = Some(first);
        while let Some(start) = next
            && slice.pages < pages
            && slice.runs < runs
        {
            let start = start.get();
            let full = start
                .saturating_add(pages - slice.pages)
                .min(self.pages.get());
            // A thread that only asks may come while a commit clears what it looks at.
            let mut end = self.run_end(start, full).max(start + 1);
            if end == full {
                end = self.run_end(end, cut(end).min(self.pages.get())).max(end);
            }
            slice.range = PageRange::from(first.get()..end);
            slice.pages += end - start;
            slice.runs += 1;
            next = self.next_open(end, self.pages.get());
        }
        Some(slice)
    }

    /// As [`slice_up_to`](Self::slice_up_to), without the pages `kept`, which stay open and between
    /// slices. They come in any order. Only with the gate closed and drained.
    pub fn slice_outside(
        &self,
        from: usize,
        pages: usize,
        runs: usize,
        kept: &[PageRange],
        cut: impl Fn(usize) -> usize,
    ) -> Option<Slice> {
        let mut from = from;
        loop {
            let slice = self.slice_up_to(from, pages, runs, &cut)?;
            let (start, end) = (slice.range.start(), slice.range.end());
            let inside = |kept: &&PageRange| kept.start() < end && start < kept.end();
            let Some(kept) = kept.iter().filter(inside).min_by_key(|kept| kept.start()) else {
                return Some(slice);
            };
            let below = kept.start().saturating_sub(start) - self.closed(start, kept.start());
            if below > 0 {
                return self.slice(start, below, runs);
            }
            from = kept.end();
            if from >= self.pages.get() {
                return None;
            }
            if from > self.open_from() {
                // Once bits say that these pages are open, what lies beyond may be armed.
                let first = kept.start().max(self.open_from());
                self.add((first..from).into());
                self.open_from.store(from as u32, Ordering::Relaxed);
            }
        }
    }

    /// The first run of open pages in `pages`, and the further ones that are at most `close` pages
    /// from the one before. Only with the gate closed.
    pub fn run_from(&self, pages: Range<usize>, close: usize) -> Option<PageRange> {
        let end = pages.end;
        let first = self.next_open(pages.start, end)?;
        let mut to = self.run_end(first.get(), end);
        while let Some(next) = self.next_open(to, end.min(to + close + 1)) {
            to = self.run_end(next.get(), end);
        }
        Some(PageRange::from(first.get()..to))
    }

    /// All open pages in `pages` as one slice. Only with the gate closed, and where the set
    /// [is exact](Self::is_exact).
    pub fn slice_within(&self, pages: Range<usize>) -> Option<Slice> {
        let mut slice: Option<Slice> = None;
        let mut next = pages.start;
        while let Some(run) = self.run_from(next..pages.end, 0) {
            next = run.end();
            let before = slice.unwrap_or(Slice {
                range: run,
                pages: 0,
                runs: 0,
            });
            slice = Some(Slice {
                range: PageRange::from(before.range.start()..run.end()),
                pages: before.pages + run.count().get(),
                runs: before.runs + 1,
            });
        }
        slice
    }
}
