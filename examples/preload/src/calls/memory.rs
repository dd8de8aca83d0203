//! Mapping memory. What an allocator maps is served; all else is the kernel's. Served pages *leave*
//! where something else is mapped.

use std::ffi::{c_int, c_void};
use std::ops::Range;

use crate::begin;
use crate::inside::is_inside;
use crate::real;
use crate::served::{self, Served};

pub(super) const ACCESS: c_int = libc::PROT_READ | libc::PROT_WRITE;
const KIND: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// mmap(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    begin::begin();
    if let Some(served) = served::here()
        && let Some(mapped) = map(served, address, len, prot, flags)
    {
        return mapped;
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mmap, address, len, prot, flags, fd, offset) as *mut c_void }
}

/// What mmap(2) returns where the kernel is not asked. Served memory in whose place it is to map
/// something has left by then.
fn map(
    served: &Served,
    address: *mut c_void,
    len: usize,
    prot: c_int,
    flags: c_int,
) -> Option<*mut c_void> {
    let is_plain = prot == ACCESS && flags & !libc::MAP_NORESERVE & !libc::MAP_FIXED == KIND;
    if flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) == 0 {
        let fits = len > 0 && len <= isize::MAX as usize;
        return (is_plain && fits)
            .then(|| served.map(address as usize, len))
            .flatten();
    }
    let addresses = touched(served, address, len)?;
    if flags & libc::MAP_FIXED_NOREPLACE != 0 {
        real::set_errno(libc::EEXIST);
        return Some(libc::MAP_FAILED);
    }
    served.take_over(addresses.clone());
    if is_plain && served.part_of(addresses.clone()) == Some(addresses.clone()) {
        served.clear(addresses);
        return Some(address);
    }
    (!served.leave(addresses)).then_some(libc::MAP_FAILED)
}

/// Whole pages from an address on, if some of them are of the served address space.
pub(super) fn touched(served: &Served, address: *const c_void, len: usize) -> Option<Range<usize>> {
    let start = address as usize;
    let end = start
        .checked_add(len)?
        .checked_next_multiple_of(served.page)?;
    let is_whole = start.is_multiple_of(served.page);
    (is_whole && served.part_of(start..end).is_some()).then_some(start..end)
}

/// mmap(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller's.
    unsafe { mmap(address, len, prot, flags, fd, offset) }
}

/// munmap(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(address: *mut c_void, len: usize) -> c_int {
    if let Some(served) = served::anywhere().filter(|_| !served::is_child())
        && let Some(addresses) = touched(served, address, len)
    {
        if is_inside() {
            // By a signal handler that interrupted this library: the memory is lost.
            return 0;
        }
        let Some(own) = served.part_of(addresses.clone()) else {
            return 0;
        };
        for other in [addresses.start..own.start, own.end..addresses.end] {
            if !other.is_empty() {
                // SAFETY: the caller's, but for what is served.
                let result = unsafe { libc::syscall(libc::SYS_munmap, other.start, other.len()) };
                if result != 0 {
                    return result as c_int;
                }
            }
        }
        served.unmap(own);
        return 0;
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_munmap, address, len) as c_int }
}

/// mremap(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mremap(
    old: *mut c_void,
    old_len: usize,
    new_len: usize,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    if let Some(served) = served::anywhere().filter(|_| !is_inside())
        && (served.has(old as usize)
            || (flags & libc::MREMAP_FIXED != 0 && served.has(new as usize)))
    {
        // SAFETY: the caller's.
        return unsafe { resize(served, old, old_len, new_len, flags, new) };
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mremap, old, old_len, new_len, flags, new) as *mut c_void }
}

/// # Safety
///
/// As mremap(2), of served memory, or to where that is.
unsafe fn resize(
    served: &Served,
    old: *mut c_void,
    old_len: usize,
    new_len: usize,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    let start = old as usize;
    let fits = |len: usize| len > 0 && len <= isize::MAX as usize;
    if !fits(old_len) || !fits(new_len) || !start.is_multiple_of(served.page) {
        real::set_errno(libc::EINVAL);
        return libc::MAP_FAILED;
    }
    let (old_len, new_len) = (served.round_up(old_len), served.round_up(new_len));
    let end = start + old_len;
    let is_served = served.is_all_served(start..end);
    if flags & !libc::MREMAP_MAYMOVE != 0 || !is_served && !served::is_child() {
        // SAFETY: the caller's.
        return unsafe { resize_by_kernel(served, start..end, new_len, flags, new) };
    }
    if new_len <= old_len {
        if new_len < old_len {
            // SAFETY: the caller's.
            unsafe { munmap((start + new_len) as *mut c_void, old_len - new_len) };
        }
        return old;
    }
    if !served::is_child() && served.extend(end, new_len - old_len) {
        return old;
    }
    if flags & libc::MREMAP_MAYMOVE == 0 {
        real::set_errno(libc::ENOMEM);
        return libc::MAP_FAILED;
    }
    // SAFETY: a new mapping.
    let moved = unsafe { mmap(std::ptr::null_mut(), new_len, ACCESS, KIND, -1, 0) };
    if moved != libc::MAP_FAILED {
        // SAFETY: the old one and the new one, of that length at least, the old one not needed any
        // more afterwards.
        unsafe {
            moved.copy_from_nonoverlapping(old, old_len);
            munmap(old, old_len);
        }
    }
    moved
}

/// Has what is served leave first.
///
/// # Safety
///
/// As mremap(2).
unsafe fn resize_by_kernel(
    served: &Served,
    old: Range<usize>,
    new_len: usize,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    if !served::is_child() {
        let target = new as usize..(new as usize).saturating_add(new_len);
        let is_over = flags & libc::MREMAP_FIXED != 0 && served.part_of(target.clone()).is_some();
        if is_over {
            served.take_over(target.clone());
        }
        if !served.leave(old.clone()) || is_over && !served.leave(target) {
            return libc::MAP_FAILED;
        }
    }
    let (start, len) = (old.start, old.len());
    // SAFETY: the caller's.
    let moved = unsafe { libc::syscall(libc::SYS_mremap, start, len, new_len, flags, new) };
    let moved = moved as *mut c_void;
    if moved == libc::MAP_FAILED || served::is_child() {
        return moved;
    }
    let is_gone = flags & libc::MREMAP_DONTUNMAP == 0;
    if is_gone && moved as usize != start {
        served.emptied(old);
    } else if is_gone && new_len < len {
        served.emptied(start + new_len..old.end);
    }
    moved
}
