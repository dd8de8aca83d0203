//! The one switch between `std` and `loom`.
//!
//! Everything that takes part in the fault protocol gets its atomics, locks and waiting from here,
//! so that the models run the code that ships.

pub(crate) mod gate;

#[cfg(loom)]
use loom as from;
#[cfg(not(loom))]
use std as from;

pub(crate) use from::sync::{
    Arc, Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
pub(crate) use from::thread::{ThreadId, yield_now};
pub(crate) use from::thread_local;

use crate::sys;

// SAFETY: the value 0.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl sys::ZeroValid for AtomicU64 {}

pub(crate) fn current_thread() -> ThreadId {
    from::thread::current().id()
}

/// Locks, whether or not a holder panicked: nothing under our locks is left half changed by a
/// panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits on `condvar`; as [`lock`], indifferent to poison.
pub(crate) fn wait_on<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar
        .wait(guard)
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As [`wait_on`], for at most this many nanoseconds (in models: for as long as it takes).
pub(crate) fn wait_on_for<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    nanoseconds: u64,
) -> MutexGuard<'a, T> {
    condvar
        .wait_timeout(guard, std::time::Duration::from_nanos(nanoseconds))
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .0
}

/// How often a waiter looks again before it sleeps. The one waited for needs a few microseconds
/// when it runs; with few cores it may not be running, so the spin is short.
#[cfg(not(loom))]
const SPINS: usize = 64;
#[cfg(loom)]
const SPINS: usize = 0;

/// Returns once `done` holds: looks a few times, then sleeps by `sleep` between looks.
///
/// Async-signal-safe when `done` and `sleep` are.
pub(crate) fn wait_until(done: impl Fn() -> bool, sleep: impl Fn()) {
    for () in std::iter::repeat_n((), SPINS) {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
    while !done() {
        sleep();
    }
}

/// Looks again and again until `done` holds, for at most this many nanoseconds. Does not sleep: on
/// a loaded machine a sleep of microseconds takes milliseconds.
pub(crate) fn spin_until(done: impl Fn() -> bool, nanoseconds: u64) {
    let begin = sys::clock::now();
    while !done() && sys::clock::since(begin) < nanoseconds {
        #[cfg(not(loom))]
        std::hint::spin_loop();
        #[cfg(loom)]
        return loom::thread::yield_now();
    }
}

/// Sleeps while `word` still holds `seen`; may wake early. Async-signal-safe.
pub(crate) fn sleep_u32(word: &AtomicU32, seen: u32) {
    sys::futex::wait_u32(word, seen);
}

/// Sleeps while the low half of `word` still holds that of `seen`; may wake early.
/// Async-signal-safe.
pub(crate) fn sleep_u64(word: &AtomicU64, seen: u64) {
    sys::futex::wait_u64(word, seen);
}

/// Wakes all who sleep on `word`. Async-signal-safe.
pub(crate) fn wake_u32(word: &AtomicU32) {
    sys::futex::wake_u32(word);
}

/// Wakes all who sleep on `word`. Async-signal-safe.
pub(crate) fn wake_u64(word: &AtomicU64) {
    sys::futex::wake_u64(word);
}
