//! Memory and branches around a fork.

use std::io;

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

    #[cfg(not(loom))]
    /// The child's memory is another engine's from now on. Returns whether that has not had it
    /// before.
    pub fn in_child(&mut self) -> bool {
        self.remap.forsaken.store(true, Ordering::Relaxed);
        if !self.inherited {
            self.remap.views.fence_off();
        }
        self.inherited && !self.remap.is_lent()
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
