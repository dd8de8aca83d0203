//! A thread without the language's runtime.
//!
//! A thread of `std` sets up a signal stack before it runs, and panics when the system refuses a
//! call of that. This one makes calls that may be refused.

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
    run_as_the_first();
    (start.run)()
}

/// Has the calling thread run when, and where, the process's first thread does. It was started by
/// any thread, perhaps one that may wait for long: others would wait for it then. What the system
/// refuses stays as it is.
fn run_as_the_first() {
    let first = std::process::id() as libc::pid_t;
    let mut processors = MaybeUninit::<libc::cpu_set_t>::zeroed();
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: fills in at most `size` bytes.
    let known = unsafe { libc::sched_getaffinity(first, size, processors.as_mut_ptr()) };
    if known == 0 {
        // SAFETY: a set of that size, of zeros but for what was filled in.
        unsafe { libc::sched_setaffinity(0, size, processors.as_ptr()) };
    }
    let mut parameters = MaybeUninit::<libc::sched_param>::zeroed();
    // SAFETY: a plain system call.
    let policy = unsafe { libc::sched_getscheduler(first) };
    // SAFETY: fills in the parameters.
    let known = unsafe { libc::sched_getparam(first, parameters.as_mut_ptr()) };
    if policy >= 0 && known == 0 {
        // SAFETY: parameters that were filled in.
        unsafe { libc::sched_setscheduler(0, policy, parameters.as_ptr()) };
    }
    // SAFETY: plain system calls.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, first as libc::id_t) };
    // SAFETY: as above; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}
