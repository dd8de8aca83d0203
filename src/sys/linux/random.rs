//! Random bits from the kernel.

#![allow(unsafe_code, reason = "a system call")]

use std::io;

/// 64 bits that nobody can guess. `Err` where a sandbox forbids `getrandom`.
pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    loop {
        // SAFETY: writes at most that many bytes into a live buffer.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        // Fewer than 256 bytes come at once, or not at all.
        if got == bytes.len() as isize {
            return Ok(u64::from_ne_bytes(bytes));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
