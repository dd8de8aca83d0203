//! Branches: further private views of the file, each stored to by itself.

#![allow(unsafe_code, reason = "mappings of their own")]

use std::io;

use super::{ANYWHERE, Views};
use crate::sys::linux::result::mapped_at;

/// One more private view of the file.
pub(crate) struct Branch {
    pub(super) start: *mut u8,
    pub(super) len: usize,
}

// SAFETY: owns its bytes, as a `Box<[u8]>` does.
unsafe impl Send for Branch {}
// SAFETY: as above.
unsafe impl Sync for Branch {}

impl Views {
    /// A further private view of the file, which must not change for as long as it lives.
    pub fn branch(&self) -> io::Result<Branch> {
        self.empty_spare()?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
        // SAFETY: the spare view, which has no pages to move; the kernel chooses the address.
        let start = unsafe { libc::mremap(self.spare.cast(), self.len, self.len, flags, ANYWHERE) };
        mapped_at(start)?;
        Ok(Branch {
            start: start.cast(),
            len: self.len,
        })
    }
}

impl Branch {
    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        // SAFETY: a mapping of its own, which nobody uses any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
