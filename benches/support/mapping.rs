//! Ordinary memory, to compare with.

#![allow(unsafe_code, reason = "mmap")]

use std::sync::atomic::AtomicU64;
use std::{io, ptr};

/// A private mapping of `len` zero bytes, of huge pages or of none, that is never unmapped.
pub fn ordinary(len: usize, huge: bool) -> Result<&'static mut [u8], String> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(format!("mmap: {}", io::Error::last_os_error()));
    }
    // SAFETY: mapped for good, zero-filled, and nobody else knows of it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast(), len) };
    advise(bytes, huge);
    Ok(bytes)
}

/// Asks for huge pages or for none, whatever the system's default, for memory that was not touched yet.
pub fn advise(bytes: &mut [u8], huge: bool) {
    let advice = if huge {
        libc::MADV_HUGEPAGE
    } else {
        libc::MADV_NOHUGEPAGE
    };
    // SAFETY: whole pages that are borrowed exclusively, whose contents stay. Kernels without huge pages
    // refuse, which is as good as small ones.
    unsafe { libc::madvise(bytes.as_mut_ptr().cast(), bytes.len(), advice) };
}

/// Memory as words that several threads may store to.
///
/// # Safety
///
/// From `start` on, `len` bytes must be mapped for as long as the words are used, and be stored to by nothing
/// but atomic stores.
pub unsafe fn words<'a>(start: *mut u8, len: usize) -> &'a [AtomicU64] {
    // SAFETY: as above; whole pages, so aligned and a multiple of 8 long.
    unsafe { std::slice::from_raw_parts(start.cast(), len / 8) }
}

/// Something in each word, so that each page is resident.
pub fn fill(bytes: &mut [u8]) {
    for (index, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = (index as u64 + 1).to_ne_bytes();
    }
}
