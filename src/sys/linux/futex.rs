//! Sleeping on a word and waking who sleeps, by futex(2). Async-signal-safe; keeps nothing.
//!
//! A futex is 32 bits. For a 64-bit word that is the low half, where our words keep the bits that
//! change; only the kernel reads it at that width.

#![allow(unsafe_code, reason = "std offers no waiting by address")]

use std::sync::atomic::{AtomicU32, AtomicU64};

pub(crate) fn wait_u32(word: &AtomicU32, seen: u32) {
    wait(word.as_ptr(), seen);
}

pub(crate) fn wait_u64(word: &AtomicU64, seen: u64) {
    wait(low_half(word), seen as u32);
}

pub(crate) fn wake_u32(word: &AtomicU32) {
    wake(word.as_ptr());
}

pub(crate) fn wake_u64(word: &AtomicU64) {
    wake(low_half(word));
}

fn low_half(word: &AtomicU64) -> *mut u32 {
    let halves = word.as_ptr().cast::<u32>();
    if cfg!(target_endian = "big") {
        halves.wrapping_add(1)
    } else {
        halves
    }
}

fn wait(word: *mut u32, seen: u32) {
    let forever = std::ptr::null::<libc::timespec>();
    // SAFETY: `word` points into a live, aligned atomic. Every outcome (woken, changed,
    // interrupted) is one for which callers look again.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            seen,
            forever,
        )
    };
}

fn wake(word: *mut u32) {
    // SAFETY: the kernel only uses the address to find sleepers.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            i32::MAX,
        )
    };
}
