//! Taking a snapshot fails, before anything is armed, when a write would not reach the handler.

#![allow(unsafe_code, reason = "closes a file descriptor that is not its own")]

use std::time::Duration;

use crate::common::mappings::is_writable;
use crate::common::signals;
use crate::common::{FAULT, expect_bytes, in_child, in_child_on, on, patterned};
use pagecow::{Arena, Engine, Error};

extern "C" fn theirs(_: i32) {}

/// Neither armed nor counted: stores go through without a fault.
#[track_caller]
fn expect_untouched(arena: &mut Arena, before: &[u8]) {
    let stats = arena.stats();
    assert_eq!((stats.protect_calls, stats.snapshots), (0, 0));
    assert!(is_writable(arena.as_ptr(), arena.len()));
    arena.copy_from_slice(before);
    assert_eq!(arena.stats().faults, 0);
}

/// Snapshots are taken and kept.
#[track_caller]
fn expect_all_well(arena: &mut Arena, before: &[u8]) {
    let snapshot = arena.snapshot().unwrap();
    arena.fill(3);
    expect_bytes(&snapshot, before);
    arena.check_invariants().unwrap();
}

#[test]
fn a_handler_installed_later_is_noticed_before_anything_is_armed() {
    let ended = in_child(|engine| {
        for signal in signals::of_engine(engine) {
            let (mut arena, before) = patterned(on(engine), 8);
            let theirs = signals::action(theirs as *const () as usize, 0, &[]);
            let ours = signals::install(*signal, &theirs);
            for _ in 0..3 {
                let result = arena.snapshot();
                assert!(matches!(result, Err(Error::HandlerReplaced)), "{result:?}");
                let result = arena.snapshotter().snapshot();
                assert!(matches!(result, Err(Error::HandlerReplaced)), "{result:?}");
                let result = arena.prepare();
                assert!(matches!(result, Err(Error::HandlerReplaced)), "{result:?}");
            }
            expect_untouched(&mut arena, &before);
            signals::install(*signal, &ours);
            expect_all_well(&mut arena, &before);
        }
    });
    ended.expect_finished();
}

/// Nor does a thread that tends the arena arm anything, and once faults arrive it does.
#[test]
fn nothing_is_armed_between_snapshots_where_a_write_would_not_reach_the_handler() {
    let ended = in_child_on(FAULT, |engine| {
        for signal in signals::of_engine(engine) {
            let builder = on(engine).keeper(false).stand_ready(true);
            let (mut arena, before) = patterned(builder, 8);
            let theirs = signals::action(theirs as *const () as usize, 0, &[]);
            let ours = signals::install(*signal, &theirs);
            for _ in 0..100 {
                arena.tend(Duration::MAX);
            }
            expect_untouched(&mut arena, &before);
            signals::install(*signal, &ours);
            while arena.stats().pages_armed_early < 8 {
                arena.tend(Duration::MAX);
            }
            expect_all_well(&mut arena, &before);
        }
    });
    ended.expect_finished();
}

#[test]
fn a_masked_signal_is_noticed_before_anything_is_armed() {
    let ended = in_child(|engine| {
        for signal in signals::of_engine(engine) {
            let (mut arena, before) = patterned(on(engine), 8);
            signals::mask(libc::SIG_BLOCK, &[*signal]);
            let result = arena.snapshot();
            assert!(matches!(result, Err(Error::SignalMasked)), "{result:?}");
            expect_untouched(&mut arena, &before);
            signals::mask(libc::SIG_UNBLOCK, &[*signal]);
            expect_all_well(&mut arena, &before);
        }
    });
    ended.expect_finished();
}

/// A program that uses SIGBUS itself may keep it as long as no arena needs it.
#[test]
fn other_signals_may_be_anybodys() {
    let ended = in_child(|engine| {
        let (mut arena, before) = patterned(on(engine), 8);
        let theirs = signals::action(theirs as *const () as usize, 0, &[]);
        for signal in [libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
            if !signals::of_engine(engine).contains(&signal) {
                signals::install(signal, &theirs);
                signals::mask(libc::SIG_BLOCK, &[signal]);
            }
        }
        expect_all_well(&mut arena, &before);
    });
    ended.expect_finished();
}

/// The kernel gives the next arena's descriptor the same number.
#[test]
fn a_closed_descriptor_is_noticed_also_when_there_is_another() {
    let ended = in_child_on(&[Engine::Userfaultfd], |engine| {
        let (arena, _) = patterned(on(engine), 8);
        drop(arena.snapshot().unwrap());
        close_userfaultfds();
        let mut others = Vec::new();
        for _ in 0..2 {
            let result = arena.snapshot();
            assert!(matches!(result, Err(Error::Engine { .. })), "{result:?}");
            let (mut other, before) = patterned(on(engine), 8);
            expect_all_well(&mut other, &before);
            others.push(other);
        }
    });
    ended.expect_finished();
}

fn close_userfaultfds() {
    let mut closed = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap().path();
        let is_one = std::fs::read_link(&entry)
            .is_ok_and(|what| what.to_string_lossy().contains("userfaultfd"));
        if is_one {
            let number = entry.file_name().unwrap().to_str().unwrap();
            // SAFETY: nothing of Rust's owns it.
            closed += 1 + unsafe { libc::close(number.parse().unwrap()) };
        }
    }
    assert_eq!(closed, 1);
}
