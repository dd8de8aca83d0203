//! What may be done with memory: protection, locks and advice.
//!
//! Served memory is one mapping, which a call must not split: what would is done in another way, or
//! the pages *leave* first. They are ordinary memory from then on, and the kernel's fork copies
//! them.

use std::ffi::{c_int, c_void};
use std::ops::Range;

use super::memory::{ACCESS, touched};
use crate::inside::is_inside;
use crate::log::log;
use crate::{real, served};

/// madvise(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int {
    if let Some(served) = served::anywhere().filter(|_| !is_inside())
        && let Some(addresses) = touched(served, address, len)
    {
        return match advice {
            // In a child it would bring back what was before the fork.
            libc::MADV_DONTNEED | libc::MADV_DONTNEED_LOCKED => {
                served.pieces(addresses, |piece, is_served| {
                    if !is_served {
                        return kernel_madvise(piece, advice);
                    }
                    if !served::is_child() && served.give_back(piece) {
                        return 0;
                    }
                    real::set_errno(libc::EINVAL);
                    -1
                })
            }
            // These would give up what the kernel holds of a file, and not of this process.
            libc::MADV_FREE | libc::MADV_REMOVE => served.pieces(addresses, |piece, is_served| {
                if !is_served {
                    return kernel_madvise(piece, advice);
                }
                real::set_errno(libc::EINVAL);
                -1
            }),
            // These would split the mapping, for a hint.
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
            | libc::MADV_SEQUENTIAL => served.pieces(addresses, |piece, is_served| {
                if is_served {
                    0
                } else {
                    kernel_madvise(piece, advice)
                }
            }),
            // These split it for good.
            libc::MADV_WIPEONFORK | libc::MADV_DONTFORK => {
                after_leaving(address, len, || kernel_madvise(addresses, advice))
            }
            _ => kernel_madvise(addresses, advice),
        };
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_madvise, address, len, advice) as c_int }
}

/// For what the program has asked.
fn kernel_madvise(addresses: Range<usize>, advice: c_int) -> c_int {
    let (start, len) = (addresses.start, addresses.len());
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_madvise, start, len, advice) as c_int }
}

/// mprotect(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mprotect(address: *mut c_void, len: usize, prot: c_int) -> c_int {
    // SAFETY: the caller's.
    let call = || unsafe { libc::syscall(libc::SYS_mprotect, address, len, prot) as c_int };
    if prot == ACCESS
        && let Some(served) = served::here()
        && let Some(addresses) = touched(served, address, len)
        && served.is_all_served(addresses)
    {
        return 0;
    }
    after_leaving(address, len, call)
}

/// pkey_mprotect(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pkey_mprotect(
    address: *mut c_void,
    len: usize,
    prot: c_int,
    key: c_int,
) -> c_int {
    // SAFETY: the caller's.
    let call =
        || unsafe { libc::syscall(libc::SYS_pkey_mprotect, address, len, prot, key) as c_int };
    after_leaving(address, len, call)
}

/// mlock(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlock(address: *const c_void, len: usize) -> c_int {
    // SAFETY: the caller's.
    let call = || unsafe { libc::syscall(libc::SYS_mlock, address, len) as c_int };
    locked(address, len, call)
}

/// mlock2(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlock2(address: *const c_void, len: usize, flags: c_int) -> c_int {
    // SAFETY: the caller's.
    let call = || unsafe { libc::syscall(libc::SYS_mlock2, address, len, flags) as c_int };
    locked(address, len, call)
}

fn locked(address: *const c_void, len: usize, call: impl FnOnce() -> c_int) -> c_int {
    let Some(served) = served::here() else {
        return call();
    };
    // Unlike others, these take parts of pages.
    let start = address as usize / served.page * served.page;
    let len = len.saturating_add(address as usize - start);
    after_leaving(start as *const c_void, len, call)
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
        log!("mlockall refused");
        real::set_errno(libc::ENOMEM);
        return -1;
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mlockall, flags) as c_int }
}

/// A call that would split the mapping of served memory, if it is about some.
fn after_leaving(address: *const c_void, len: usize, call: impl FnOnce() -> c_int) -> c_int {
    if let Some(served) = served::here()
        && let Some(addresses) = touched(served, address, len)
        && !served.leave(addresses)
    {
        return -1;
    }
    call()
}
