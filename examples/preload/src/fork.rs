//! Around fork(2): what is shared is frozen before it, so that the child has a view of its own.
//!
//! The C library calls the hooks around each fork, also around those that it makes itself. Before a
//! fork of the program's our `fork` has frozen everything already, so that it can say when that was
//! refused.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::log::log;
use crate::real::next;
use crate::{merge, real, served, unserved};

thread_local! {
    /// This thread has frozen everything for the fork that it is about to make.
    static PREPARED: Cell<bool> = const { Cell::new(false) };
}

/// One fork at a time: a thread is making one.
static FORKING: AtomicBool = AtomicBool::new(false);

pub fn install() -> bool {
    // SAFETY: functions that live as long as the program.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) == 0 }
}

fn lock() {
    while FORKING.swap(true, Ordering::Acquire) {
        // A fork takes about a millisecond.
        // SAFETY: a plain system call.
        unsafe { libc::sched_yield() };
    }
}

fn unlock() {
    FORKING.store(false, Ordering::Release);
}

/// Does something while no fork is under way; `None` when this thread is making one.
pub fn while_none<R>(act: impl FnOnce() -> R) -> Option<R> {
    if PREPARED.get() {
        return None;
    }
    lock();
    let result = act();
    unlock();
    Some(result)
}

/// `false` when the system refuses to freeze memory.
fn prepare() -> bool {
    let Some(served) = served::here().filter(|_| !PREPARED.get()) else {
        return true;
    };
    lock();
    let prepared = served.before_fork();
    PREPARED.set(prepared);
    if !prepared {
        unlock();
    }
    prepared
}

extern "C" fn before() {
    if !prepare() {
        real::die("pagecow-preload: the system refuses to freeze memory for a fork\n");
    }
}

extern "C" fn in_parent() {
    if PREPARED.replace(false) {
        if let Some(served) = served::here() {
            served.in_parent();
        }
        unlock();
    }
}

extern "C" fn in_child() {
    if PREPARED.replace(false) {
        if let Some(served) = served::anywhere() {
            served.in_child();
        }
        unlock();
    }
}

/// fork(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fork() -> libc::pid_t {
    let next = next!(fork: unsafe extern "C" fn() -> libc::pid_t);
    // SAFETY: the caller's.
    forked(|| unsafe { next() })
}

/// fork(2) without hooks.
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Fork() -> libc::pid_t {
    let next = next!(_Fork: unsafe extern "C" fn() -> libc::pid_t);
    forked(|| {
        // SAFETY: the caller's.
        let child = unsafe { next() };
        if child == 0 {
            in_child();
        } else {
            in_parent();
        }
        child
    })
}

fn forked(call: impl FnOnce() -> libc::pid_t) -> libc::pid_t {
    if let Some(served) = served::here() {
        unserved::say_if_much(served);
    }
    let begin = Instant::now();
    if !prepare() {
        real::set_errno(libc::ENOMEM);
        return -1;
    }
    let frozen = begin.elapsed();
    let child = call();
    let number = real::errno();
    if child < 0 {
        // The C library has called the hook already, or not.
        in_parent();
    }
    if child != 0 && served::here().is_some() {
        log!(
            "fork: child {child}, {} us, of which freezing {} us",
            begin.elapsed().as_micros(),
            frozen.as_micros()
        );
        merge::wake();
    }
    real::set_errno(number);
    child
}
