//! A SIGSEGV or SIGBUS handler that was there before pagecow's gets the signals that are not
//! pagecow's, as if it were alone.

#![allow(unsafe_code, reason = "signal handlers, and the faults for them")]

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::sync::atomic::{
    AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

use crate::common::mappings::{Mapping, is_writable};
use crate::common::signals::{self, Handler};
use crate::common::{expect_bytes, in_child, on, page_size, patterned};
use pagecow::Engine;

/// What a handler saw of one signal.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
/// Counted from the page.
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
static ERRNO: AtomicI32 = AtomicI32::new(0);
static MASK: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU32 = AtomicU32::new(0);

/// The page that the handlers make writable.
static PAGE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
/// The page's file, which has a page while that is writable and none otherwise; -1 without a file.
static FILE: AtomicI32 = AtomicI32::new(-1);

/// A store to the page raises `signal` until a handler makes it writable.
fn trap(signal: i32) -> (Mapping, Option<File>) {
    let file = (signal == libc::SIGBUS).then(|| tempfile::tempfile().unwrap());
    let page = match &file {
        Some(file) => Mapping::of_file(file, 1),
        None => Mapping::new(1, libc::PROT_READ),
    };
    PAGE.store(page.as_mut_ptr(), Relaxed);
    FILE.store(file.as_ref().map_or(-1, AsRawFd::as_raw_fd), Relaxed);
    (page, file)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    signal: i32,
    code: i32,
    address: usize,
    errno: i32,
    mask: u64,
    calls: u32,
}

fn seen() -> Seen {
    Seen {
        signal: SIGNAL.swap(0, Relaxed),
        code: CODE.swap(0, Relaxed),
        address: ADDRESS.swap(0, Relaxed),
        errno: ERRNO.swap(0, Relaxed),
        mask: MASK.swap(0, Relaxed),
        calls: CALLS.swap(0, Relaxed),
    }
}

fn note(signal: i32) {
    ERRNO.store(signals::errno(), Relaxed);
    MASK.store(signals::masked(), Relaxed);
    SIGNAL.store(signal, Relaxed);
    CALLS.fetch_add(1, Relaxed);
}

/// Lets stores to the page succeed, or not.
fn set_writable(writable: bool) {
    let page = PAGE.load(Relaxed);
    let file = FILE.load(Relaxed);
    let result = if file >= 0 {
        let len = if writable { page_size() } else { 0 };
        // SAFETY: an open file, of whose one page nobody has a reference.
        unsafe { libc::ftruncate(file, len as libc::off_t) }
    } else {
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a page to which nobody has a reference.
        unsafe { libc::mprotect(page.cast(), page_size(), protection) }
    };
    assert_eq!(result, 0);
}

extern "C" fn full(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    note(signal);
    // SAFETY: the kernel's siginfo.
    let info = unsafe { &*info };
    CODE.store(info.si_code, Relaxed);
    // SAFETY: a number, whatever kind of signal it is.
    let address = unsafe { info.si_addr() } as usize;
    ADDRESS.store(address.wrapping_sub(PAGE.load(Relaxed) as usize), Relaxed);
    set_writable(true);
}

extern "C" fn short(signal: i32) {
    note(signal);
    set_writable(true);
}

const FULL: Handler = full;
const SHORT: extern "C" fn(i32) = short;

/// Stores to the page, which is not writable until a handler makes it so.
fn fault() {
    set_writable(false);
    let byte = black_box(PAGE.load(Relaxed).wrapping_add(5));
    // SAFETY: a mapped page; the handler makes it writable.
    unsafe { byte.write_volatile(1) };
}

/// Writes each page of a small arena under a snapshot.
fn use_an_arena(engine: Engine) {
    let (mut arena, before) = patterned(on(engine), 8);
    let snapshot = arena.snapshot().unwrap();
    arena.fill(0xee);
    expect_bytes(&snapshot, &before);
    assert_eq!(arena.stats().pages_saved, 8);
    arena.check_invariants().unwrap();
}

/// What the handler sees of a fault and of a sent signal.
fn observe(signal: i32) -> [Seen; 2] {
    let _trap = trap(signal);
    signals::set_errno(77);
    fault();
    let of_fault = seen();
    assert_eq!(signals::errno(), 77);
    signals::raise(signal);
    [of_fault, seen()]
}

const SIGNALS: [i32; 2] = [libc::SIGSEGV, libc::SIGBUS];

fn handler_sees_the_same(handler: libc::sighandler_t, flags: i32, masked: &[i32]) {
    let ended = in_child(|engine| {
        // Signals sent to the process go to this thread: in the others they are masked.
        signals::mask(libc::SIG_BLOCK, &[libc::SIGHUP, libc::SIGRTMIN()]);
        let alone = SIGNALS.map(|signal| {
            signals::install(signal, &signals::action(handler, flags, masked));
            observe(signal)
        });
        for (signal, [of_fault, _]) in SIGNALS.into_iter().zip(alone) {
            let seen = (of_fault.signal, of_fault.calls, of_fault.errno);
            assert_eq!(seen, (signal, 1, 77));
        }

        use_an_arena(engine);
        for _ in 0..3 {
            for (signal, [alone, alone_sent]) in SIGNALS.into_iter().zip(alone) {
                let [with_us, sent_with_us] = observe(signal);
                assert_eq!(with_us, alone);
                assert_eq!(sent_with_us.mask, alone_sent.mask);
                assert_eq!(sent_with_us.code, alone_sent.code);
                assert_eq!(sent_with_us.calls, 1);
                use_an_arena(engine);
            }
        }
        let ours = SIGNALS
            .into_iter()
            .filter(|signal| signals::current(*signal).sa_sigaction != handler);
        let ours: Vec<i32> = ours.collect();
        assert!(ours.contains(&libc::SIGSEGV));
        assert!(ours.contains(&libc::SIGBUS) || engine != Engine::Userfaultfd);
        let forwarded = on(engine).build(1).unwrap().stats().foreign_faults;
        assert_eq!(forwarded, 6 * ours.len() as u64);
    });
    ended.expect_finished();
}

#[test]
fn a_full_handler() {
    let flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let masked = [libc::SIGUSR2, libc::SIGRTMIN() + 3];
    handler_sees_the_same(FULL as usize, flags, &masked);
}

#[test]
fn a_full_handler_that_may_interrupt_itself() {
    let flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    handler_sees_the_same(FULL as usize, flags, &[]);
}

#[test]
fn a_handler_that_gets_the_number_only() {
    handler_sees_the_same(SHORT as usize, 0, &[libc::SIGTERM]);
}

fn handler_is_for_one_fault_only(signal: i32) {
    let ended = in_child(|engine| {
        let _trap = trap(signal);
        let flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        signals::install(signal, &signals::action(FULL as usize, flags, &[]));
        use_an_arena(engine);
        fault();
        assert_eq!(seen().calls, 1);
        use_an_arena(engine);
        eprintln!("once");
        fault();
        eprintln!("twice");
    });
    ended.expect_killed_by(signal);
    ended.expect_said("once");
    ended.expect_not_said("twice");
}

#[test]
fn a_handler_for_one_fault_only() {
    handler_is_for_one_fault_only(libc::SIGSEGV);
}

#[test]
fn a_handler_for_one_bus_error_only() {
    handler_is_for_one_fault_only(libc::SIGBUS);
}

fn ignored_signal_stays_ignored(signal: i32) {
    let ended = in_child(|engine| {
        let _trap = trap(signal);
        signals::install(signal, &signals::action(libc::SIG_IGN, 0, &[]));
        use_an_arena(engine);
        for _ in 0..3 {
            signals::raise(signal);
            signals::kill(signal);
        }
        use_an_arena(engine);
        eprintln!("still alive");
        fault();
    });
    ended.expect_killed_by(signal);
    ended.expect_said("still alive");
}

#[test]
fn an_ignored_signal_stays_ignored_and_a_fault_kills() {
    ignored_signal_stays_ignored(libc::SIGSEGV);
}

#[test]
fn an_ignored_bus_error_stays_ignored_and_a_fault_kills() {
    ignored_signal_stays_ignored(libc::SIGBUS);
}

/// Handlers that leave by a jump, as those of interpreters and collectors do.
#[cfg(target_env = "gnu")]
mod jumps {
    use super::*;
    use std::mem::MaybeUninit;

    /// Where to jump to.
    static MAIN: AtomicPtr<libc::ucontext_t> = AtomicPtr::new(std::ptr::null_mut());

    extern "C" fn jump(signal: i32) {
        note(signal);
        // SAFETY: set before the fault, and saved by `swapcontext` on the stack that is jumped to.
        unsafe { libc::setcontext(MAIN.load(Relaxed)) };
    }

    extern "C" fn work() {
        fault();
        unreachable!("the handler does not return");
    }

    #[test]
    fn a_handler_that_jumps_away() {
        let ended = in_child(|engine| {
            let handler = jump as *const () as usize;
            for signal in SIGNALS {
                signals::install(signal, &signals::action(handler, 0, &[]));
            }
            let mask = signals::masked();
            for round in 0..100 {
                use_an_arena(engine);
                let signal = SIGNALS[round % 2];
                let (page, _file) = trap(signal);
                leave_by_jump();
                let seen = seen();
                assert_eq!((seen.signal, seen.calls), (signal, 1));
                assert_eq!(signals::masked(), mask);
                if signal == libc::SIGSEGV {
                    assert!(!is_writable(page.as_mut_ptr(), page_size()));
                }
            }
            use_an_arena(engine);
        });
        ended.expect_finished();
    }

    fn leave_by_jump() {
        let stack = Mapping::new(64, libc::PROT_READ | libc::PROT_WRITE);
        let mut main = MaybeUninit::<libc::ucontext_t>::zeroed();
        let mut context = MaybeUninit::<libc::ucontext_t>::zeroed();
        // SAFETY: writable.
        unsafe { libc::getcontext(context.as_mut_ptr()) };
        // SAFETY: zero bytes are valid, and the call filled it in.
        let context = unsafe { context.assume_init_mut() };
        context.uc_stack.ss_sp = stack.as_mut_ptr().cast();
        context.uc_stack.ss_size = 64 * page_size();
        // SAFETY: a context with a stack of its own.
        unsafe { libc::makecontext(context, work, 0) };
        MAIN.store(main.as_mut_ptr(), Relaxed);
        // SAFETY: both contexts are alive until the handler comes back here.
        unsafe { libc::swapcontext(main.as_mut_ptr(), context) };
    }
}
