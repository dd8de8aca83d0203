//! Which views the child of a fork gets, and what becomes of memory that it does not.

#[cfg(feature = "forkable")]
use std::io;

use super::{Branch, Views};
#[cfg(feature = "forkable")]
use crate::page::PageRange;
#[cfg(feature = "forkable")]
use crate::sys::linux::result::check;

impl Views {
    /// Whether children of a fork get the views, those from `branches` too.
    pub fn inherit<'a>(&self, inherited: bool, branches: impl Iterator<Item = &'a Branch>) {
        let own = [self.live, self.frozen, self.spare].map(|view| (view, self.mapped()));
        let branches = branches.map(|branch| (branch.start, branch.len));
        for (start, len) in own.into_iter().chain(branches) {
            // What a child lacks it cannot use, and no byte of it is wrong. The view of the file
            // is reserved memory at first, which may be advised too.
            // SAFETY: whole views; the advice does not change contents.
            unsafe { libc::madvise(start.cast(), len, advice(inherited)) };
        }
    }

    /// Whether children of a fork get these pages of the live view, and nothing else.
    #[cfg(feature = "forkable")]
    pub fn inherit_live(&self, pages: PageRange, inherited: bool) -> io::Result<()> {
        let (offset, len) = self.bytes_of(pages);
        let start = self.live.wrapping_add(offset);
        // SAFETY: inside the live view; the advice does not change contents.
        check(unsafe { libc::madvise(start.cast(), len, advice(inherited)) })
    }

    /// In a child that did not get the views: keeps others' mappings out of where they would be.
    pub fn fence_off(&self) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        for view in [self.live, self.frozen, self.spare] {
            // SAFETY: addresses of the reservation at which nothing is mapped.
            unsafe { libc::mmap(view.cast(), self.mapped(), libc::PROT_NONE, flags, -1, 0) };
        }
    }
}

fn advice(inherited: bool) -> libc::c_int {
    if inherited {
        libc::MADV_DOFORK
    } else {
        libc::MADV_DONTFORK
    }
}
