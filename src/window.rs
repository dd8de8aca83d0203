//! How many neighbours a fault opens along with its page. Pure.
//!
//! While a snapshot lives that is none, until the process's mappings run short: each isolated open page in an armed
//! arena costs two mappings, the kernel allows a fixed number of them (`vm.max_map_count`), and all
//! libraries of the process share it.

use std::ops::Range;

/// The pages around `page`, of an arena of `pages`, that a fault opens while no snapshot lives, when it
/// is the `faults`-th such fault since the last snapshot was taken: one page, then aligned blocks that
/// double, up to [`LARGEST`].
pub(crate) fn free_block(faults: u32, page: usize, pages: usize) -> Range<usize> {
    let size = 1 << faults.min(LARGEST.ilog2());
    let start = page / size * size;
    start..(start + size).min(pages)
}

/// Pages of the largest block: some ten microseconds of work in one fault.
const LARGEST: usize = 512;

/// How far away an open page may be for a fault to save and disarm all that lies between, when the
/// process's arenas use `used` mappings out of the kernel's `limit`.
///
/// 0 up to half the limit; then it doubles step by step; from three quarters on there is no bound.
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
    use super::{LARGEST, free_block, reach};
    use proptest::prelude::*;

    #[test]
    fn one_page_until_half_the_limit_and_no_bound_from_three_quarters() {
        assert_eq!(reach(0, 65530), 0);
        assert_eq!(reach(32764, 65530), 0);
        assert_eq!(reach(32765, 65530), 1);
        assert_eq!(reach(49200, 65530), usize::MAX);
        assert_eq!(reach(100, 0), usize::MAX);
    }

    proptest! {
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
            prop_assert!(block.len() <= LARGEST);
            prop_assert!(faults > 0 || block.len() == 1);
        }

        #[test]
        fn never_shrinks_as_mappings_run_short(limit in 0usize..1 << 20, used in 0usize..1 << 20) {
            prop_assert!(reach(used, limit) <= reach(used + 1, limit));
        }
    }
}
