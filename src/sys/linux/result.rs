//! What system calls return, as a result.

use std::io;

use crate::sys::ProtectError;

/// Of a call that returns a negative number when it fails.
pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Of a call that maps memory, at this address.
pub(super) fn mapped_at(address: *mut libc::c_void) -> io::Result<()> {
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Of a call that changes mappings or their protection.
pub(super) fn refused(error: &io::Error) -> ProtectError {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => ProtectError::NoMappings,
        number => ProtectError::Refused(number.unwrap_or(0)),
    }
}
