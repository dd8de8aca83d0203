//! Memory and branches around a fork.

use std::io;

#[cfg(feature = "forkable")]
use crate::error::{Error, Result};
#[cfg(feature = "forkable")]
use crate::page::PageRange;
use crate::remap::{Remap, State};
#[cfg(not(loom))]
use crate::sync::Ordering;
use crate::sync::{Arc, MutexGuard};
use crate::sys::Branch;

/// Memory that is held still across a fork, by the thread that forks.
pub(crate) struct Still<'a> {
    remap: &'a Remap,
    state: MutexGuard<'a, State>,
    /// The child gets the views.
    inherited: bool,
}

impl Remap {
    /// Nothing is frozen, merged or released until the fork is over.
    pub fn hold_still(&self) -> Still<'_> {
        Still {
            remap: self,
            state: self.state(),
            inherited: false,
        }
    }
}

impl Still<'_> {
    /// Freezes what is shared, so that the child has its own, and lets it have the views. When it
    /// is refused the child does not get them, and crashes if it uses them.
    pub fn before(&mut self) {
        let remap = self.remap;
        if remap.is_forsaken() {
            return;
        }
        if remap.make_private(&mut self.state).is_err() {
            return;
        }
        remap.views.inherit(true, self.branches());
        self.inherited = true;
    }

    fn branches(&self) -> impl Iterator<Item = &Branch> {
        self.state.branches.iter().map(|branch| &**branch)
    }

    pub fn in_parent(&mut self) {
        if !self.remap.is_forsaken() {
            self.remap.views.inherit(false, self.branches());
        }
    }

    /// The child's memory is another engine's from now on. Returns whether that has not had it
    /// before.
    #[cfg(not(loom))]
    pub fn in_child(&mut self) -> bool {
        self.remap.forsaken.store(true, Ordering::Relaxed);
        if !self.inherited {
            self.remap.views.fence_off();
        }
        self.inherited && !self.remap.is_lent()
    }
}

#[cfg(any(feature = "forkable", loom))]
impl Remap {
    /// No page is in use yet: a fork says below which page all are.
    pub fn unused(mut self) -> Self {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(|poison| poison.into_inner());
        (state.shared, state.end) = (0, 0);
        self
    }
}

#[cfg(feature = "forkable")]
impl Remap {
    /// As [`Still::before`], for the live view alone and the pages below `used`. Nothing is held
    /// until the fork is over: that is the caller's, and that nothing is merged meanwhile.
    pub fn before_fork(&self, used: usize) -> Result<()> {
        let mut state = self.state();
        self.make_private_below(&mut state, used)?;
        self.inherit_live(&state, true)
    }

    pub fn in_parent_of_fork(&self) -> Result<()> {
        self.inherit_live(&self.state(), false)
    }

    /// The child's memory is as any other from now on. Takes no lock: the thread that had it may
    /// not be there.
    pub fn in_child_of_fork(&self) {
        self.forsaken.store(true, Ordering::Relaxed);
    }

    /// Maps the first private pages from `from` on of which the file holds anything, `most` at
    /// most. Returns which.
    pub fn populate_some(&self, from: usize, most: usize) -> Option<PageRange> {
        let state = self.state();
        let mut from = from.max(state.shared);
        loop {
            let part = state.foreign.next_part(from..state.end)?;
            let held = self.views.next_held(part.start)?;
            let start = held.start.max(part.start);
            if start >= part.end {
                from = part.end;
                continue;
            }
            let end = held.end.min(part.end).min(start + most);
            let pages = PageRange::from(start..end);
            return self.views.populate(pages).ok().map(|()| pages);
        }
    }

    fn inherit_live(&self, state: &State, inherited: bool) -> Result<()> {
        let mut rest = 0..state.end;
        while let Some(part) = state.foreign.next_part(rest.clone()) {
            rest.start = part.end;
            let pages = PageRange::from(part);
            let inherited = self.views.inherit_live(pages, inherited);
            inherited.map_err(|source| Error::Protect {
                pages: pages.count().get(),
                source,
            })?;
        }
        Ok(())
    }
}

impl Remap {
    /// One more private view of the file. The caller is a holder, for as long as it lives.
    pub fn branch(&self) -> io::Result<Arc<Branch>> {
        let mut state = self.state();
        state.branches.reserve(1);
        let branch = Arc::new(self.views.branch()?);
        state.branches.push(branch.clone());
        Ok(branch)
    }

    /// It is not used any more.
    pub fn forget(&self, branch: &Arc<Branch>) {
        let mut state = self.state();
        state.branches.retain(|other| !Arc::ptr_eq(other, branch));
    }
}
