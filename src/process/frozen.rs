//! The bytes of a frozen arena, held: they stay as they are for as long as this lives, and longer
//! than the arena.

#![allow(unsafe_code, reason = "hands out references into mapped memory")]

use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::cow::elsewhere::Elsewhere;
use crate::cow::restore::Restored;
use crate::error::Result;
use crate::page::{PageIndex, PageRange};
use crate::process::registered::Registered;
use crate::process::remapped::Remapped;
use crate::sys;

pub(crate) struct Frozen {
    registered: Arc<Registered>,
}

impl Frozen {
    /// Freezes an arena that is [remapped](Registered::remap) for that; `None` when it cannot, so
    /// that its core has to.
    pub fn take(
        registered: &Arc<Registered>,
        remapped: &Remapped,
    ) -> Result<Option<(Self, Elsewhere)>> {
        let taken = registered
            .core()
            .take_elsewhere(|core| remapped.freeze(core))?;
        Ok(taken.map(|taken| {
            let registered = registered.clone();
            (Self { registered }, taken)
        }))
    }

    /// A snapshot of these bytes began or ended.
    pub fn count_snapshots(&self, change: isize) {
        self.remapped().count_snapshots(change);
    }

    fn remapped(&self) -> &Remapped {
        let remapped = self.registered.remap_once();
        remapped.expect("it was remapped when this was taken")
    }

    /// The first run of pages, from `page` on, that may hold something else than zeros; `None` when
    /// there is none.
    pub fn next_held(&self, page: usize) -> Option<Range<usize>> {
        self.remapped().remap.views().next_held(page)
    }

    /// A private view of the same bytes, for as long as this lives.
    pub fn branch(&self) -> io::Result<Arc<sys::Branch>> {
        self.remapped().remap.branch()
    }

    /// The branch is not used any more.
    pub fn forget(&self, branch: &Arc<sys::Branch>) {
        self.remapped().remap.forget(branch);
    }

    /// Puts live memory back to these bytes.
    pub fn restore(&self) -> Result<Restored> {
        let core = self.registered.core();
        let remap = self.registered.remap();
        core.restore_from(self, || remap?.remap.restore(), || self.may_differ())
    }

    /// How many pages were stored to since they were frozen.
    pub fn copies(&self) -> u64 {
        let remap = self.registered.remap();
        remap.map_or(0, |remapped| remapped.remap.copies().now)
    }

    /// Those pages; `None` where it is not known.
    pub fn copied(&self) -> Option<Vec<PageIndex>> {
        let remap = self.registered.remap();
        remap.map(|remapped| remapped.remap.copied())
    }

    /// Those pages; all where it is not known.
    pub fn may_differ(&self) -> Vec<PageIndex> {
        let pages = self.registered.core().pages();
        let all = || PageRange::all(pages).iter().collect();
        self.copied().unwrap_or_else(all)
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let views = self.remapped().remap.views();
        // SAFETY: mapped and initialised for as long as the arena is registered; the file is held,
        // so that nobody stores to it.
        unsafe { std::slice::from_raw_parts(views.frozen(), views.len()) }
    }
}

impl Clone for Frozen {
    fn clone(&self) -> Self {
        self.remapped().remap.hold();
        let registered = self.registered.clone();
        Self { registered }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.remapped().remap.release() {
            self.registered.wake_keeper();
        }
    }
}
