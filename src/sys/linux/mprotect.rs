//! The mprotect engine: write permission is taken and given by mprotect(2).
//!
//! Each border between an armed and an open page splits a kernel mapping, and there is a limit to those
//! (`vm.max_map_count`): a call that would pass it fails with ENOMEM. Mappings merge again when their
//! permissions agree *and* they stem from one mapping that had its bookkeeping (`anon_vma`) before it was
//! split; hence the byte that is written before the first arming.

#![allow(unsafe_code, reason = "mprotect")]

use std::io;

use nix::errno::Errno;

use super::memory::Memory;
use crate::page::{PageIndex, PageRange, PageSize};
use crate::sys::ProtectError;

pub(crate) struct Engine {
    memory: Memory,
    page_size: PageSize,
}

impl Engine {
    /// Memory for an arena: `pages` writable pages between two that nobody may touch, so that the
    /// mapping never merges with a stranger's and a whole-arena call splits nothing.
    pub fn new(pages: usize, page_size: PageSize) -> io::Result<Self> {
        let memory = Memory::new(pages + 2, page_size)?;
        let bytes = page_size.bytes();
        let low = memory.as_mut_ptr();
        let high = low.wrapping_add((pages + 1) * bytes);
        for guard in [low, high] {
            // SAFETY: one page inside the mapping that was just made and that nobody uses.
            let result = unsafe { libc::mprotect(guard.cast(), bytes, libc::PROT_NONE) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let memory = memory.inner(PageIndex::new(1), pages, page_size);
        // SAFETY: the first byte of the arena, writable, and nobody else knows of it yet.
        unsafe { memory.as_mut_ptr().write_volatile(0) };
        Ok(Self { memory, page_size })
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes write permission away. Async-signal-safe.
    pub fn arm(&self, range: PageRange) -> Result<(), ProtectError> {
        self.protect(range, libc::PROT_READ)
    }

    /// Gives write permission back. Async-signal-safe.
    pub fn disarm(&self, range: PageRange) -> Result<(), ProtectError> {
        self.protect(range, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn protect(&self, range: PageRange, protection: libc::c_int) -> Result<(), ProtectError> {
        let start = self.page_size.offset_of(range.first());
        let len = range.count() * self.page_size.bytes();
        debug_assert!(start + len <= self.memory.len());
        let address = self.memory.as_mut_ptr().wrapping_add(start);
        // SAFETY: whole pages inside our own mapping. Taking or giving write permission does not
        // invalidate references: stores through them are retried by the handler (docs/soundness.md).
        if unsafe { libc::mprotect(address.cast(), len, protection) } == 0 {
            return Ok(());
        }
        match Errno::last_raw() {
            libc::ENOMEM => Err(ProtectError::NoMappings),
            number => Err(ProtectError::Refused(number)),
        }
    }
}
