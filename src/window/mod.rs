//! How many neighbours a fault saves and opens along with its page. Pure.
//!
//! A fault costs what copying several pages does. So where most of a block will be written, one
//! fault should deal with all of it; where few pages will, each copy ahead wastes time and memory.
//! What will be written is expected from what was: the pages of the block that were written in this
//! period and in the previous one (a *period* is the time from one commit to the next;
//! [`crate::window::density`] keeps both figures), and runs of open pages that end where the fault
//! is.
//!
//! Whatever is expected, [`Evidence::allowance`] bounds the copies made per page written, all
//! copies counted. It does not count where the process's mappings run short: each isolated open
//! page in an arena armed by mprotect costs two of them, the kernel allows a fixed number
//! (`vm.max_map_count`), and all libraries of the process share it. [`reach`] widens as they are
//! used up.

pub(crate) mod density;

use std::ops::Range;

use crate::options::Window;

/// The largest window, in pages: some hundred microseconds of work in one fault.
pub(crate) const MOST_PAGES: usize = 512;
/// After this many open pages in a row, the next fault is expected to be part of a run.
const RUN: usize = 2;
/// A small block of which one page in this many is expected to be written is more than chance.
const CLUSTER: usize = 4;
/// The smallest block, in pages, that is likely to hold another page that will be written.
const LEAST: usize = 8;
/// The previous period's figure counts up to this many times this period's.
const BELIEF: u64 = 32;

/// What is known of a block of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Pages written in this period.
    pub now: usize,
    /// Pages written in the previous period.
    pub before: usize,
}

/// What a fault knows of its surroundings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    /// Pages of the arena written in this period, the one at hand included.
    pub written: u64,
    /// Pages of the arena written in the previous period.
    pub before: u64,
    /// Copies made in this period of pages that nobody was about to write.
    pub ahead: u64,
    /// The aligned block of [`SMALL`] pages around the page.
    pub small: Block,
    /// The aligned block of [`LARGE`] pages around the page.
    pub large: Block,
    /// Open pages in a row just below the page.
    pub run_below: usize,
    /// Open pages in a row just above the page.
    pub run_above: usize,
    /// How many copies one fault costs.
    pub fault_cost: usize,
}

/// Pages in the blocks of [`Evidence`].
pub(crate) const SMALL: usize = 64;
pub(crate) const LARGE: usize = 512;

impl Block {
    /// How many of its pages are expected to be written: as many as in the previous period, or,
    /// where clearly more were written already, twice as many as now.
    fn expected(self, size: usize) -> usize {
        if self.now * 2 <= self.before * 3 {
            self.before.max(self.now)
        } else {
            // Less one standard deviation: some blocks are dense by chance.
            ((self.now - self.now.isqrt()) * 2).min(size)
        }
    }
}

impl Evidence {
    /// Copies that may be made ahead, so that all copies, those of pages that fault included, stay
    /// within `ratio` times the pages written.
    pub fn allowance(&self, ratio: f64) -> usize {
        let believed = self.before.min(self.written * BELIEF).max(self.written);
        let most = believed as f64 * (ratio - 1.0).max(0.0);
        // No more than a window can use, whatever the ratio.
        (most as u64)
            .saturating_sub(self.ahead)
            .min(MOST_PAGES as u64) as usize
    }

    /// The largest block, in pages, that is dense: the faults that it saves are expected to cost
    /// more than the copies that nobody will need. The small block has to be denser than by chance.
    fn dense_block(&self) -> usize {
        if self.large.expected(LARGE) * self.fault_cost >= LARGE {
            LARGE
        } else if self.small.expected(SMALL) * CLUSTER >= SMALL {
            SMALL
        } else {
            1
        }
    }
}

/// The pages that a fault on `page` of an arena of `pages` saves and opens, itself among them.
/// `closed` counts the pages of a range that are not open.
pub(crate) fn choose(
    window: Window,
    page: usize,
    pages: usize,
    evidence: &Evidence,
    closed: impl Fn(Range<usize>) -> usize,
) -> Range<usize> {
    let alone = page..page + 1;
    let (max_pages, max_ratio) = match window {
        Window::Page => return alone,
        Window::Fixed(size) => {
            return block(page, pages, size.clamp(1, MOST_PAGES).next_power_of_two());
        }
        Window::Adaptive {
            max_pages,
            max_ratio,
        } => (1 << max_pages.clamp(1, MOST_PAGES).ilog2(), max_ratio),
    };
    let allowance = evidence.allowance(max_ratio);
    let mut size = evidence.dense_block().min(max_pages);
    let least = LEAST.min(max_pages);
    while size > 1 && size >= least {
        let candidate = block(page, pages, size);
        if closed(candidate.clone()) <= allowance + 1 {
            return candidate;
        }
        size /= 2;
    }
    // A run grows by as much as it is long.
    if evidence.run_below >= RUN {
        let more = evidence.run_below.min(max_pages).min(allowance + 1);
        page..(page + more).min(pages)
    } else if evidence.run_above >= RUN {
        let more = evidence.run_above.min(max_pages).min(allowance + 1);
        (page + 1).saturating_sub(more)..page + 1
    } else {
        alone
    }
}

/// The pages around `page`, of an arena of `pages`, that a fault opens while no snapshot lives,
/// when it is the `faults`-th such fault since pages were armed. At first one page, since another
/// snapshot may come soon, and then costs what was written. After a 64th of the pages, aligned
/// blocks that double, up to [`MOST_PAGES`], so that soon there are no more faults.
pub(crate) fn free_block(faults: u32, page: usize, pages: usize) -> Range<usize> {
    let alone = pages / 64;
    let step = (pages / 512).max(1);
    let doublings = (faults as usize).saturating_sub(alone) / step;
    block(page, pages, 1 << doublings.min(MOST_PAGES.ilog2() as usize))
}

/// The aligned block of `size` pages that `page` is in, as far as the arena goes.
fn block(page: usize, pages: usize, size: usize) -> Range<usize> {
    let start = page / size * size;
    start..(start + size).min(pages)
}

/// How far away an open page may be for a fault to save and disarm all that lies between, when the
/// process's arenas use `used` mappings out of the kernel's `limit`.
///
/// 0 below half the limit; then it doubles step by step; from three quarters on there is no bound.
pub(crate) fn reach(used: usize, limit: usize) -> usize {
    const STEPS: usize = 32;
    let start = limit / 2;
    let step = (limit / 4 / STEPS).max(1);
    if used < start {
        return 0;
    }
    match (used - start) / step {
        doublings if doublings < STEPS => 1 << doublings,
        _ => usize::MAX,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn one_page_until_half_the_limit_and_no_bound_from_three_quarters() {
        assert_eq!(reach(0, 65530), 0);
        assert_eq!(reach(32764, 65530), 0);
        assert_eq!(reach(32765, 65530), 1);
        assert_eq!(reach(49200, 65530), usize::MAX);
        assert_eq!(reach(100, 0), usize::MAX);
    }

    fn any_block(size: usize) -> impl Strategy<Value = Block> {
        (0..=size, 0..=size).prop_map(|(now, before)| Block { now, before })
    }

    prop_compose! {
        fn any_evidence()(
            written in 1u64..5000,
            before in 0u64..5000,
            ahead in 0u64..20_000,
            small in any_block(SMALL),
            large in any_block(LARGE),
            run_below in 0usize..1000,
            run_above in 0usize..1000,
            fault_cost in 0usize..20,
        ) -> Evidence {
            Evidence { written, before, ahead, small, large, run_below, run_above, fault_cost }
        }
    }

    fn any_window() -> impl Strategy<Value = Window> {
        prop_oneof![
            Just(Window::Page),
            Just(Window::Adaptive {
                max_pages: usize::MAX,
                max_ratio: f64::INFINITY
            }),
            Just(Window::Adaptive {
                max_pages: 0,
                max_ratio: f64::NAN
            }),
            (0usize..2000).prop_map(Window::Fixed),
            (0usize..2000, 0.0f64..20.0).prop_map(|(max_pages, max_ratio)| Window::Adaptive {
                max_pages,
                max_ratio
            }),
        ]
    }

    /// Writes pages in this order, in an arena without a past. `known` says whether what was
    /// written is known exactly, or as far as it faulted. Returns the copies made, and the faults.
    fn run(window: Window, pages: usize, order: &[usize], known: bool) -> (usize, usize) {
        let mut open = BTreeSet::new();
        let mut faulted = BTreeSet::new();
        let mut written = BTreeSet::new();
        let mut saved = 0;
        for &page in order {
            written.insert(page);
            if open.contains(&page) {
                continue;
            }
            faulted.insert(page);
            saved += 1;
            open.insert(page);
            let count = |size: usize| {
                let around = block(page, pages, size);
                Block {
                    now: faulted.range(around).count(),
                    before: 0,
                }
            };
            let evidence = Evidence {
                written: if known { written.len() } else { faulted.len() } as u64,
                before: 0,
                ahead: (saved - faulted.len()) as u64,
                small: count(SMALL),
                large: count(LARGE),
                run_below: (0..page)
                    .rev()
                    .take_while(|below| open.contains(below))
                    .count(),
                run_above: (page + 1..pages)
                    .take_while(|above| open.contains(above))
                    .count(),
                fault_cost: 10,
            };
            let closed = |range: Range<usize>| {
                range
                    .filter(|other| *other == page || !open.contains(other))
                    .count()
            };
            let chosen = choose(window, page, pages, &evidence, closed);
            for neighbour in chosen {
                saved += usize::from(open.insert(neighbour));
            }
        }
        (saved, faulted.len())
    }

    #[test]
    fn pages_written_in_order_are_saved_many_at_a_time() {
        let order: Vec<usize> = (0..4096).collect();
        let window = Window::default();
        assert!(run(window, 4096, &order, true).1 < 4096 / 64);
        let backwards: Vec<usize> = (0..4096).rev().collect();
        assert!(run(window, 4096, &backwards, true).1 < 4096 / 64);
    }

    proptest! {
        #[test]
        fn a_window_has_its_page_and_stays_inside(
            window in any_window(),
            evidence in any_evidence(),
            pages in 1usize..5000,
            page in 0usize..5000,
        ) {
            let page = page % pages;
            let chosen = choose(window, page, pages, &evidence, |range| range.len());
            prop_assert!(chosen.contains(&page));
            prop_assert!(chosen.end <= pages);
            prop_assert!(chosen.len() <= MOST_PAGES);
            match window {
                Window::Page => prop_assert_eq!(chosen.len(), 1),
                Window::Adaptive { max_pages, max_ratio } => {
                    prop_assert!(chosen.len() <= max_pages.max(1));
                    let believed = evidence.before.min(BELIEF * evidence.written).max(evidence.written);
                    let most = believed as f64 * (max_ratio.max(1.0) - 1.0);
                    let ahead = evidence.ahead as usize + chosen.len() - 1;
                    prop_assert!(chosen.len() == 1 || ahead as f64 <= most);
                }
                Window::Fixed(_) => {}
            }
        }

        /// In any order of writes, at any moment, whether or not it is known how many of the open
        /// pages were written.
        #[test]
        fn copies_stay_within_the_ratio(
            order in prop::collection::vec(0usize..2000, 1..600),
            scale in 1usize..4,
            max_pages in 1usize..600,
            max_ratio in 1.0f64..8.0,
            known in any::<bool>(),
        ) {
            let order: Vec<usize> = order.iter().map(|page| page / scale).collect();
            let written: BTreeSet<&usize> = order.iter().collect();
            let window = Window::Adaptive { max_pages, max_ratio };
            let (copies, _) = run(window, 2000, &order, known);
            prop_assert!(copies as f64 <= written.len() as f64 * max_ratio);
        }

        #[test]
        fn a_free_block_has_its_page_and_stays_inside(
            faults in 0u32..40,
            pages in 1usize..5000,
            page in 0usize..5000,
        ) {
            let page = page % pages;
            let block = free_block(faults, page, pages);
            prop_assert!(block.contains(&page));
            prop_assert!(block.end <= pages);
            prop_assert!(block.len() <= MOST_PAGES);
            prop_assert!(faults > 0 || block.len() == 1);
        }

        #[test]
        fn never_shrinks_as_mappings_run_short(limit in 0usize..1 << 20, used in 0usize..1 << 20) {
            prop_assert!(reach(used, limit) <= reach(used + 1, limit));
        }
    }
}
