//! Protection by mprotect(2).
//!
//! Each border between an armed and an open page splits a kernel mapping, and there is a limit to those
//! (`vm.max_map_count`): a call that would pass it fails with ENOMEM. Mappings merge again when their
//! permissions agree *and* they stem from one mapping that had its bookkeeping (`anon_vma`) before it was
//! split; hence the byte that is written before the first arming.

#![allow(unsafe_code, reason = "mprotect")]

use nix::errno::Errno;

use super::memory::Memory;
use crate::page::{PageRange, PageSize};
use crate::sys::ProtectError;

/// Takes write permission away, or gives it. Async-signal-safe.
pub(super) fn protect(
    memory: &Memory,
    page_size: PageSize,
    range: PageRange,
    writable: bool,
) -> Result<(), ProtectError> {
    let protection = if writable {
        libc::PROT_READ | libc::PROT_WRITE
    } else {
        libc::PROT_READ
    };
    let (start, len) = memory.bytes_of(range, page_size);
    // SAFETY: whole pages inside our own mapping. Taking or giving write permission does not
    // invalidate references: stores through them are retried by the handler (docs/soundness.md).
    if unsafe { libc::mprotect(start.cast(), len, protection) } == 0 {
        return Ok(());
    }
    match Errno::last_raw() {
        libc::ENOMEM => Err(ProtectError::NoMappings),
        number => Err(ProtectError::Refused(number)),
    }
}
