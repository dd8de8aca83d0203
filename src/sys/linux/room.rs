//! Whether the kernel would grant what [`views`](super::views) are about to ask for.

#![allow(unsafe_code, reason = "mappings that nobody uses")]

use super::result::{check, mapped_at, refused};
use crate::sys::ProtectError;

/// Whether the process may have this many more bytes of address space. `mremap(2)` looks at that
/// after it has unmapped what it replaces, and leaves a hole there if it may not.
pub(crate) fn has_room(len: usize) -> Result<(), ProtectError> {
    // SAFETY: `limit` is a live structure.
    if says_unlimited(|limit| unsafe { libc::getrlimit(libc::RLIMIT_AS, limit) }) {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, wherever the kernel likes.
    let room = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    mapped_at(room).map_err(|error| refused(&error))?;
    // SAFETY: the mapping that was just made.
    unsafe { libc::munmap(room, len) };
    Ok(())
}

/// Whether the process may have this many more bytes that are private and writable: shared ones are
/// replaced by them. They may be limited by themselves (`RLIMIT_DATA`), and by what the system has
/// promised if they are `promised`.
pub(super) fn has_room_for_copies(len: usize, promised: bool) -> Result<(), ProtectError> {
    // SAFETY: `limit` is a live structure.
    if !promised && says_unlimited(|limit| unsafe { libc::getrlimit(libc::RLIMIT_DATA, limit) }) {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, wherever the kernel likes.
    let room = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    let mut room_for = mapped_at(room);
    if room_for.is_ok() {
        // Made writable by itself, so that nothing of it is made resident where all is locked.
        // SAFETY: the mapping that was just made, as in the next two calls.
        unsafe { libc::munlock(room, len) };
        // SAFETY: as above.
        let writable = unsafe { libc::mprotect(room, len, libc::PROT_READ | libc::PROT_WRITE) };
        room_for = check(writable);
        // SAFETY: as above.
        unsafe { libc::munmap(room, len) };
    }
    match room_for {
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Err(refused(&error)),
        _ => Ok(()),
    }
}

/// Whether the kernel promises memory for all that is mapped private and writable from now on
/// (`vm.overcommit_memory=2`), `MAP_NORESERVE` or not. In doubt it does. A mapping keeps what it
/// was made with, wherever it is moved to.
pub(super) fn is_promised() -> bool {
    let mode = std::fs::read("/proc/sys/vm/overcommit_memory");
    !mode.is_ok_and(|mode| matches!(mode.first(), Some(b'0' | b'1')))
}

/// Whether address space is limited by nothing but what there is.
pub(super) fn is_unlimited() -> bool {
    // SAFETY: `limit` is a live structure, as below.
    says_unlimited(|limit| unsafe { libc::getrlimit(libc::RLIMIT_AS, limit) })
        // SAFETY: as above.
        && says_unlimited(|limit| unsafe { libc::getrlimit(libc::RLIMIT_DATA, limit) })
}

/// Whether this call says that there is no limit.
fn says_unlimited(ask: impl FnOnce(*mut libc::rlimit) -> libc::c_int) -> bool {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    ask(&raw mut limit) == 0 && limit.rlim_cur == libc::RLIM_INFINITY
}
