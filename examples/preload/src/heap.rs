//! The heap of the C library's own allocator, which grows by calls that nobody can put himself in
//! front of: it is not served, and the log says what to do.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::log::log;

/// A heap that makes a fork noticeably longer, in bytes.
const LARGE: usize = 64 << 20;

static START: AtomicUsize = AtomicUsize::new(0);
static SAID: AtomicBool = AtomicBool::new(false);

fn end() -> usize {
    // SAFETY: asks, and changes nothing.
    unsafe { libc::sbrk(0) as usize }
}

/// Before the program allocates.
pub fn begin() {
    START.store(end(), Ordering::Relaxed);
}

/// Says it, once, if the heap has grown large.
pub fn say_if_large() {
    let grown = end().saturating_sub(START.load(Ordering::Relaxed));
    if grown >= LARGE && !SAID.swap(true, Ordering::Relaxed) {
        log!(
            "{} MiB that the C library's malloc holds are not served: put libjemalloc behind this \
             library in LD_PRELOAD",
            grown >> 20
        );
    }
}
