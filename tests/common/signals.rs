//! Raw signal actions and masks.

use std::mem::MaybeUninit;
use std::ptr;

use pagecow::Engine;

/// What a `SA_SIGINFO` handler looks like.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// An action with the signals of `masked` held back while it runs.
pub fn action(handler: libc::sighandler_t, flags: i32, masked: &[i32]) -> libc::sigaction {
    // SAFETY: zero bytes are a valid action.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    action.sa_mask = set(masked);
    action
}

/// Installs an action and returns the one before.
pub fn install(signal: i32, action: &libc::sigaction) -> libc::sigaction {
    let mut before = MaybeUninit::zeroed();
    // SAFETY: handlers of these tests do nothing but system calls and stores to atomics and arenas.
    let result = unsafe { libc::sigaction(signal, action, before.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: zero bytes are valid, and the call filled it in.
    unsafe { before.assume_init() }
}

/// What is installed now.
pub fn current(signal: i32) -> libc::sigaction {
    let mut action = MaybeUninit::zeroed();
    // SAFETY: without a new action the call only asks.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: zero bytes are valid, and the call filled it in.
    unsafe { action.assume_init() }
}

/// Has faults handled as in a process without Rust's runtime.
pub fn reset_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        install(signal, &action(libc::SIG_DFL, 0, &[]));
    }
}

/// The signals by which an engine's faults arrive.
pub fn of_engine(engine: Engine) -> &'static [i32] {
    match engine {
        Engine::Userfaultfd => &[libc::SIGSEGV, libc::SIGBUS],
        _ => &[libc::SIGSEGV],
    }
}

pub fn set(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: `set` is writable, and valid afterwards.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: initialised above.
        unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: as above.
    unsafe { set.assume_init() }
}

/// Changes the calling thread's mask.
pub fn mask(how: i32, signals: &[i32]) {
    // SAFETY: a valid set.
    let result = unsafe { libc::pthread_sigmask(how, &set(signals), ptr::null_mut()) };
    assert_eq!(result, 0);
}

/// The signals that the calling thread holds back, one bit each. Async-signal-safe.
pub fn masked() -> u64 {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: without a new mask the call only asks.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr()) };
    // SAFETY: zero bytes are valid, and the call filled it in.
    let set = unsafe { set.assume_init() };
    (1..=64)
        // SAFETY: a valid set.
        .filter(|signal| unsafe { libc::sigismember(&raw const set, *signal) } == 1)
        .fold(0, |bits, signal| bits | 1 << (signal - 1))
}

pub fn errno() -> i32 {
    // SAFETY: the calling thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno }
}

pub fn set_errno(number: i32) {
    // SAFETY: the calling thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno = number };
}

/// Sends a signal to the calling thread, which has it on return unless it holds it back.
pub fn raise(signal: i32) {
    // SAFETY: no memory is involved.
    let result = unsafe { libc::raise(signal) };
    assert_eq!(result, 0);
}

/// Sends a signal to the process: which thread gets it, and when, is open.
pub fn kill(signal: i32) {
    let process = std::process::id() as libc::pid_t;
    // SAFETY: no memory is involved.
    let result = unsafe { libc::kill(process, signal) };
    assert_eq!(result, 0);
}
