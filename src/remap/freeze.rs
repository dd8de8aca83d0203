//! Freezing, holding and letting go.
//!
//! The instant of a snapshot is the second call of [`Views::freeze`](crate::sys::Views::freeze):
//! when the kernel takes the shared view away, it waits until no processor can store through it any
//! more, before anybody can store through the private one. So a store that is not in the snapshot
//! comes after all that are.

use crate::error::Result;
#[cfg(not(loom))]
use crate::page::PageIndex;
use crate::page::PageRange;
use crate::remap::{Remap, State};
use crate::sync::Ordering;

impl Remap {
    /// Freezes what is in the live view now, for one more holder, who [releases](Self::release) it.
    /// `false` when it cannot: something was stored since it was frozen for those who hold it
    /// still, a child of a fork looks at the file (`is_looked_at`), or the memory is lent (see
    /// [`take_back`](Self::take_back) for `open`).
    ///
    /// What is left to be merged is merged first, for which stores to it have to be able to wait:
    /// their signal must not be masked, and nobody may hold what they need.
    pub fn freeze(
        &self,
        open: impl FnOnce() -> Result<bool>,
        is_looked_at: impl FnOnce() -> bool,
    ) -> Result<bool> {
        let mut state = self.state();
        if state.holders > 0 {
            let serves = !self.is_lent() && !self.is_written(&state);
            state.holders += usize::from(serves);
            return Ok(serves);
        }
        if !self.take_back(&state, open)? {
            return Ok(false);
        }
        // As after a fork, or a loan: frozen, and nothing is to be merged.
        let is_frozen = state.shared == 0 && !self.is_written(&state);
        if !state.is_shared() && !is_frozen {
            if is_looked_at() {
                return Ok(false);
            }
            while !state.is_shared() {
                self.merge_slice(&mut state)?;
            }
        }
        self.make_private(&mut state)?;
        state.merged = 0;
        state.holders = 1;
        Ok(true)
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
        self.state().is_shared() && !self.is_lent()
    }

    /// Pages that would have to be merged first, at most.
    pub fn left(&self) -> usize {
        let state = self.state();
        state.end - state.shared
    }

    /// Whether anything was stored since the live view was made private, as far as is known. A page
    /// that has no copy when it is looked at had none at the beginning of this call, which is the
    /// instant for which "nothing" holds. Bytes that are the same would not do: they may have
    /// differed meanwhile.
    fn is_written(&self, state: &State) -> bool {
        self.private(state).is_some_and(|pages| {
            let mut any = false;
            let is_known = self.views.copied(pages, |_| any = true);
            any || !is_known
        })
    }

    pub(super) fn count_copied(&self, pages: PageRange) -> u64 {
        let mut count = 0;
        self.views.copied(pages, |_| count += 1);
        count
    }

    /// The pages that were stored to since they were made private.
    #[cfg(not(loom))]
    pub fn copied(&self) -> Vec<PageIndex> {
        let state = self.state();
        let mut pages = Vec::new();
        if let Some(private) = self.private(&state) {
            self.views.copied(private, |page| pages.push(page));
        }
        pages
    }

    /// Copies that merging has found so far.
    #[cfg(feature = "forkable")]
    pub fn copies_merged(&self) -> u64 {
        self.copies.load(Ordering::Relaxed)
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
        let shared = self.views.shared_pages(self.is_lent())?;
        let wrong = shared
            .iter()
            .enumerate()
            .find(|(page, is_shared)| **is_shared == (state.shared..state.end).contains(page));
        match wrong {
            Some((page, is_shared)) => Err(format!("page {page}: shared is {is_shared}")),
            None if (state.holders > 0 || self.is_lent()) && state.shared > 0 => {
                Err("held or lent, and shared".to_owned())
            }
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
