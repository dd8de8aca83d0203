//! How densely the arena is written: what the window ([`crate::window`]) decides by.
//!
//! A *period* is the time from one commit to the next. Counted are, for each block of 64 pages and
//! for the whole arena: the faults and the copies of this period, and the pages written in the
//! previous one. Nobody sees a store to an open page. So some copies are compared with the arena,
//! to estimate the share of the copies made ahead that are of pages that were written.
//!
//! All of it is advice. The counts are relaxed atomics, of std in models too. A lost update, or a
//! page that changes while it is compared, makes a guess better or worse, and nothing wrong.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::page::{PageCount, PageIndex, PageRange};
use crate::sys::{ZeroValid, Zeroed};
use crate::window::{Block, LARGE, SMALL};

/// The counts of a block of [`SMALL`] pages: `{period: 32, -, before: 8, copies: 8, faults: 8}`.
/// The last three are in pages, the first says which period is "this" one.
#[derive(Debug, Default)]
struct Counts(AtomicU64);

// SAFETY: an atomic of a plain integer, for which zero bytes are the value 0.
#[allow(unsafe_code, reason = "the counts live in lazily zeroed memory")]
unsafe impl ZeroValid for Counts {}

/// What the counts of a block say in this period.
#[derive(Clone, Copy, Default)]
struct Seen {
    faults: u64,
    copies: u64,
    /// Pages written in the previous period.
    before: u64,
}

impl Seen {
    /// Pages written in this period, where `share` of the copies made ahead are of such.
    fn written(self, share: u64) -> u64 {
        self.faults + self.copies.saturating_sub(self.faults) * share / WHOLE
    }
}

pub(crate) struct Density {
    blocks: Zeroed<Counts>,
    /// Number of this period: 1, 2, ... Those in which nothing was saved do not count.
    period: AtomicU32,
    /// Pages saved in this period because they were about to be written.
    faults: AtomicU64,
    /// Copies made in this period, those included.
    copies: AtomicU64,
    /// Comparisons in this period, older ones for less.
    compared: AtomicU32,
    /// The sum, over the comparisons that found a difference, of the number of copies at that time.
    /// Divided by the number of comparisons, it estimates the pages written by then; more may have
    /// been written since, never fewer.
    differed: AtomicU64,
    /// Pages written in the previous period.
    before: AtomicU64,
    /// The share of the previous period's copies made ahead that are of pages that were written, in
    /// 1/256.
    ahead_before: AtomicU32,
}

/// After this many comparisons, older ones count for half.
const RECENT: u32 = 2048;
/// A share of 1.
const WHOLE: u64 = 256;

impl Density {
    pub fn new(pages: PageCount) -> std::io::Result<Self> {
        Ok(Self {
            blocks: Zeroed::new(pages.get().div_ceil(SMALL))?,
            period: AtomicU32::new(1),
            faults: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            compared: AtomicU32::new(0),
            differed: AtomicU64::new(0),
            before: AtomicU64::new(0),
            ahead_before: AtomicU32::new(0),
        })
    }

    /// Notes the copies made of pages in `range`: `asked` of them were about to be written, the
    /// first at `page`; `ahead` of them were not. Async-signal-safe.
    pub fn saved(&self, page: PageIndex, range: PageRange, asked: u64, ahead: u64) {
        self.faults.fetch_add(asked, Ordering::Relaxed);
        self.copies.fetch_add(asked + ahead, Ordering::Relaxed);
        for (block, part) in range.parts(SMALL) {
            let copies = part.count().get() as u64;
            let faults = if range.count().get() as u64 == asked {
                copies
            } else {
                u64::from(page.get() / SMALL == block)
            };
            self.count(block, faults, copies);
        }
    }

    fn count(&self, block: usize, faults: u64, copies: u64) {
        let counts = &self.blocks[block].0;
        let seen = self.decode(counts.load(Ordering::Relaxed));
        let most = SMALL as u64;
        let now = Seen {
            faults: (seen.faults + faults).min(most),
            copies: (seen.copies + copies).min(most),
            before: seen.before,
        };
        let period = u64::from(self.period.load(Ordering::Relaxed));
        let word = period << 32 | now.before << 16 | now.copies << 8 | now.faults;
        // Two threads that fault in one block at once may lose one of the counts.
        counts.store(word, Ordering::Relaxed);
    }

    /// What a block's word says in this period.
    fn decode(&self, word: u64) -> Seen {
        let seen = Seen {
            faults: word & 0xff,
            copies: word >> 8 & 0xff,
            before: word >> 16 & 0xff,
        };
        let period = self.period.load(Ordering::Relaxed);
        match period.wrapping_sub((word >> 32) as u32) {
            0 => seen,
            1 => {
                let share = u64::from(self.ahead_before.load(Ordering::Relaxed));
                Seen {
                    before: seen.written(share),
                    ..Seen::default()
                }
            }
            _ => Seen::default(),
        }
    }

    /// What is known of the small and the large block around a page.
    pub fn around(&self, page: PageIndex) -> (Block, Block) {
        let small = page.get() / SMALL;
        let first = page.get() / LARGE * (LARGE / SMALL);
        let share = self.ahead_share();
        let mut large = Block::default();
        let mut own = Block::default();
        let end = (first + LARGE / SMALL).min(self.blocks.len());
        for block in first..end {
            let seen = self.decode(self.blocks[block].0.load(Ordering::Relaxed));
            let this = Block {
                now: seen.written(share) as usize,
                before: seen.before as usize,
            };
            large.now += this.now;
            large.before += this.before;
            if block == small {
                own = this;
            }
        }
        (own, large)
    }

    /// Notes that a copy made in this period was compared with the arena. Async-signal-safe.
    pub fn compared(&self, differs: bool) {
        let mut compared = self.compared.load(Ordering::Relaxed);
        let mut differed = self.differed.load(Ordering::Relaxed);
        if compared >= RECENT {
            compared /= 2;
            differed /= 2;
        }
        let weight = if differs { self.copies() } else { 0 };
        self.compared.store(compared + 1, Ordering::Relaxed);
        self.differed.store(differed + weight, Ordering::Relaxed);
    }

    /// Forgets all comparisons.
    pub fn forget_comparisons(&self) {
        self.compared.store(0, Ordering::Relaxed);
        self.differed.store(0, Ordering::Relaxed);
    }

    /// Copies made in this period.
    pub fn copies(&self) -> u64 {
        self.copies.load(Ordering::Relaxed)
    }

    /// Copies made in this period of pages that nobody was about to write.
    pub fn ahead(&self) -> u64 {
        self.copies()
            .saturating_sub(self.faults.load(Ordering::Relaxed))
    }

    /// Pages written in this period: those that faulted, for certain, and an estimate of the
    /// others.
    pub fn written(&self) -> u64 {
        let faults = self.faults.load(Ordering::Relaxed);
        let compared = u64::from(self.compared.load(Ordering::Relaxed));
        let copies = self.copies();
        let Some(mean) = self.differed.load(Ordering::Relaxed).checked_div(compared) else {
            return faults;
        };
        // Less two standard deviations, and a little: copies made by too high a guess stay made.
        let mean = mean.min(copies);
        let doubt = (mean * (copies - mean) / compared).isqrt() * 2 + copies / compared;
        let estimate = mean.saturating_sub(doubt);
        estimate.max(faults)
    }

    /// Pages written in the previous period.
    pub fn before(&self) -> u64 {
        self.before.load(Ordering::Relaxed)
    }

    /// The share of this period's copies made ahead that are of pages that were written.
    fn ahead_share(&self) -> u64 {
        let faults = self.faults.load(Ordering::Relaxed);
        let ahead = self.ahead();
        if ahead == 0 {
            return 0;
        }
        (self.written().saturating_sub(faults) * WHOLE / ahead).min(WHOLE)
    }

    /// A new period begins. Only with the arena's gate closed.
    pub fn next_period(&self) {
        if self.copies() == 0 {
            return;
        }
        self.before.store(self.written(), Ordering::Relaxed);
        self.ahead_before
            .store(self.ahead_share() as u32, Ordering::Relaxed);
        self.period.fetch_add(1, Ordering::Relaxed);
        self.faults.store(0, Ordering::Relaxed);
        self.copies.store(0, Ordering::Relaxed);
        self.forget_comparisons();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn page(index: usize) -> PageIndex {
        PageIndex::new(index)
    }

    #[test]
    fn faults_are_counted_for_certain_and_the_rest_as_compared() {
        let density = Density::new(PageCount::new(1000)).unwrap();
        density.saved(page(3), (3..4).into(), 1, 0);
        density.saved(page(70), (64..128).into(), 1, 63);
        assert_eq!(density.written(), 2);
        assert_eq!(density.around(page(70)).0, Block { now: 1, before: 0 });
        assert_eq!(density.around(page(70)).1, Block { now: 2, before: 0 });
        for _ in 0..500 {
            density.compared(true);
        }
        assert_eq!(density.written(), 65);
        assert_eq!(density.around(page(70)).0, Block { now: 64, before: 0 });
        assert_eq!(density.around(page(999)).1, Block::default());
    }

    #[test]
    fn a_period_is_remembered_until_the_next_ends() {
        let density = Density::new(PageCount::new(1000)).unwrap();
        density.saved(page(70), (64..128).into(), 1, 63);
        for _ in 0..500 {
            density.compared(true);
        }
        density.next_period();
        density.next_period(); // Nothing was saved: does not count.
        assert_eq!(density.before(), 64);
        assert_eq!(density.written(), 0);
        assert_eq!(density.around(page(70)).0, Block { now: 0, before: 64 });
        density.saved(page(3), (3..4).into(), 1, 0);
        density.next_period();
        assert_eq!(density.around(page(70)).0, Block::default());
        assert_eq!(density.around(page(3)).0, Block { now: 0, before: 1 });
        assert_eq!(density.before(), 1);
    }

    #[test]
    fn a_range_that_was_asked_for_counts_as_written() {
        let density = Density::new(PageCount::new(1000)).unwrap();
        density.saved(page(10), (10..81).into(), 71, 0);
        assert_eq!(density.written(), 71);
        assert_eq!(density.around(page(10)).1, Block { now: 71, before: 0 });
    }

    #[test]
    fn old_comparisons_fade() {
        let density = Density::new(PageCount::new(64)).unwrap();
        density.saved(page(0), (0..64).into(), 1, 63);
        for _ in 0..10_000 {
            density.compared(true);
        }
        for _ in 0..10_000 {
            density.compared(false);
        }
        assert!(density.written() < 5, "{}", density.written());
    }
}
