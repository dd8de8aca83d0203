//! SIGSEGV: stores to what is being merged are refused by it, and wait. The program's own handler
//! is called for all else. The signal is never masked.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::inside::{Inside, is_inside};
use crate::real::next;
use crate::{real, served};

type Sigaction = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;
type Sigmask = unsafe extern "C" fn(c_int, *const libc::sigset_t, *mut libc::sigset_t) -> c_int;

/// What the program wants done at SIGSEGV: the latest of some slots, so that a handler that reads
/// one is not disturbed by the next.
struct Wanted {
    slots: [UnsafeCell<libc::sigaction>; SLOTS],
    /// Up to where threads have counted, each for a slot of its own.
    counted: AtomicUsize,
    latest: AtomicUsize,
}

const SLOTS: usize = 8;

// SAFETY: a slot is written by the thread that has counted to it, and read once it is the latest;
// it is written again only after all others were.
unsafe impl Sync for Wanted {}

static WANTED: Wanted = Wanted {
    // SAFETY: zeros are the default action.
    slots: [const { UnsafeCell::new(unsafe { std::mem::zeroed() }) }; SLOTS],
    counted: AtomicUsize::new(0),
    latest: AtomicUsize::new(0),
};

impl Wanted {
    fn get(&self) -> libc::sigaction {
        let slot = &self.slots[self.latest.load(Ordering::Acquire) % SLOTS];
        // SAFETY: nobody writes to it now (see above).
        unsafe { *slot.get() }
    }

    fn set(&self, action: libc::sigaction) {
        let next = self.counted.fetch_add(1, Ordering::Relaxed) + 1;
        // SAFETY: nobody else has it now (see above).
        unsafe { *self.slots[next % SLOTS].get() = action };
        self.latest.fetch_max(next, Ordering::Release);
    }
}

/// Installs the handler.
pub fn begin() -> Result<(), &'static str> {
    // SAFETY: zeros are a valid structure, which is filled in below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: zeros, as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    let sigaction = next!(sigaction: Sigaction);
    // SAFETY: a handler that is async-signal-safe.
    if unsafe { sigaction(libc::SIGSEGV, &raw const action, &raw mut before) } != 0 {
        return Err("no handler for SIGSEGV");
    }
    WANTED.set(before);
    Ok(())
}

/// Faults of one thread at one address, one after the other while no slice was begun, of which the
/// last is the program's own. The first may have been refused by a slice that is merged by now, and
/// the second by the one that was begun last; a third cannot.
const TIMES: u32 = 3;

thread_local! {
    /// The address of the last fault, the slices begun by then, and how often it came so.
    static LAST: Cell<(usize, u64, u32)> = const { Cell::new((0, 0, 0)) };
}

/// Whether the store can be made now.
fn is_ours(info: &libc::siginfo_t) -> bool {
    const SEGV_ACCERR: c_int = 2;
    let Some(served) = served::anywhere().filter(|_| !served::is_child()) else {
        return false;
    };
    // SAFETY: a SIGSEGV has it.
    let address = unsafe { info.si_addr() } as usize;
    if info.si_code != SEGV_ACCERR || !served.has(address) {
        return false;
    }
    // Before the look at what is being merged.
    let slices = served.forkable.slices_begun();
    if served.forkable.wait_if_refused(address) {
        return true;
    }
    let (last, begun, times) = LAST.get();
    let times = if (last, begun) == (address, slices) {
        times + 1
    } else {
        1
    };
    LAST.set((address, slices, times));
    times < TIMES
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let number = real::errno();
    // SAFETY: the kernel's, for this call.
    if is_ours(unsafe { &*info }) {
        real::set_errno(number);
        return;
    }
    real::set_errno(number);
    let mut wanted = WANTED.get();
    let handler = wanted.sa_sigaction;
    // SAFETY: the kernel's, for this call.
    let is_sent = unsafe { (*info).si_code } <= 0;
    if is_sent && handler == libc::SIG_IGN {
        return;
    }
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // The instruction is tried again, and ends the process.
        // SAFETY: zeros are a valid structure: the default action.
        let action: libc::sigaction = unsafe { std::mem::zeroed() };
        let sigaction = next!(sigaction: Sigaction);
        // SAFETY: a live structure.
        unsafe { sigaction(signal, &raw const action, std::ptr::null_mut()) };
        // One that was sent does not come again by itself.
        if is_sent {
            // SAFETY: a plain call.
            unsafe { libc::raise(signal) };
        }
        return;
    }
    if wanted.sa_flags & libc::SA_RESETHAND != 0 {
        // SAFETY: zeros are the default action.
        let mut reset: libc::sigaction = unsafe { std::mem::zeroed() };
        reset.sa_flags = wanted.sa_flags;
        WANTED.set(reset);
    }
    if wanted.sa_flags & libc::SA_NODEFER != 0 {
        let mut signals = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let sigmask = next!(pthread_sigmask: Sigmask);
        // SAFETY: a set that is filled in first.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            libc::sigaddset(signals.as_mut_ptr(), signal);
            sigmask(libc::SIG_UNBLOCK, signals.as_ptr(), std::ptr::null_mut());
        }
    }
    let sigmask = next!(pthread_sigmask: Sigmask);
    // SAFETY: the program's own mask for its handler, without the signal that is never masked.
    unsafe {
        libc::sigdelset(&raw mut wanted.sa_mask, libc::SIGSEGV);
        sigmask(
            libc::SIG_BLOCK,
            &raw const wanted.sa_mask,
            std::ptr::null_mut(),
        );
    }
    if wanted.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the program's handler, of this kind.
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: as above.
        let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
        handler(signal);
    }
}

/// Whether the handler is in place, or will be.
fn is_served() -> bool {
    served::anywhere().is_some() && !is_inside()
}

/// sigaction(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    signal: c_int,
    action: *const libc::sigaction,
    before: *mut libc::sigaction,
) -> c_int {
    let next = next!(sigaction: Sigaction);
    if !is_served() {
        // SAFETY: the caller's.
        return unsafe { next(signal, action, before) };
    }
    if signal == libc::SIGSEGV {
        let _inside = Inside::enter();
        let old = WANTED.get();
        if !action.is_null() {
            // SAFETY: the caller's.
            WANTED.set(unsafe { *action });
        }
        if !before.is_null() {
            // SAFETY: the caller's.
            unsafe { *before = old };
        }
        return 0;
    }
    if action.is_null() {
        // SAFETY: the caller's.
        return unsafe { next(signal, action, before) };
    }
    // SAFETY: the caller's.
    let mut action = unsafe { *action };
    // A handler that stores to what is being merged waits, as all else does.
    // SAFETY: a live set.
    unsafe { libc::sigdelset(&raw mut action.sa_mask, libc::SIGSEGV) };
    // SAFETY: the caller's.
    unsafe { next(signal, &raw const action, before) }
}

/// signal(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(signal: c_int, handler: libc::sighandler_t) -> libc::sighandler_t {
    if signal == libc::SIGSEGV && is_served() {
        // SAFETY: zeros are a valid structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler;
        action.sa_flags = libc::SA_RESTART;
        let old = WANTED.get();
        WANTED.set(action);
        return old.sa_sigaction;
    }
    let next = next!(signal: unsafe extern "C" fn(c_int, libc::sighandler_t) -> libc::sighandler_t);
    // SAFETY: the caller's.
    unsafe { next(signal, handler) }
}

/// # Safety
///
/// As sigprocmask(2).
unsafe fn mask(
    next: Sigmask,
    how: c_int,
    signals: *const libc::sigset_t,
    before: *mut libc::sigset_t,
) -> c_int {
    if signals.is_null() || how == libc::SIG_UNBLOCK || served::anywhere().is_none() || is_inside()
    {
        // SAFETY: the caller's.
        return unsafe { next(how, signals, before) };
    }
    // SAFETY: the caller's.
    let mut signals = unsafe { *signals };
    // SAFETY: a live set.
    unsafe { libc::sigdelset(&raw mut signals, libc::SIGSEGV) };
    // SAFETY: the caller's.
    unsafe { next(how, &raw const signals, before) }
}

/// sigprocmask(2).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigprocmask(
    how: c_int,
    signals: *const libc::sigset_t,
    before: *mut libc::sigset_t,
) -> c_int {
    let next = next!(sigprocmask: Sigmask);
    // SAFETY: the caller's.
    unsafe { mask(next, how, signals, before) }
}

/// pthread_sigmask(3).
///
/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    signals: *const libc::sigset_t,
    before: *mut libc::sigset_t,
) -> c_int {
    let next = next!(pthread_sigmask: Sigmask);
    // SAFETY: the caller's.
    unsafe { mask(next, how, signals, before) }
}
