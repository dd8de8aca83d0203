//! Merging: what was stored to private pages is brought back into the file, which nobody looks at
//! any more, and the pages become shared again.
//!
//! A slice at a time, from below. Its pages are made read-only; those that have a copy of their own
//! are copied into the file; then the page tables of the file's view are moved to the live one,
//! which is shared and writable again by that call. A store in between is refused and waits.

use crate::error::Result;
use crate::page::{PageIndex, PageRange};
use crate::remap::{Remap, State, refused};
use crate::sync::{MutexGuard, Ordering, sleep_u32, wait_until, wake_u32};
use crate::sys::{self, Permission};

/// How often the pages of a slice may be doubled, as a factor: up to 8 MiB.
const MOST_DOUBLED: usize = if cfg!(loom) { 2 } else { 16 };

/// How a call to merge went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merged {
    /// Nothing is left to merge.
    All,
    /// A slice was merged, and there are more.
    Some,
    /// Somebody looks at the file, or the memory is lent: he will say so when he goes.
    Held,
    /// A child of a fork looks at the file.
    ByChild,
}

impl Remap {
    /// Merges a slice, unless somebody looks at the file or the memory is needed where it was lent;
    /// `open` and `is_looked_at` as for [`freeze`](Self::freeze).
    pub fn merge_some(
        &self,
        open: impl FnOnce() -> Result<bool>,
        is_looked_at: impl FnOnce() -> bool,
    ) -> Result<Merged> {
        let mut state = self.state();
        if self.is_forsaken() || state.is_shared() {
            return Ok(Merged::All);
        }
        if state.holders > 0 || !self.take_back(&state, open)? {
            return Ok(Merged::Held);
        }
        if is_looked_at() {
            return Ok(Merged::ByChild);
        }
        self.merge_slice(&mut state)?;
        Ok(if state.is_shared() {
            Merged::All
        } else {
            Merged::Some
        })
    }

    /// Merges the next slice. Nobody looks at the file, and there is something to merge.
    pub(super) fn merge_slice(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        self.pass_foreign(state);
        if state.is_shared() {
            return Ok(());
        }
        let slice = self.next_slice(state);
        let shared = self.refuse_while(slice, || self.share_slice(slice));
        let copies = shared.map_err(|error| refused(slice, error))?;
        self.views.free_tables(slice);
        self.copies.fetch_add(copies, Ordering::Relaxed);
        state.merged += copies;
        self.most_copies.fetch_max(state.merged, Ordering::Relaxed);
        state.shared = slice.end();
        // Where little was stored, slices double: each takes some calls, whatever its size.
        let few = self.slice as u64 / 4;
        state.step = if copies <= few {
            (state.step * 2).min(self.slice * MOST_DOUBLED)
        } else {
            self.slice
        };
        Ok(())
    }

    /// Does something with pages, stores to which are refused meanwhile, and wait.
    pub(super) fn refuse_while<R>(&self, pages: PageRange, act: impl FnOnce() -> R) -> R {
        // A signal handler that stores to them would wait for the thread that it interrupts.
        let masked = sys::signal::Masked::new();
        // Nothing is allocated until it is done: a thread that waits may hold any lock.
        let number = self.slices.fetch_add(1, Ordering::Relaxed) as u32;
        let packed = (pages.start() as u64) << 32 | pages.end() as u64;
        self.merging_pages.store(packed, Ordering::SeqCst);
        // Odd, so that it is not 0.
        self.merging.store(number << 1 | 1, Ordering::SeqCst);
        let result = act();
        self.merging.store(0, Ordering::SeqCst);
        wake_u32(&self.merging);
        drop(masked);
        result
    }

    /// Passes pages that have left and are the next to be merged.
    fn pass_foreign(&self, state: &mut State) {
        while let Some(run) = state.foreign.next(state.shared)
            && run.start <= state.shared
            && !state.is_shared()
        {
            let end = run.end.min(state.end);
            // What the file holds of them nobody needs any more.
            #[cfg(feature = "forkable")]
            self.views.give_up(PageRange::from(state.shared..end));
            state.shared = end;
        }
    }

    /// The pages that are to be merged next. More than those of one slice only where there are no
    /// more copies than it may have, so that no store waits for long.
    fn next_slice(&self, state: &mut State) -> PageRange {
        let start = state.shared;
        let foreign = state.foreign.next(start);
        let state_end = foreign.map_or(state.end, |run| run.start.min(state.end));
        let pages = |step: usize| {
            let end = (start + step) / step * step;
            PageRange::from(start..end.min(state_end))
        };
        let least = self.slice;
        if state.step <= least || self.count_copied(pages(state.step)) > least as u64 {
            state.step = least;
        }
        pages(state.step)
    }

    /// Returns how many pages were copied. When a call is refused the slice is as it was.
    fn share_slice(&self, slice: PageRange) -> std::result::Result<u64, sys::ProtectError> {
        let mut copies = 0;
        // A call that is refused may have protected a part.
        let shared = self.views.protect(slice, Permission::ReadOnly);
        let shared = shared.and_then(|()| {
            self.views.copied(slice, |page| {
                self.views.copy_down(page);
                copies += 1;
            });
            self.views.share(slice)
        });
        if let Err(error) = shared {
            if self.views.protect(slice, Permission::Writable).is_err() {
                sys::die("pagecow: cannot undo half of merging a slice\n");
            }
            return Err(error);
        }
        Ok(copies)
    }

    /// After a store to this page was refused: waits while the page is being merged. Returns
    /// whether it was. Async-signal-safe.
    pub fn refused(&self, page: PageIndex) -> bool {
        let merging = self.merging.load(Ordering::SeqCst);
        if merging == 0 {
            return false;
        }
        // Perhaps of a later slice already: then there is nothing to wait for.
        let pages = self.merging_pages.load(Ordering::SeqCst);
        let (start, end) = ((pages >> 32) as usize, pages as u32 as usize);
        if !(start..end).contains(&page.get()) {
            return false;
        }
        self.wait_for(merging);
        true
    }

    fn wait_for(&self, merging: u32) {
        let is_merged = || self.merging.load(Ordering::SeqCst) == merging;
        wait_until(|| !is_merged(), || sleep_u32(&self.merging, merging));
    }

    #[cfg(feature = "forkable")]
    pub fn is_merging(&self) -> bool {
        self.merging.load(Ordering::SeqCst) != 0
    }

    /// Waits for the slice that is being merged, if there is one. Async-signal-safe.
    #[cfg(feature = "forkable")]
    pub fn wait_until_merged(&self) {
        let merging = self.merging.load(Ordering::SeqCst);
        if merging != 0 {
            self.wait_for(merging);
        }
    }
}
