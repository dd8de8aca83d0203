//! What code that faults must not notice of the fault handler.

#![allow(
    unsafe_code,
    reason = "signal handlers, alternate stacks, several threads"
)]

mod nested;
mod small_stack;

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::thread;

use crate::common::signals;
use crate::common::{
    Trail, bytes_of, expect_bytes, in_child, on, page_by_page, page_size, pattern, patterned,
};
use pagecow::{Engine, Snapshotter};

/// Takes snapshots until told to stop, and keeps a few.
fn keep_taking(snapshotter: &Snapshotter, stop: &AtomicBool, mut look: impl FnMut(&[u8])) -> u64 {
    let mut kept = Vec::new();
    let mut taken = 0;
    while !stop.load(Relaxed) {
        let snapshot = snapshotter.snapshot().unwrap();
        let bytes = bytes_of(&snapshot);
        look(&bytes);
        kept.push((snapshot, bytes));
        taken += 1;
        if kept.len() > 3 {
            let (snapshot, bytes) = kept.swap_remove(taken as usize % 4);
            expect_bytes(&snapshot, &bytes);
        }
    }
    taken
}

/// Threads that fault on the same pages, and so wait for each other, and for snapshots.
#[test]
fn errno_is_kept() {
    let ended = in_child(|engine| {
        const ROUNDS: usize = 200;
        let (mut arena, _) = patterned(on(engine), 16);
        let snapshotter = arena.snapshotter();
        let words = arena.atomic_u64();
        let words_per_page = page_size() / 8;
        let stop = AtomicBool::new(false);
        let started = AtomicUsize::new(0);
        thread::scope(|scope| {
            let taker = scope.spawn(|| keep_taking(&snapshotter, &stop, |_| ()));
            let writers = [1, 2, 3].map(|number| {
                let (started, snapshotter) = (&started, &snapshotter);
                scope.spawn(move || {
                    started.fetch_add(1, SeqCst);
                    let mut round = 0;
                    while round < ROUNDS || snapshotter.stats().unwrap().faults < 2000 {
                        round += 1;
                        for page in words.chunks_exact(words_per_page) {
                            signals::set_errno(number * 1000);
                            page[number as usize].store(round as u64, Relaxed);
                            assert_eq!(signals::errno(), number * 1000);
                        }
                    }
                })
            });
            for writer in writers {
                writer.join().unwrap();
            }
            stop.store(true, Relaxed);
            assert!(taker.join().unwrap() > 0);
        });
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// More arenas than the handler's first table holds, that come and go while others are written.
#[test]
fn arenas_come_and_go_while_others_fault() {
    let ended = in_child(|engine| {
        const ROUNDS: u8 = 20;
        const AT_ONCE: usize = 32;
        let (mut steady, _) = patterned(on(engine), 32);
        let snapshotter = steady.snapshotter();
        let words = steady.atomic_u64();
        for page in words.chunks_exact(page_size() / 8) {
            page[0].store(0, Relaxed);
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let makers = [1, 2, 3]
                .map(|byte| scope.spawn(move || make_and_drop(engine, byte, ROUNDS, AT_ONCE)));
            let taker = scope.spawn(|| {
                keep_taking(&snapshotter, &stop, |bytes| {
                    Trail::steps_in(bytes, 0);
                })
            });
            let writer = scope.spawn(|| {
                let mut trail = Trail::new(words, 0);
                while !stop.load(Relaxed) {
                    trail.step();
                }
            });
            for maker in makers {
                maker.join().unwrap();
            }
            stop.store(true, Relaxed);
            writer.join().unwrap();
            assert!(taker.join().unwrap() > 0);
        });
        steady.check_invariants().unwrap();
    });
    ended.expect_finished();
}

fn make_and_drop(engine: Engine, number: u8, rounds: u8, at_once: usize) {
    for round in 0..rounds {
        let mut arenas: Vec<_> = (0..at_once).map(|_| patterned(on(engine), 2)).collect();
        let snapshots: Vec<_> = arenas
            .iter()
            .map(|(arena, _)| arena.snapshot().unwrap())
            .collect();
        for (arena, _) in &mut arenas {
            arena.fill(number ^ round);
        }
        // Some snapshots outlive their arenas, and end in another thread.
        let before = pattern(2);
        let (first, second) = snapshots.split_at(at_once / 2);
        for snapshot in first {
            expect_bytes(snapshot, &before);
        }
        for (arena, _) in arenas {
            assert!(arena.iter().all(|byte| *byte == number ^ round));
        }
        let second = second.to_vec();
        drop(snapshots);
        let reader = thread::spawn(move || {
            for snapshot in second {
                expect_bytes(&snapshot, &pattern(2));
            }
        });
        reader.join().unwrap();
    }
}

/// Pagecow's handler, beneath [`twice`].
static OURS: AtomicUsize = AtomicUsize::new(0);

/// The second call finds the page open, as if another thread had been faster.
extern "C" fn twice(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the address of such a function.
    let ours = unsafe { std::mem::transmute::<usize, signals::Handler>(OURS.load(Relaxed)) };
    ours(signal, info, context);
    ours(signal, info, context);
}

/// While a snapshot is on its way for long, pages are armed again and again without a new epoch. A
/// thread makes progress also when others open its page first each time.
#[test]
fn a_page_that_others_open_first_every_time() {
    let ended = in_child(|engine| {
        /// More often than the handler takes for a store that fails for ever.
        const OFTEN: u64 = 1000;
        let (mut arena, before) = patterned(page_by_page(engine), 600);
        let snapshot = arena.snapshot().unwrap();
        let mut pending = arena.prepare().unwrap();
        for signal in signals::of_engine(engine) {
            let mut action = signals::current(*signal);
            OURS.store(action.sa_sigaction, Relaxed);
            action.sa_sigaction = twice as *const () as usize;
            signals::install(*signal, &action);
        }
        let mut met = 0;
        let mut value = 0u8;
        while met < OFTEN {
            // Opens so much that the step arms something: the first page, if its slices get that
            // far.
            drop(arena.writable(..).unwrap());
            pending.step(std::time::Duration::MAX).unwrap();
            value = value.wrapping_add(1);
            arena[0] = value;
            let stats = arena.stats();
            met += u64::from(stats.spurious_faults > met);
            assert_eq!((stats.faults, stats.spurious_faults), (2 * met, met));
        }
        expect_bytes(&snapshot, &before);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}
