//! Freezing, holding and letting go.
//!
//! The instant of a snapshot is the second call of [`Views::freeze`](crate::sys::Views::freeze):
//! when the kernel takes the shared view away, it waits until no processor can store through it any
//! more, before anybody can store through the private one. So a store that is not in the snapshot
//! comes after all that are.

use crate::error::{Error, Result};
use crate::page::PageRange;
use crate::remap::{Remap, State, refused};
use crate::sync::Ordering;

impl Remap {
    /// Freezes what is in the live view now, for one more holder, who [releases](Self::release) it.
    ///
    /// What is left to be merged is merged first, for which stores to it have to be able to wait:
    /// their signal must not be masked, and nobody may hold what they need. When the file is held
    /// already, it serves if nothing was stored since. `is_looked_at` as for
    /// [`merge_some`](Self::merge_some).
    pub fn freeze(&self, is_looked_at: impl Fn() -> bool) -> Result<()> {
        let mut state = self.state();
        if state.holders == 0 && state.shared < self.pages.get() {
            if is_looked_at() {
                return Err(Error::Busy { by_child: true });
            }
            while state.shared < self.pages.get() {
                self.merge_slice(&mut state)?;
            }
        }
        if state.holders == 0 {
            let all = PageRange::all(self.pages);
            self.views
                .freeze(all)
                .map_err(|error| refused(all, error))?;
            state.shared = 0;
            state.merged = 0;
        } else if self.is_written(&state) {
            return Err(Error::Busy { by_child: false });
        }
        state.holders += 1;
        Ok(())
    }

    /// One more who looks at the file, beside one who does already.
    pub fn hold(&self) {
        self.state().holders += 1;
    }

    /// Whether nobody looks at the file any more, so that there may be something to merge.
    pub fn release(&self) -> bool {
        let mut state = self.state();
        state.holders -= 1;
        state.holders == 0 && !self.is_forsaken()
    }

    /// Whether somebody looks at the file, and how many do.
    pub fn holders(&self) -> usize {
        self.state().holders
    }

    /// Whether a snapshot can be taken by two calls.
    pub fn is_ready(&self) -> bool {
        self.state().shared == self.pages.get()
    }

    /// Pages that would have to be merged first, at most.
    pub fn left(&self) -> usize {
        self.pages.get() - self.state().shared
    }

    /// Whether anything was stored since the live view was made private. A page that has no copy
    /// when it is looked at had none at the beginning of this call, which is the instant for which
    /// "nothing" holds.
    fn is_written(&self, state: &State) -> bool {
        self.private(state)
            .is_some_and(|pages| self.count_copied(pages) > 0)
    }

    fn count_copied(&self, pages: PageRange) -> u64 {
        let mut count = 0;
        self.views.copied(pages, |_| count += 1);
        count
    }

    /// Counts the copies that the kernel made, from the page tables.
    pub fn copies(&self) -> Copies {
        let state = self.state();
        let now = self
            .private(&state)
            .map_or(0, |pages| self.count_copied(pages));
        Copies {
            now,
            ever: self.copies.load(Ordering::Relaxed) + now,
            most: self
                .most_copies
                .load(Ordering::Relaxed)
                .max(state.merged + now),
        }
    }
}

#[cfg(not(loom))]
impl Remap {
    /// For tests: whether the kernel's mappings are what the state says, all of them writable.
    pub fn check_invariants(&self) -> std::result::Result<(), String> {
        let state = self.state();
        let shared = self.views.shared_pages()?;
        let wrong = shared
            .iter()
            .enumerate()
            .find(|(page, is_shared)| **is_shared != (*page < state.shared));
        match wrong {
            Some((page, is_shared)) => Err(format!("page {page}: shared is {is_shared}")),
            None if state.holders > 0 && state.shared > 0 => Err("held and shared".to_owned()),
            None => Ok(()),
        }
    }
}

/// Numbers of pages that were stored to while they were private.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copies {
    /// Those that have not been merged.
    pub now: u64,
    /// Since the memory was made.
    pub ever: u64,
    /// At one time, as far as was looked.
    pub most: u64,
}
