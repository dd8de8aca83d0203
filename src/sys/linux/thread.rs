//! A thread without the language's runtime.
//!
//! A thread of `std` sets up a signal stack before it runs, and panics when the system refuses a
//! call of that. This one makes no system call of its own.

#![allow(unsafe_code, reason = "pthreads")]

use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;

/// More than the thread needs: stacks are resident only where they are touched.
const STACK: usize = 256 << 10;

/// What a thread is started with.
struct Start {
    run: fn() -> !,
    name: &'static CStr,
}

/// Starts a thread of this name (at most 15 bytes) with the signal mask of the calling one. `false`
/// when the system refuses.
pub(crate) fn start(name: &'static CStr, run: fn() -> !) -> bool {
    let start = Box::into_raw(Box::new(Start { run, name }));
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: initialises the attributes, which nobody else has.
    if unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) } != 0 {
        // SAFETY: made above, and nobody else has it.
        drop(unsafe { Box::from_raw(start) });
        return false;
    }
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the attributes were initialised. Where one of them is refused the default is as good.
    unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK) };
    let detached = libc::PTHREAD_CREATE_DETACHED;
    // SAFETY: as above.
    unsafe { libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), detached) };
    // SAFETY: the attributes were initialised; `begin` takes what `start` points to.
    let refused = unsafe {
        libc::pthread_create(
            thread.as_mut_ptr(),
            attributes.as_ptr(),
            begin,
            start.cast(),
        )
    };
    // SAFETY: the attributes were initialised.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if refused != 0 {
        // SAFETY: made above, and there is no thread that has it.
        drop(unsafe { Box::from_raw(start) });
    }
    refused == 0
}

extern "C" fn begin(start: *mut c_void) -> *mut c_void {
    // SAFETY: `start` made it for this thread alone.
    let start = *unsafe { Box::from_raw(start.cast::<Start>()) };
    // SAFETY: a string that ends with a zero byte. When it is refused the thread has another name.
    unsafe { libc::prctl(libc::PR_SET_NAME, start.name.as_ptr()) };
    (start.run)()
}
