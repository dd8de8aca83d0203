//! The address space that the views are in.

#![allow(unsafe_code, reason = "mappings of their own")]

use std::io;

use super::ANYWHERE;
use crate::sys::linux::result::{check, mapped_at};

/// Addresses that nobody else gets.
pub(super) struct Reserved {
    pub(super) start: *mut u8,
    len: usize,
}

impl Reserved {
    /// With limits the kernel is asked for private memory that can be stored to, which it counts:
    /// what is mapped in its place later is not counted again.
    pub(super) fn new(len: usize, limited: bool) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let access = if limited {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            // Also where all new memory is locked, none of it becomes resident.
            libc::PROT_NONE
        };
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { libc::mmap(ANYWHERE, len, access, flags, -1, 0) };
        mapped_at(start)?;
        let start = start.cast();
        let reserved = Self { start, len };
        if limited {
            // SAFETY: the mapping that was just made and that nobody uses.
            check(unsafe { libc::mprotect(reserved.start.cast(), len, libc::PROT_NONE) })?;
        }
        Ok(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: a mapping of its own, with the views in it, which nobody uses any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
