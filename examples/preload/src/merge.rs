//! The thread that merges what was frozen for children, once they are gone.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pagecow::forkable::Merged;

use crate::inside::Inside;
use crate::log::log;
use crate::served::{self, Served};

/// How long slices are merged in a row, and how long the program is left alone then.
const RUN: Duration = Duration::from_micros(250);
const REST: Duration = Duration::from_micros(250);
/// How often to look whether children are gone.
const LOOK: Duration = Duration::from_millis(10);
/// How long to wait where the system refuses something.
const RETRY: Duration = Duration::from_millis(200);

static STARTED: AtomicBool = AtomicBool::new(false);
/// Forks so far, for the thread to wait on.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Says that there was a fork.
pub fn wake() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    if !STARTED.swap(true, Ordering::SeqCst) {
        if !start() {
            STARTED.store(false, Ordering::SeqCst);
            log!("no thread to merge with: later forks take longer");
        }
        return;
    }
    // SAFETY: a live word.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            FORKS.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        )
    };
}

fn start() -> bool {
    let mut signals = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut thread = std::mem::MaybeUninit::<libc::pthread_t>::uninit();
    // The thread begins with the mask of this one: signals are for the program's own threads.
    // SAFETY: fills in the set.
    unsafe { libc::sigfillset(signals.as_mut_ptr()) };
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: a set that was filled in.
        unsafe { libc::sigdelset(signals.as_mut_ptr(), signal) };
    }
    // SAFETY: sets as above; the thread's function lives as long as the program.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, signals.as_ptr(), before.as_mut_ptr());
        let refused = libc::pthread_create(
            thread.as_mut_ptr(),
            std::ptr::null(),
            run,
            std::ptr::null_mut(),
        );
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        if refused == 0 {
            libc::pthread_detach(thread.assume_init());
        }
        refused == 0
    }
}

extern "C" fn run(_: *mut std::ffi::c_void) -> *mut std::ffi::c_void {
    let _inside = Inside::enter();
    // SAFETY: a name that ends in zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"pagecow-merge".as_ptr()) };
    let Some(served) = served::anywhere() else {
        return std::ptr::null_mut();
    };
    loop {
        let forks = FORKS.load(Ordering::SeqCst);
        merge_all(served);
        // SAFETY: a live word.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                FORKS.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                forks,
                std::ptr::null::<libc::timespec>(),
            );
        }
    }
}

fn merge_all(served: &Served) {
    let copied = served.forkable.pages_copied();
    let slices = served.forkable.slices_begun();
    let mut begin = Instant::now();
    let mut run = begin;
    let mut longest = Duration::ZERO;
    loop {
        let step = Instant::now();
        match served.forkable.merge_some() {
            Ok(Merged::Some) => {
                longest = longest.max(step.elapsed());
                if run.elapsed() >= RUN {
                    std::thread::sleep(REST);
                    run = Instant::now();
                }
            }
            Ok(Merged::All) => break,
            Ok(Merged::LookedAt) => {
                std::thread::sleep(LOOK);
                (begin, run) = (Instant::now(), Instant::now());
            }
            Err(error) => {
                log!("merging refused: {error}");
                std::thread::sleep(RETRY);
            }
        }
    }
    served.clean_up();
    log!(
        "merged: {} us, {} pages, {} slices, longest {} us",
        begin.elapsed().as_micros(),
        served.forkable.pages_copied() - copied,
        served.forkable.slices_begun() - slices,
        longest.as_micros()
    );
}
