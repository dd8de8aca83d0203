//! How pages are armed where the protection is a bit in each page-table entry, as with userfaultfd:
//! a page that was never touched has no entry, and making one costs memory. So a block of pages of
//! which none was touched is protected as a whole, by its mapping, until the first store to one of
//! them has its pages protected one by one.
//!
//! ```text
//!             armed as a whole                     split: one caller wins
//!   Single -------------------------> Whole -----------------------------> Splitting
//!     ^  |                            ^  ^           failed                 ^   |  |
//!     |  | refused, perhaps half way  |  +----------------------------------|---+  |
//!     |  v                            |                                     |      |
//!     | Doubt ------------------------+ armed, in either way                |      |
//!     |    +----------------------------------------------------------------+      |
//!     +----------------------------------------------------------------------------+ others wait
//! ```
//!
//! While a block is split its pages stay protected: first one by one, then no more as a whole.
//! Nobody may open a page of it before that is done, or the splitting would close that page again,
//! for good: the dirty set says open.
//!
//! In doubt is a block whose protection failed, in which some pages may be protected and some not.
//! Splitting takes it for a whole one. Arming must not: its pages may be open.
//!
//! Each border between a block that is protected as a whole and one that is not is a border of two
//! kernel mappings.

use std::io;
// Orders nothing, so it is plain in models too.
use std::sync::atomic::AtomicI64;

use crate::page::{PageCount, PageIndex, PageRange};
use crate::sync::{AtomicU32, Ordering, sleep_u32, wait_until, wake_u32};
use crate::sys::{self, Permission, ProtectError, ZeroValid, Zeroed};

const SINGLE: u32 = 0;
const WHOLE: u32 = 1;
const SPLITTING: u32 = 2;
const DOUBT: u32 = 3;

/// The state of a block; zero bytes are `Single`.
#[derive(Debug, Default)]
struct State(AtomicU32);

// SAFETY: an atomic of a plain integer, for which zero bytes are the value 0.
#[allow(unsafe_code, reason = "states live in lazily zeroed memory")]
unsafe impl ZeroValid for State {}

/// The two ways to protect pages.
pub(super) trait Protect {
    /// Page by page, pages that were never touched included.
    fn pages(&self, range: PageRange, permission: Permission) -> Result<(), ProtectError>;
    /// By the permission of their mapping.
    fn mapping(&self, range: PageRange, permission: Permission) -> Result<(), ProtectError>;
    /// The first of these pages of which the system holds anything. Decides about cost only: a page
    /// that is passed over may be protected in either way.
    fn first_touched(&self, range: PageRange) -> Option<PageIndex>;
}

pub(super) struct Blocks {
    states: Zeroed<State>,
    block: usize,
    pages: PageCount,
    /// Borders between mappings now, and the most so far. Exact but for neighbours that are split
    /// at the same moment, between which two remain in the count.
    borders: AtomicI64,
    most_borders: AtomicI64,
}

impl Blocks {
    /// Blocks of `block` pages each, of `pages` pages, all `Single`.
    pub fn new(pages: PageCount, block: usize) -> io::Result<Self> {
        Ok(Self {
            states: Zeroed::new(pages.get().div_ceil(block))?,
            block,
            pages,
            borders: AtomicI64::new(0),
            most_borders: AtomicI64::new(0),
        })
    }

    /// Takes write permission away, from untouched blocks as a whole. While nobody disarms.
    pub fn arm(&self, range: PageRange, by: &impl Protect) -> Result<(), ProtectError> {
        // Pages that are known to be untouched.
        let mut untouched = 0..0;
        let mut is_untouched = |part: PageRange| {
            if !untouched.contains(&part.start()) {
                let next = by.first_touched((part.start()..range.end()).into());
                untouched = part.start()..next.map_or(range.end(), PageIndex::get);
            }
            part.end() <= untouched.end
        };
        // Neighbouring parts that are protected in the same way are protected by one call.
        let mut pending: Option<(bool, PageRange)> = None;
        for (block, part) in self.parts(range) {
            if self.state(block) == WHOLE {
                continue;
            }
            let whole = part == self.pages_of(block) && is_untouched(part);
            pending = match pending {
                Some((same, before)) if same == whole && before.end() == part.start() => {
                    Some((whole, PageRange::from(before.start()..part.end())))
                }
                other => {
                    self.arm_part(other, by)?;
                    Some((whole, part))
                }
            };
        }
        self.arm_part(pending, by)
    }

    fn arm_part(
        &self,
        part: Option<(bool, PageRange)>,
        by: &impl Protect,
    ) -> Result<(), ProtectError> {
        let Some((whole, range)) = part else {
            return Ok(());
        };
        if !whole {
            by.pages(range, Permission::ReadOnly)?;
            self.end_doubt(range);
            return Ok(());
        }
        let done = match by.mapping(range, Permission::ReadOnly) {
            // Markers need no mappings.
            Err(ProtectError::NoMappings) => by.pages(range, Permission::ReadOnly),
            done => done,
        };
        // Also when a call failed: it may have come half way.
        self.set(range, if done.is_ok() { WHOLE } else { DOUBT });
        done
    }

    /// Where pages that are armed up to `end`, one past the last, are better armed up to: as far as
    /// an untouched block goes, which is protected as a whole or at the price of page tables. While
    /// nobody disarms.
    pub fn whole_end(&self, end: usize, by: &impl Protect) -> usize {
        let block = end / self.block;
        if end.is_multiple_of(self.block) || end >= self.pages.get() || self.state(block) == WHOLE {
            return end;
        }
        let all = self.pages_of(block);
        match by.first_touched(all) {
            None => all.end(),
            Some(_) => end,
        }
    }

    /// These pages and those of the untouched blocks that they have a part of, which are better
    /// armed with them. While nobody disarms.
    pub fn whole_blocks(&self, range: PageRange, by: &impl Protect) -> PageRange {
        let block = self.pages_of(range.start() / self.block);
        let is_cut = block.start() < range.start();
        let start = if is_cut && by.first_touched(block).is_none() {
            block.start()
        } else {
            range.start()
        };
        PageRange::from(start..self.whole_end(range.end(), by))
    }

    /// Gives write permission back to pages that the caller has claimed. Async-signal-safe when
    /// `by` is.
    pub fn disarm(&self, range: PageRange, by: &impl Protect) -> Result<(), ProtectError> {
        if range.count() == self.pages {
            // Nobody else is at work.
            self.open_mappings(by)?;
        }
        for (block, _) in self.parts(range) {
            self.split(block, || {
                let pages = self.pages_of(block);
                by.pages(pages, Permission::ReadOnly)?;
                by.mapping(pages, Permission::Writable)
            })?;
        }
        by.pages(range, Permission::Writable)
    }

    /// Protects no block as a whole any more, by one call, which splits no mapping.
    pub fn open_mappings(&self, by: &impl Protect) -> Result<(), ProtectError> {
        let all = PageRange::all(self.pages);
        by.mapping(all, Permission::Writable)?;
        self.set(all, SINGLE);
        Ok(())
    }

    /// Splits all blocks, by few calls, which need no further mapping. While nobody disarms.
    pub fn split_all(&self, by: &impl Protect) -> Result<(), ProtectError> {
        let all = PageRange::all(self.pages);
        for (block, pages) in self.parts(all) {
            if self.state(block) != SINGLE {
                by.pages(pages, Permission::ReadOnly)?;
            }
        }
        by.mapping(all, Permission::Writable)?;
        self.set(all, SINGLE);
        Ok(())
    }

    /// The parts of `range` that lie in one block each, with the block's number.
    fn parts(&self, range: PageRange) -> impl Iterator<Item = (usize, PageRange)> {
        range.parts(self.block)
    }

    fn pages_of(&self, block: usize) -> PageRange {
        let end = (block * self.block + self.block).min(self.pages.get());
        PageRange::from(block * self.block..end)
    }

    fn state(&self, block: usize) -> u32 {
        self.states[block].0.load(Ordering::Acquire)
    }

    /// Only while nobody can open pages of these blocks.
    fn set(&self, range: PageRange, state: u32) {
        let before = self.borders_at(range);
        for (block, _) in self.parts(range) {
            self.states[block].0.store(state, Ordering::Release);
        }
        self.change_borders(self.borders_at(range) - before);
    }

    /// All of these pages are protected now. Only while nobody can open them.
    fn end_doubt(&self, range: PageRange) {
        for (block, part) in self.parts(range) {
            if self.state(block) == DOUBT && part == self.pages_of(block) {
                self.states[block].0.store(WHOLE, Ordering::Release);
            }
        }
    }

    /// The most borders between mappings at one time so far.
    pub fn most_borders(&self) -> u64 {
        self.most_borders.load(Ordering::Relaxed).unsigned_abs()
    }

    /// Borders that these blocks have a part in.
    fn borders_at(&self, range: PageRange) -> i64 {
        let first = (range.start() / self.block).max(1);
        let end = range.end().div_ceil(self.block) + 1;
        let whole = |block: usize| self.state(block) != SINGLE;
        let mut below = whole(first - 1);
        let mut borders = 0;
        for block in first..self.states.len().min(end) {
            let here = whole(block);
            borders += i64::from(here != below);
            below = here;
        }
        borders
    }

    /// A block that is about to be split leaves its neighbours: each that is whole gets a border,
    /// and each other one loses one. Async-signal-safe.
    fn count_split(&self, block: usize) {
        let neighbours = [block.checked_sub(1), Some(block + 1)];
        let change = neighbours
            .into_iter()
            .flatten()
            .filter(|neighbour| *neighbour < self.states.len())
            .map(|neighbour| {
                if self.state(neighbour) == SINGLE {
                    -1
                } else {
                    1
                }
            })
            .sum();
        self.change_borders(change);
    }

    fn change_borders(&self, by: i64) {
        if by != 0 {
            sys::mappings::add(by);
            let now = self.borders.fetch_add(by, Ordering::Relaxed) + by;
            self.most_borders.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Sees to it that the block's pages are protected one by one, by `act`, which one caller does
    /// while others wait. Async-signal-safe when `act` is.
    fn split(
        &self,
        block: usize,
        act: impl FnOnce() -> Result<(), ProtectError>,
    ) -> Result<(), ProtectError> {
        let state = &self.states[block].0;
        let before = loop {
            let begin = |from| {
                state.compare_exchange(from, SPLITTING, Ordering::Acquire, Ordering::Acquire)
            };
            match begin(WHOLE).or_else(|_| begin(DOUBT)) {
                Ok(before) => break before,
                Err(SPLITTING) => wait_until(
                    || state.load(Ordering::Acquire) != SPLITTING,
                    || sleep_u32(state, SPLITTING),
                ),
                Err(SINGLE) => return Ok(()),
                // Somebody else has failed to split it.
                Err(_) => {}
            }
        };
        let done = act();
        if done.is_ok() {
            self.count_split(block);
        }
        let now = if done.is_ok() { SINGLE } else { before };
        state.store(now, Ordering::Release);
        wake_u32(state);
        done
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        sys::mappings::add(-self.borders.load(Ordering::Relaxed));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::ops::Range;

    /// A system that grants everything, in which these pages were touched. Notes the calls.
    struct Granting {
        touched: Vec<usize>,
        calls: RefCell<Vec<(&'static str, Range<usize>)>>,
    }

    impl Granting {
        fn note(&self, call: &'static str, range: PageRange) {
            let pages = range.start()..range.end();
            self.calls.borrow_mut().push((call, pages));
        }
    }

    impl Protect for Granting {
        fn pages(&self, range: PageRange, permission: Permission) -> Result<(), ProtectError> {
            let call = match permission {
                Permission::ReadOnly => "mark",
                Permission::Writable => "open",
            };
            self.note(call, range);
            Ok(())
        }

        fn mapping(&self, range: PageRange, permission: Permission) -> Result<(), ProtectError> {
            let call = match permission {
                Permission::ReadOnly => "lock",
                Permission::Writable => "unlock",
            };
            self.note(call, range);
            Ok(())
        }

        fn first_touched(&self, range: PageRange) -> Option<PageIndex> {
            self.note("look", range);
            let mut inside = range.iter();
            inside.find(|page| self.touched.contains(&page.get()))
        }
    }

    #[test]
    fn a_huge_untouched_range_takes_few_calls_and_its_mappings_count() {
        const BLOCKS: usize = 1000;
        let by = Granting {
            touched: vec![4005],
            calls: RefCell::default(),
        };
        let before = sys::mappings::in_use();
        let blocks = Blocks::new(PageCount::new(BLOCKS * 10 - 3), 10).unwrap();
        let end = BLOCKS * 10 - 3;
        blocks
            .arm(PageRange::all(PageCount::new(end)), &by)
            .unwrap();
        let calls = by.calls.take();
        let wanted = [
            ("look", 0..end),
            ("lock", 0..4000),
            ("look", 4010..end),
            ("mark", 4000..4010),
            ("lock", 4010..end),
        ];
        assert_eq!(calls, wanted);
        assert_eq!(blocks.most_borders(), 2);
        assert_eq!(sys::mappings::in_use(), before + 2);

        blocks.disarm((17..24).into(), &by).unwrap();
        let calls = by.calls.take();
        let wanted = [
            ("mark", 10..20),
            ("unlock", 10..20),
            ("mark", 20..30),
            ("unlock", 20..30),
            ("open", 17..24),
        ];
        assert_eq!(calls, wanted);
        assert_eq!(sys::mappings::in_use(), before + 4);
        assert_eq!(blocks.whole_end(25, &by), 30);
        assert_eq!(blocks.whole_end(4003, &by), 4003);
        assert_eq!(blocks.whole_end(4010, &by), 4010);

        blocks.split_all(&by).unwrap();
        assert_eq!(
            (sys::mappings::in_use(), blocks.most_borders()),
            (before, 4)
        );
        blocks.arm((10..20).into(), &by).unwrap();
        assert_eq!(sys::mappings::in_use(), before + 2);
        drop(blocks);
        assert_eq!(sys::mappings::in_use(), before);
    }
}
