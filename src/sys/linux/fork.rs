//! Hooks around fork(2).
//!
//! ```text
//!   none ----> installing, by process p ----> installed
//! ```
//!
//! Another thread may fork while the first arena is being made. Its child finds `installing` by a
//! process that it is not, and installs the hooks itself; the C library may have had them by then,
//! so they may be called twice, and the hooks themselves make nothing of the second time.

#![allow(unsafe_code, reason = "pthread_atfork is not in std")]

use std::io;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// What to do around a fork, on the thread that forks.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    pub before: fn(),
    pub after_in_parent: fn(),
    pub after_in_child: fn(),
}

const NONE: u32 = 0;
const INSTALLED: u32 = u32::MAX;

/// `NONE`, `INSTALLED`, or the process that installs the hooks.
static STATE: AtomicU32 = AtomicU32::new(NONE);
static HOOKS: AtomicPtr<Hooks> = AtomicPtr::new(std::ptr::null_mut());
/// The thread that is between the hook before its fork and the one after it, or 0.
static FORKING: AtomicU64 = AtomicU64::new(0);

/// Has the hooks called around every fork from now on. Further calls make sure of that.
pub(crate) fn install(hooks: &'static Hooks) -> io::Result<()> {
    let this = std::process::id();
    HOOKS.store(std::ptr::from_ref(hooks).cast_mut(), Ordering::Release);
    loop {
        match STATE.load(Ordering::Acquire) {
            INSTALLED => return Ok(()),
            installing if installing == this => std::thread::yield_now(),
            seen => {
                let claim =
                    STATE.compare_exchange(seen, this, Ordering::Acquire, Ordering::Relaxed);
                if claim.is_ok() {
                    break;
                }
            }
        }
    }
    // SAFETY: the three functions live as long as the program and take no arguments.
    let result = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    let state = if result == 0 { INSTALLED } else { NONE };
    STATE.store(state, Ordering::Release);
    match result {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

fn call(choose: fn(&Hooks) -> fn()) {
    // SAFETY: null, or the hooks that were given to `install`, which live as long as the program.
    if let Some(hooks) = unsafe { HOOKS.load(Ordering::Acquire).as_ref() } {
        choose(hooks)();
    }
}

extern "C" fn before() {
    let this = super::thread_number();
    if FORKING.load(Ordering::Relaxed) == this {
        return;
    }
    call(|hooks| hooks.before);
    // Only the thread that has done what comes before gets here.
    FORKING.store(this, Ordering::Relaxed);
}

extern "C" fn in_parent() {
    // Not a second time: by then another thread may be forking.
    let this = super::thread_number();
    let first = FORKING.compare_exchange(this, 0, Ordering::Relaxed, Ordering::Relaxed);
    if first.is_ok() {
        call(|hooks| hooks.after_in_parent);
    }
}

extern "C" fn in_child() {
    // The only thread here, with another number than in the parent.
    if FORKING.swap(0, Ordering::Relaxed) != 0 {
        call(|hooks| hooks.after_in_child);
    }
}
