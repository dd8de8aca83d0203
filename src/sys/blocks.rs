//! How pages are armed where the protection is a bit in each page-table entry, as with userfaultfd: a page that was
//! never touched has no entry, and making one costs memory. So a block of pages of which none was touched is
//! protected as a whole, by its mapping, until the first store to one of them has its pages protected one by one.
//!
//! ```text
//!            close (gate closed)              split: one caller wins
//!   Single ----------------------> Whole ---------------------------> Splitting
//!     ^                              ^        failed                     |  |
//!     |                              +-----------------------------------+  |
//!     +---------------------------------------------------------------------+ others wait
//! ```
//!
//! While a block is split its pages stay protected: first one by one, then no more as a whole. Nobody may open a page
//! of it before that is done, or the splitting would close that page again, for good: the dirty set says open.

use std::io;

use crate::page::{PageIndex, PageRange};
use crate::sync::{AtomicU32, Ordering, sleep_u32, wait_until, wake_u32};
use crate::sys::{ProtectError, ZeroValid, Zeroed};

const SINGLE: u32 = 0;
const WHOLE: u32 = 1;
const SPLITTING: u32 = 2;

/// The state of a block; zero bytes are `Single`.
#[derive(Debug, Default)]
struct State(AtomicU32);

// SAFETY: an atomic of a plain integer, for which zero bytes are the value 0.
#[allow(unsafe_code, reason = "states live in lazily zeroed memory")]
unsafe impl ZeroValid for State {}

/// The two ways to protect pages.
pub(crate) trait Protect {
    /// Page by page, pages that were never touched included.
    fn pages(&self, range: PageRange, writable: bool) -> Result<(), ProtectError>;
    /// By the permissions of the mapping.
    fn mapping(&self, range: PageRange, writable: bool) -> Result<(), ProtectError>;
    /// Whether the system holds anything of these pages; `true` in doubt.
    fn is_touched(&self, range: PageRange) -> bool;
}

pub(crate) struct Blocks {
    states: Zeroed<State>,
    block: usize,
    pages: usize,
}

impl Blocks {
    /// Blocks of `block` pages each, of `pages` pages, all `Single`.
    pub fn new(pages: usize, block: usize) -> io::Result<Self> {
        Ok(Self {
            states: Zeroed::new(pages.div_ceil(block))?,
            block,
            pages,
        })
    }

    /// Takes write permission away, from untouched blocks as a whole. While nobody disarms.
    pub fn arm(&self, range: PageRange, by: &impl Protect) -> Result<(), ProtectError> {
        // Neighbouring parts that are protected in the same way are protected by one call.
        let mut pending: Option<(bool, PageRange)> = None;
        for (block, part) in self.parts(range) {
            if self.is_whole(block) {
                continue;
            }
            let whole = part == self.pages_of(block) && !by.is_touched(part);
            pending = match pending {
                Some((same, before))
                    if same == whole && before.last().get() + 1 == part.first().get() =>
                {
                    Some((whole, PageRange::new(before.first(), part.last())))
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
            return by.pages(range, false);
        }
        let done = by.mapping(range, false);
        // Also when the call failed: it may have come half way.
        self.set_whole(range, true);
        match done {
            // Markers need no mappings.
            Err(ProtectError::NoMappings) => by.pages(range, false),
            done => done,
        }
    }

    /// Gives write permission back to pages that the caller has claimed. Async-signal-safe when `by` is.
    pub fn disarm(&self, range: PageRange, by: &impl Protect) -> Result<(), ProtectError> {
        if range.count() == self.pages {
            // Nobody else is at work.
            self.open_mappings(by)?;
        }
        for (block, _) in self.parts(range) {
            self.split(block, || {
                let pages = self.pages_of(block);
                by.pages(pages, false)?;
                by.mapping(pages, true)
            })?;
        }
        by.pages(range, true)
    }

    /// Protects no block as a whole any more, by one call, which splits no mapping.
    pub fn open_mappings(&self, by: &impl Protect) -> Result<(), ProtectError> {
        let all = PageRange::all(self.pages);
        by.mapping(all, true)?;
        self.set_whole(all, false);
        Ok(())
    }

    /// Splits all blocks, by so few calls that no further mapping is needed. While nobody disarms.
    pub fn split_all(&self, by: &impl Protect) -> Result<(), ProtectError> {
        let all = PageRange::all(self.pages);
        for (block, pages) in self.parts(all) {
            if self.is_whole(block) {
                by.pages(pages, false)?;
            }
        }
        by.mapping(all, true)?;
        self.set_whole(all, false);
        Ok(())
    }

    /// The parts of `range` that lie in one block each, with the block's number.
    fn parts(&self, range: PageRange) -> impl Iterator<Item = (usize, PageRange)> + '_ {
        let (first, last) = (range.first(), range.last());
        (first.get() / self.block..=last.get() / self.block).map(move |block| {
            let all = self.pages_of(block);
            let part = PageRange::new(first.max(all.first()), last.min(all.last()));
            (block, part)
        })
    }

    fn pages_of(&self, block: usize) -> PageRange {
        let end = (block * self.block + self.block).min(self.pages);
        PageRange::new(PageIndex::new(block * self.block), PageIndex::new(end - 1))
    }

    fn is_whole(&self, block: usize) -> bool {
        self.states[block].0.load(Ordering::Acquire) == WHOLE
    }

    /// Only while nobody can open pages of these blocks.
    fn set_whole(&self, range: PageRange, whole: bool) {
        for (block, _) in self.parts(range) {
            let state = if whole { WHOLE } else { SINGLE };
            self.states[block].0.store(state, Ordering::Release);
        }
    }

    /// Sees to it that the block's pages are protected one by one, by `act`, which one caller does while others
    /// wait. Async-signal-safe when `act` is.
    fn split(
        &self,
        block: usize,
        act: impl FnOnce() -> Result<(), ProtectError>,
    ) -> Result<(), ProtectError> {
        let state = &self.states[block].0;
        loop {
            let won =
                state.compare_exchange(WHOLE, SPLITTING, Ordering::Acquire, Ordering::Acquire);
            match won {
                Ok(_) => break,
                Err(SPLITTING) => wait_until(
                    || state.load(Ordering::Acquire) != SPLITTING,
                    || sleep_u32(state, SPLITTING),
                ),
                Err(_) => return Ok(()),
            }
        }
        let done = act();
        let now = if done.is_ok() { SINGLE } else { WHOLE };
        state.store(now, Ordering::Release);
        wake_u32(state);
        done
    }
}
