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
        if self.is_forsaken() || state.shared == self.pages.get() {
            return Ok(Merged::All);
        }
        if state.holders > 0 || !self.take_back(&state, open)? {
            return Ok(Merged::Held);
        }
        if is_looked_at() {
            return Ok(Merged::ByChild);
        }
        self.merge_slice(&mut state)?;
        Ok(if state.shared == self.pages.get() {
            Merged::All
        } else {
            Merged::Some
        })
    }

    /// Merges the next slice. Nobody looks at the file, and there is something to merge.
    pub(super) fn merge_slice(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        let size = self.slice;
        let start = state.shared;
        let end = (start + 1).next_multiple_of(size).min(self.pages.get());
        let slice = PageRange::from(start..end);
        // A signal handler that stores to the slice would wait for the thread that it interrupts.
        let masked = sys::signal::Masked::new();
        // Nothing is allocated until the slice is shared: a thread that waits may hold any lock.
        self.slices.fetch_add(1, Ordering::Relaxed);
        self.merging
            .store((start / size) as u32 + 1, Ordering::SeqCst);
        let shared = self.share_slice(slice);
        self.merging.store(0, Ordering::SeqCst);
        wake_u32(&self.merging);
        drop(masked);
        let copies = shared.map_err(|error| refused(slice, error))?;
        self.copies.fetch_add(copies, Ordering::Relaxed);
        state.merged += copies;
        self.most_copies.fetch_max(state.merged, Ordering::Relaxed);
        state.shared = end;
        Ok(())
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
        let slice = (page.get() / self.slice) as u32 + 1;
        let is_merged = || self.merging.load(Ordering::SeqCst) == slice;
        if !is_merged() {
            return false;
        }
        wait_until(|| !is_merged(), || sleep_u32(&self.merging, slice));
        true
    }
}
