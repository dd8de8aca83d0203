//! How a process with an armed arena dies of faults that are not pagecow's: as it would without it.

#![allow(unsafe_code, reason = "makes the faults")]

use std::hint::black_box;
use std::ptr;

use crate::common::mappings::Mapping;
use crate::common::signals;
use crate::common::{in_child, on, page_size, patterned};
use pagecow::{Arena, Engine, Snapshot};

fn armed(engine: Engine) -> (Arena, Snapshot) {
    let (arena, _) = patterned(on(engine), 4);
    let snapshot = arena.snapshot().unwrap();
    (arena, snapshot)
}

fn store(address: *mut u8) {
    // SAFETY: none: the process dies of it.
    unsafe { libc::memset(black_box(address).cast(), 1, 1) };
}

fn load(address: *const u8) {
    // SAFETY: none: the process dies of it.
    black_box(unsafe { address.read_volatile() });
}

/// The process, without handlers before ours, dies by SIGSEGV of what `fault` does.
#[track_caller]
fn expect_death(fault: impl FnOnce(&mut Arena)) {
    expect_death_by(libc::SIGSEGV, fault);
}

#[track_caller]
fn expect_death_by(signal: i32, fault: impl FnOnce(&mut Arena)) {
    let ended = in_child(|engine| {
        signals::reset_faults();
        let (mut arena, _snapshot) = armed(engine);
        fault(&mut arena);
    });
    ended.expect_killed_by(signal);
}

#[test]
fn a_null_store() {
    expect_death(|_| store(ptr::null_mut()));
}

#[test]
fn a_null_store_with_the_runtimes_handler_before_ours() {
    let ended = in_child(|engine| {
        let _armed = armed(engine);
        store(ptr::null_mut());
    });
    ended.expect_killed_by(libc::SIGSEGV);
}

#[test]
fn a_load_from_forbidden_memory() {
    expect_death(|_| {
        load(Mapping::new(1, libc::PROT_NONE).as_mut_ptr());
    });
}

#[test]
fn a_store_to_read_only_memory() {
    expect_death(|_| {
        store(Mapping::new(1, libc::PROT_READ).as_mut_ptr());
    });
}

#[test]
fn a_store_beyond_the_end_of_a_mapped_file() {
    expect_death_by(libc::SIGBUS, |_| {
        let file = tempfile::tempfile().unwrap();
        store(Mapping::of_file(&file, 1).as_mut_ptr());
    });
}

#[test]
fn a_store_just_below_an_arena() {
    expect_death(|arena| {
        store(arena.as_mut_ptr().wrapping_sub(1));
    });
}

#[test]
fn a_store_just_above_an_arena() {
    expect_death(|arena| {
        store(arena.as_mut_ptr().wrapping_add(arena.len()));
    });
}

#[test]
fn a_jump_into_an_armed_arena() {
    expect_death(|arena| {
        // SAFETY: none: the process dies of calling it.
        let jump = unsafe { std::mem::transmute::<*const u8, extern "C" fn()>(arena.as_ptr()) };
        jump();
    });
}

#[test]
fn a_jump_into_an_open_page() {
    expect_death(|arena| {
        arena[0] = 1;
        // SAFETY: none: the process dies of calling it.
        let jump = unsafe { std::mem::transmute::<*const u8, extern "C" fn()>(arena.as_ptr()) };
        jump();
    });
}

#[test]
fn a_signal_sent_to_the_thread() {
    expect_death(|_| signals::raise(libc::SIGSEGV));
}

#[test]
fn a_bus_error_sent_to_the_thread() {
    expect_death_by(libc::SIGBUS, |_| signals::raise(libc::SIGBUS));
}

#[test]
fn a_signal_sent_to_the_process() {
    expect_death(|_| {
        signals::kill(libc::SIGSEGV);
        loop {
            std::thread::park();
        }
    });
}

#[test]
fn a_store_to_an_arena_that_is_gone() {
    let ended = in_child(|engine| {
        signals::reset_faults();
        let _other = armed(engine);
        let (arena, snapshot) = armed(engine);
        let address = arena.as_mut_ptr();
        drop(snapshot);
        drop(arena);
        store(address);
    });
    ended.expect_killed_by(libc::SIGSEGV);
}

/// The page is open as far as the arena knows, so the store would be retried for ever.
#[test]
fn a_store_to_a_page_that_somebody_else_protected() {
    expect_death(|arena| {
        arena[0] = 1;
        let start = arena.as_mut_ptr();
        // SAFETY: a page to which nobody has a reference.
        unsafe { libc::mprotect(start.cast(), page_size(), libc::PROT_READ) };
        store(start);
    });
}

#[test]
fn a_load_from_a_page_that_somebody_else_protected() {
    expect_death(|arena| {
        let start = arena.as_mut_ptr();
        // SAFETY: a page to which nobody has a reference.
        unsafe { libc::mprotect(start.cast(), page_size(), libc::PROT_NONE) };
        load(start);
    });
}

/// Until the stack is used up.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let here = black_box([depth; 64]);
    if here[0] == u64::MAX {
        return 0;
    }
    black_box(recurse(black_box(depth + 1))) + here[0]
}

#[test]
fn a_stack_overflow_in_a_thread_is_reported() {
    let ended = in_child(|engine| {
        let _armed = armed(engine);
        let thread = std::thread::Builder::new().name("deep".to_owned());
        let _ = thread.spawn(|| recurse(0)).unwrap().join();
    });
    ended.expect_killed_by(libc::SIGABRT);
    ended.expect_said("thread 'deep'");
    ended.expect_said("has overflowed its stack");
}

extern "C" fn recurse_on_signal(_: i32) {
    recurse(0);
}

/// Tests run in threads; the main one gets there by a signal, whose handler runs on its stack.
#[test]
fn a_stack_overflow_in_the_main_thread_is_reported() {
    let ended = in_child(|engine| {
        let _armed = armed(engine);
        let handler = recurse_on_signal as *const () as usize;
        signals::install(libc::SIGUSR1, &signals::action(handler, 0, &[]));
        let main = std::process::id() as libc::pid_t;
        // SAFETY: no memory is involved; the main thread has the process's number.
        unsafe { libc::syscall(libc::SYS_tgkill, main, main, libc::SIGUSR1) };
        loop {
            std::thread::park();
        }
    });
    ended.expect_killed_by(libc::SIGABRT);
    ended.expect_said("thread 'main'");
    ended.expect_said("has overflowed its stack");
}
