//! Mapping memory. What an allocator maps is served; all else is the kernel's.
//!
//! Served memory is one mapping, which a call must not split: what would is done in another way, or
//! refused.

use std::ffi::{c_int, c_void};

use crate::log::log;
use crate::real;
use crate::served::{self, Served};

const ACCESS: c_int = libc::PROT_READ | libc::PROT_WRITE;
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
    if let Some(served) = served::here() {
        let is_fixed = flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0;
        let is_plain = prot == ACCESS && flags & !libc::MAP_NORESERVE & !libc::MAP_FIXED == KIND;
        let end = (address as usize).saturating_add(len);
        if is_fixed && served.part_of(address as usize..end).is_some() {
            return over_served(served, address, len, flags, is_plain);
        }
        let fits = len > 0 && len <= isize::MAX as usize;
        if is_plain
            && !is_fixed
            && fits
            && let Some(mapped) = served.map(address as usize, len)
        {
            return mapped;
        }
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mmap, address, len, prot, flags, fd, offset) as *mut c_void }
}

/// A mapping in the place of served memory.
fn over_served(
    served: &Served,
    address: *mut c_void,
    len: usize,
    flags: c_int,
    is_plain: bool,
) -> *mut c_void {
    let start = address as usize;
    let end = start.saturating_add(served.round_up(len));
    let is_inside = served.part_of(start..end) == Some(start..end);
    if flags & libc::MAP_FIXED_NOREPLACE == libc::MAP_FIXED_NOREPLACE {
        real::set_errno(libc::EEXIST);
    } else if is_plain && is_inside {
        served.clear(start..end);
        return address;
    } else {
        log!("mmap over served memory refused");
        real::set_errno(libc::ENOMEM);
    }
    libc::MAP_FAILED
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
    let start = address as usize;
    if let Some(served) = served::anywhere().filter(|_| !served::is_child())
        && let Some(end) = start.checked_add(len)
        && let Some(part) = served.part_of(start..end)
    {
        if crate::inside::is_inside() {
            // By a signal handler that interrupted this library: the memory is lost.
            return 0;
        }
        let end = start + served.round_up(len);
        let own = part.start..served.part_of(start..end).map_or(part.end, |part| part.end);
        served.unmap(own.clone());
        for other in [start..own.start, own.end..end] {
            if !other.is_empty() {
                // SAFETY: the caller's, but for what is served.
                let result = unsafe { libc::syscall(libc::SYS_munmap, other.start, other.len()) };
                if result != 0 {
                    return result as c_int;
                }
            }
        }
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
    if let Some(served) =
        served::anywhere().filter(|served| served.has(old as usize) && !crate::inside::is_inside())
    {
        // SAFETY: the caller's.
        return unsafe { resize(served, old, old_len, new_len, flags) };
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mremap, old, old_len, new_len, flags, new) as *mut c_void }
}

/// # Safety
///
/// As mremap(2), of served memory.
unsafe fn resize(
    served: &Served,
    old: *mut c_void,
    old_len: usize,
    new_len: usize,
    flags: c_int,
) -> *mut c_void {
    let (start, old_len) = (old as usize, served.round_up(old_len));
    let fitting = new_len > 0 && old_len > 0 && new_len <= isize::MAX as usize;
    if flags & !libc::MREMAP_MAYMOVE != 0 || !fitting {
        real::set_errno(libc::EINVAL);
        return libc::MAP_FAILED;
    }
    let new_len = served.round_up(new_len);
    let end = start + old_len;
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

/// madvise(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int {
    let start = address as usize;
    if let Some(served) = served::anywhere().filter(|_| !crate::inside::is_inside())
        && let Some(end) = start.checked_add(len)
        && let Some(part) = served.part_of(start..end)
        && let Some(result) = advise(served, part, advice)
    {
        return match result {
            Ok(()) => 0,
            Err(number) => {
                real::set_errno(number);
                -1
            }
        };
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_madvise, address, len, advice) as c_int }
}

/// `None`: the kernel may be told.
fn advise(
    served: &Served,
    part: std::ops::Range<usize>,
    advice: c_int,
) -> Option<Result<(), c_int>> {
    match advice {
        libc::MADV_DONTNEED => {
            let given = !served::is_child() && served.give_back(part);
            Some(if given { Ok(()) } else { Err(libc::EINVAL) })
        }
        // Would give up what the kernel holds of a file, and not of this process's memory.
        libc::MADV_FREE | libc::MADV_REMOVE | libc::MADV_WIPEONFORK | libc::MADV_DONTFORK => {
            Some(Err(libc::EINVAL))
        }
        // Would split the mapping, for a hint.
        libc::MADV_HUGEPAGE
        | libc::MADV_NOHUGEPAGE
        | libc::MADV_DONTDUMP
        | libc::MADV_DODUMP
        | libc::MADV_MERGEABLE
        | libc::MADV_UNMERGEABLE
        | libc::MADV_DOFORK
        | libc::MADV_KEEPONFORK
        | libc::MADV_NORMAL
        | libc::MADV_RANDOM
        | libc::MADV_SEQUENTIAL => Some(Ok(())),
        _ => None,
    }
}

/// mprotect(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mprotect(address: *mut c_void, len: usize, prot: c_int) -> c_int {
    let start = address as usize;
    if let Some(served) = served::here()
        && let Some(end) = start.checked_add(len)
        && served.part_of(start..end).is_some()
    {
        if prot == ACCESS {
            return 0;
        }
        return refuse("mprotect of served memory");
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mprotect, address, len, prot) as c_int }
}

/// mlock(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlock(address: *const c_void, len: usize) -> c_int {
    if has_served(address as usize, len) {
        return refuse("mlock of served memory");
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mlock, address, len) as c_int }
}

/// mlock2(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlock2(address: *const c_void, len: usize, flags: c_int) -> c_int {
    if has_served(address as usize, len) {
        return refuse("mlock2 of served memory");
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mlock2, address, len, flags) as c_int }
}

/// munlock(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munlock(address: *const c_void, len: usize) -> c_int {
    if has_served(address as usize, len) {
        // It is not locked.
        return 0;
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_munlock, address, len) as c_int }
}

/// mlockall(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlockall(flags: c_int) -> c_int {
    if served::here().is_some() {
        // All of the address space would become resident.
        return refuse("mlockall");
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mlockall, flags) as c_int }
}

fn has_served(start: usize, len: usize) -> bool {
    served::here().is_some_and(|served| {
        let end = start.saturating_add(len);
        served.part_of(start..end).is_some()
    })
}

fn refuse(what: &str) -> c_int {
    log!("{what} refused");
    real::set_errno(libc::ENOMEM);
    -1
}
