//! Monotonic time in nanoseconds. Async-signal-safe.

#![allow(
    unsafe_code,
    reason = "std's clock is not promised to be async-signal-safe"
)]

pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec. CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds since an earlier [`now`].
pub(crate) fn since(earlier: u64) -> u64 {
    now().saturating_sub(earlier)
}

/// Sleeps for about this many nanoseconds. Not in the handler.
pub(crate) fn sleep(nanoseconds: u64) {
    std::thread::sleep(std::time::Duration::from_nanos(nanoseconds));
}
