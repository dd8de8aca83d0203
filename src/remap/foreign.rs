//! Pages that have left: at their addresses something else is mapped, which is nobody's but the
//! program's. They are neither frozen nor merged. Only memory of a program's own allocator has any
//! (`crate::forkable`).

use std::ops::Range;

/// Runs of such pages, at most.
const MOST: usize = if cfg!(loom) {
    2
} else if cfg!(feature = "forkable") {
    256
} else {
    0
};

/// Runs that do not touch each other, in no order. Allocates nothing.
pub(super) struct Foreign {
    runs: [(usize, usize); MOST],
    count: usize,
}

impl Foreign {
    pub fn none() -> Self {
        Self {
            runs: [(0, 0); MOST],
            count: 0,
        }
    }

    fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let runs = self.runs[..self.count].iter();
        runs.map(|(start, end)| *start..*end)
    }

    /// The first run that ends after `from`.
    pub fn next(&self, from: usize) -> Option<Range<usize>> {
        let after = self.runs().filter(|run| run.end > from);
        after.min_by_key(|run| run.start)
    }

    /// The first of these pages that have not left.
    pub fn next_part(&self, mut pages: Range<usize>) -> Option<Range<usize>> {
        while !pages.is_empty() {
            let run = self.next(pages.start).unwrap_or(pages.end..pages.end);
            if run.start > pages.start {
                return Some(pages.start..run.start.min(pages.end));
            }
            pages.start = run.end;
        }
        None
    }

    /// The last pages below `end` that have not left.
    pub fn last_part(&self, mut end: usize) -> Option<Range<usize>> {
        while end > 0 {
            let below = self.runs().filter(|run| run.start < end);
            let last = below.max_by_key(|run| run.start).unwrap_or(0..0);
            if last.end < end {
                return Some(last.end..end);
            }
            end = last.start;
        }
        None
    }
}

#[cfg(any(feature = "forkable", loom))]
impl Foreign {
    /// These pages leave; `false` when there are too many runs.
    pub fn add(&mut self, pages: Range<usize>) -> bool {
        let mut all = pages;
        let touches =
            |run: &Range<usize>, all: &Range<usize>| run.start <= all.end && run.end >= all.start;
        // Those that it touches do not touch each other.
        let touched = self.runs().filter(|run| touches(run, &all)).count();
        if self.count - touched == MOST {
            return false;
        }
        let mut kept = 0;
        for at in 0..self.count {
            let (start, end) = self.runs[at];
            if touches(&(start..end), &all) {
                all = all.start.min(start)..all.end.max(end);
            } else {
                self.runs[kept] = (start, end);
                kept += 1;
            }
        }
        self.runs[kept] = (all.start, all.end);
        self.count = kept + 1;
        true
    }

    /// These pages, which have left, are back; `false` when there are too many runs.
    pub fn remove(&mut self, pages: Range<usize>) -> bool {
        let is_around = |run: &Range<usize>| run.start <= pages.start && run.end >= pages.end;
        let Some(at) = self.runs().position(|run| is_around(&run)) else {
            return false;
        };
        let (start, end) = self.runs[at];
        let is_middle = start < pages.start && pages.end < end;
        if is_middle && self.count == MOST {
            return false;
        }
        self.count -= 1;
        self.runs[at] = self.runs[self.count];
        for (start, end) in [(start, pages.start), (pages.end, end)] {
            if start < end {
                self.runs[self.count] = (start, end);
                self.count += 1;
            }
        }
        true
    }
}

#[cfg(all(test, feature = "forkable", not(loom)))]
mod tests {
    use super::*;

    /// Against a plain list of pages.
    #[test]
    fn random_operations() {
        const PAGES: usize = 400;
        let mut foreign = Foreign::none();
        let mut model = [false; PAGES];
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let start = random(PAGES - 20);
            let pages = start..start + 1 + random(20);
            if random(2) == 0 {
                assert!(foreign.add(pages.clone()));
                model[pages].fill(true);
            } else if model[pages.clone()].iter().all(|left| *left) {
                assert!(foreign.remove(pages.clone()));
                model[pages].fill(false);
            }
            let (from, to) = (random(PAGES / 2), PAGES / 2 + random(PAGES / 2));
            let expected: Vec<_> = (from..to).filter(|page| !model[*page]).collect();
            let mut found = Vec::new();
            let mut rest = from..to;
            while let Some(part) = foreign.next_part(rest.clone()) {
                rest.start = part.end;
                found.extend(part);
            }
            assert_eq!(found, expected);
            let last = (0..to).rev().find(|page| !model[*page]);
            let part = foreign.last_part(to);
            assert_eq!(part.as_ref().map(|part| part.end - 1), last);
            assert!(part.is_none_or(|part| part.start == 0 || model[part.start - 1]));
        }
        assert!(foreign.add(0..PAGES) && foreign.remove(0..PAGES));
        for run in 0..MOST {
            assert!(foreign.add(3 * run..3 * run + 2));
        }
        assert!(!foreign.add(3 * MOST..3 * MOST + 1));
        assert!(!foreign.remove(3 * MOST..3 * MOST + 1));
        // Longer, shorter, and away.
        assert!(foreign.add(3 * MOST - 1..3 * MOST));
        assert!(foreign.remove(1..2) && foreign.remove(0..1));
        assert!(foreign.add(3 * MOST + 1..3 * MOST + 2));
    }
}
