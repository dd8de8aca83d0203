//! A SIGSEGV handler that was there before pagecow's gets what is not pagecow's, as if it were alone.

#![allow(unsafe_code, reason = "signal handlers, and the faults for them")]

mod common;

use std::hint::black_box;
use std::sync::atomic::{
    AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

use common::mappings::{Mapping, is_writable};
use common::signals::{self, Handler};
use common::{expect_bytes, in_child, page_size, patterned};

/// What a handler saw of one signal.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
static ERRNO: AtomicI32 = AtomicI32::new(0);
static MASK: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU32 = AtomicU32::new(0);

/// The page that the handlers make writable.
static PAGE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

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

fn protect_page(protection: i32) {
    // SAFETY: a page to which nobody has a reference.
    unsafe { libc::mprotect(PAGE.load(Relaxed).cast(), page_size(), protection) };
}

extern "C" fn full(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    note(signal);
    // SAFETY: the kernel's siginfo.
    let info = unsafe { &*info };
    CODE.store(info.si_code, Relaxed);
    // SAFETY: a number, whatever kind of signal it is.
    ADDRESS.store(unsafe { info.si_addr() } as usize, Relaxed);
    protect_page(libc::PROT_READ | libc::PROT_WRITE);
}

extern "C" fn short(signal: i32) {
    note(signal);
    protect_page(libc::PROT_READ | libc::PROT_WRITE);
}

const FULL: Handler = full;
const SHORT: extern "C" fn(i32) = short;

/// Stores to the page, which is not writable until a handler makes it so.
fn fault() {
    protect_page(libc::PROT_READ);
    let byte = black_box(PAGE.load(Relaxed).wrapping_add(5));
    // SAFETY: a mapped page; the handler makes it writable.
    unsafe { byte.write_volatile(1) };
}

/// Writes each page of a small arena under a snapshot.
fn use_an_arena() {
    let (mut arena, before) = patterned(8);
    let snapshot = arena.snapshot().unwrap();
    arena.fill(0xee);
    expect_bytes(&snapshot, &before);
    assert_eq!(arena.stats().pages_saved, 8);
    arena.check_invariants().unwrap();
}

/// What the handler sees of a fault and of a sent signal, with the arena's faults in between.
fn observe() -> [Seen; 2] {
    signals::set_errno(77);
    fault();
    let of_fault = seen();
    assert_eq!(signals::errno(), 77);
    signals::raise(libc::SIGSEGV);
    [of_fault, seen()]
}

fn handler_sees_the_same(test: &str, handler: libc::sighandler_t, flags: i32, masked: &[i32]) {
    let ended = in_child(test, || {
        let page = Mapping::new(1, libc::PROT_READ);
        PAGE.store(page.as_mut_ptr(), Relaxed);
        // Signals sent to the process go to this thread: in the others they are masked.
        signals::mask(libc::SIG_BLOCK, &[libc::SIGHUP, libc::SIGRTMIN()]);
        signals::install(libc::SIGSEGV, &signals::action(handler, flags, masked));
        let [alone, alone_sent] = observe();
        assert_eq!(
            (alone.signal, alone.calls, alone.errno),
            (libc::SIGSEGV, 1, 77)
        );

        use_an_arena();
        for _ in 0..3 {
            let [with_us, sent_with_us] = observe();
            assert_eq!(with_us, alone);
            assert_eq!(sent_with_us.mask, alone_sent.mask);
            assert_eq!(sent_with_us.code, alone_sent.code);
            assert_eq!(sent_with_us.calls, 1);
            use_an_arena();
        }
        assert_eq!(pagecow::Arena::new(1).unwrap().stats().foreign_faults, 6);
    });
    ended.expect_finished();
}

#[test]
fn a_full_handler() {
    let flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let masked = [libc::SIGUSR2, libc::SIGRTMIN() + 3];
    handler_sees_the_same("a_full_handler", FULL as usize, flags, &masked);
}

#[test]
fn a_full_handler_that_may_interrupt_itself() {
    let flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    let test = "a_full_handler_that_may_interrupt_itself";
    handler_sees_the_same(test, FULL as usize, flags, &[]);
}

#[test]
fn a_handler_that_gets_the_number_only() {
    let test = "a_handler_that_gets_the_number_only";
    handler_sees_the_same(test, SHORT as usize, 0, &[libc::SIGTERM]);
}

#[test]
fn a_handler_for_one_fault_only() {
    let ended = in_child("a_handler_for_one_fault_only", || {
        let page = Mapping::new(1, libc::PROT_READ);
        PAGE.store(page.as_mut_ptr(), Relaxed);
        let flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        signals::install(libc::SIGSEGV, &signals::action(FULL as usize, flags, &[]));
        use_an_arena();
        fault();
        assert_eq!(seen().calls, 1);
        use_an_arena();
        eprintln!("once");
        fault();
        eprintln!("twice");
    });
    ended.expect_killed_by(libc::SIGSEGV);
    ended.expect_said("once");
    ended.expect_not_said("twice");
}

#[test]
fn an_ignored_signal_stays_ignored_and_a_fault_kills() {
    let ended = in_child("an_ignored_signal_stays_ignored_and_a_fault_kills", || {
        let page = Mapping::new(1, libc::PROT_READ);
        PAGE.store(page.as_mut_ptr(), Relaxed);
        signals::install(libc::SIGSEGV, &signals::action(libc::SIG_IGN, 0, &[]));
        use_an_arena();
        for _ in 0..3 {
            signals::raise(libc::SIGSEGV);
            signals::kill(libc::SIGSEGV);
        }
        use_an_arena();
        eprintln!("still alive");
        fault();
    });
    ended.expect_killed_by(libc::SIGSEGV);
    ended.expect_said("still alive");
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
        let ended = in_child("jumps::a_handler_that_jumps_away", || {
            let page = Mapping::new(1, libc::PROT_READ);
            PAGE.store(page.as_mut_ptr(), Relaxed);
            let handler = jump as *const () as usize;
            signals::install(libc::SIGSEGV, &signals::action(handler, 0, &[]));
            let mask = signals::masked();
            for _ in 0..100 {
                use_an_arena();
                leave_by_jump();
                assert_eq!(seen().calls, 1);
                assert_eq!(signals::masked(), mask);
                assert!(!is_writable(page.as_mut_ptr(), page_size()));
            }
            use_an_arena();
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
