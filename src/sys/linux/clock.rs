//! Monotonic time in nanoseconds. Async-signal-safe.

#![allow(
    unsafe_code,
    reason = "std's clock is not promised to be async-signal-safe"
)]

pub(crate) fn now() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Time for which the calling thread ran so far. A system call.
pub(crate) fn of_thread() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec. Both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds since an earlier [`now`].
pub(crate) fn since(earlier: u64) -> u64 {
    now().saturating_sub(earlier)
}
