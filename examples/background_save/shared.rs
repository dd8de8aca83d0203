//! Zeroed memory that a forked child shares with its parent, as atomics.
#![allow(unsafe_code, reason = "maps memory and gives it out as atomics")]

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU64};

use crate::failure::Failure;

/// An anonymous shared mapping.
#[derive(Debug)]
pub struct Shared {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and is given out only as atomics.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps `len` bytes, rounded up to whole words.
    pub fn new(len: usize) -> Result<Shared, Failure> {
        let len = len.next_multiple_of(8);
        // SAFETY: a new mapping at an address of the kernel's choice affects no other memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(Failure::failed("cannot map shared memory", error));
        }
        let start = NonNull::new(start.cast()).expect("the kernel does not map page 0");
        Ok(Shared { start, len })
    }

    pub fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `len` mapped, zeroed bytes that live as long as `self` and are accessed only
        // atomically.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: as in `bytes`; a mapping starts at a page, so the words are aligned.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.len / 8) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and no reference to it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
