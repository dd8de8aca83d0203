//! Protection by mprotect(2).
//!
//! Each border between an armed and an open page splits a kernel mapping, and there is a limit to
//! those (`vm.max_map_count`): a call that would pass it fails with ENOMEM. Mappings merge again
//! when their permissions agree *and* they stem from one mapping that had its bookkeeping
//! (`anon_vma`) before it was split; hence the byte that is written before the first arming.

#![allow(unsafe_code, reason = "mprotect")]

use nix::errno::Errno;

use super::memory::Memory;
use crate::page::{PageRange, PageSize};
use crate::sys::{Permission, ProtectError};

impl Memory {
    /// Gives pages this permission, by that of their mapping. Async-signal-safe.
    pub fn protect(
        &self,
        range: PageRange,
        page_size: PageSize,
        permission: Permission,
    ) -> Result<(), ProtectError> {
        let protection = match permission {
            Permission::ReadOnly => libc::PROT_READ,
            Permission::Writable => libc::PROT_READ | libc::PROT_WRITE,
        };
        let (start, len) = self.bytes_of(range, page_size);
        // SAFETY: whole pages inside our own mapping. Taking or giving write permission does not
        // invalidate references: stores through them are retried by the handler
        // (docs/soundness.md).
        if unsafe { libc::mprotect(start.cast(), len, protection) } == 0 {
            return Ok(());
        }
        match Errno::last_raw() {
            libc::ENOMEM => Err(ProtectError::NoMappings),
            number => Err(ProtectError::Refused(number)),
        }
    }

    /// For checks: which pages have a mapping that is not writable, one value a page.
    pub fn read_only_pages(&self, page_size: PageSize) -> Result<Vec<bool>, String> {
        let bytes = page_size.bytes();
        let pages = self.len() / bytes;
        let mut read_only = vec![false; pages];
        let start = self.as_ptr() as usize;
        let regions = region::query_range(self.as_ptr(), self.len()).map_err(|e| e.to_string())?;
        let mut seen = 0;
        for region in regions {
            let region = region.map_err(|error| error.to_string())?;
            let range = region.as_range();
            let from = range.start.max(start) - start;
            let to = range.end.min(start + self.len()) - start;
            let writable = region.protection().contains(region::Protection::WRITE);
            read_only[from / bytes..to / bytes].fill(!writable);
            seen += (to - from) / bytes;
        }
        if seen != pages {
            return Err(format!("{seen} of {pages} pages are mapped"));
        }
        Ok(read_only)
    }
}
