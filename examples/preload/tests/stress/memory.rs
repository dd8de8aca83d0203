//! Memory as an allocator maps it.

pub fn map(len: usize) -> *mut u8 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    mapped.cast()
}

pub fn unmap(start: *mut u8, len: usize) {
    // SAFETY: mapped by `map`, and not used any more.
    assert_eq!(unsafe { libc::munmap(start.cast(), len) }, 0);
}
