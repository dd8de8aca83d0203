//! A handler that stores to the arena that the code it interrupts stores to.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};
use std::thread;

use super::keep_taking;
use crate::common::{
    Forked, Trail, end_of_fork, expect_child_ended_well, fork, in_child, on, page_size, signals,
};

static WORDS: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
static NEXT: AtomicU64 = AtomicU64::new(1);
const PAGES: u64 = 24;
const BY_CODE: usize = 1;
const BY_HANDLER: usize = 2;

/// One step of a [`Trail`] of its own.
extern "C" fn store(_: i32) {
    let next = NEXT.load(Relaxed);
    let word = (next % PAGES) as usize * (page_size() / 8) + BY_HANDLER;
    // SAFETY: inside the arena, which lives as long as signals come.
    unsafe { &*WORDS.load(Relaxed).wrapping_add(word) }.store(next, Relaxed);
    NEXT.store(next + 1, Relaxed);
}

/// Has `handler` store to these words at each SIGUSR1.
fn on_signals(handler: extern "C" fn(i32), words: *mut AtomicU64) {
    WORDS.store(words, Relaxed);
    let handler = handler as *const () as usize;
    signals::install(
        libc::SIGUSR1,
        &signals::action(handler, libc::SA_RESTART, &[]),
    );
}

/// The thread has to wait for the caller's to end.
fn keep_signalling(whom: libc::pthread_t, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        // SAFETY: the thread is there (this function's contract).
        unsafe { libc::pthread_kill(whom, libc::SIGUSR1) };
        thread::yield_now();
    }
}

#[test]
fn stores_in_handler_and_code() {
    let ended = in_child(|engine| {
        const SIGNALS: u64 = 300;
        const SNAPSHOTS: u64 = 200;
        let mut arena = on(engine).build(PAGES as usize * page_size()).unwrap();
        let snapshotter = arena.snapshotter();
        let words = arena.atomic_u64();
        on_signals(store, words.as_ptr().cast_mut());
        let stop = AtomicBool::new(false);
        let taken = AtomicU64::new(0);
        // SAFETY: no arguments.
        let main = unsafe { libc::pthread_self() };
        let mut steps = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                keep_taking(&snapshotter, &stop, |bytes| {
                    Trail::steps_in(bytes, BY_CODE);
                    Trail::steps_in(bytes, BY_HANDLER);
                    taken.fetch_add(1, Relaxed);
                });
            });
            scope.spawn(|| keep_signalling(main, &stop));
            let mut trail = Trail::new(words, BY_CODE);
            while NEXT.load(Relaxed) < SIGNALS || taken.load(Relaxed) < SNAPSHOTS {
                trail.step();
                steps += 1;
            }
            stop.store(true, Relaxed);
        });
        let handled = NEXT.load(Relaxed) - 1;
        assert_eq!(Trail::steps_in(&arena, BY_CODE), steps);
        assert_eq!(Trail::steps_in(&arena, BY_HANDLER), handled);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// The same with guards, which hold pages outside the handler.
#[test]
fn stores_in_a_handler_and_guards_in_the_code() {
    let ended = in_child(|engine| {
        const ROUNDS: usize = 500;
        let mut arena = on(engine).build(PAGES as usize * page_size()).unwrap();
        let snapshotter = arena.snapshotter();
        on_signals(store, arena.as_mut_ptr().cast());
        let stop = AtomicBool::new(false);
        let taken = AtomicU64::new(0);
        // SAFETY: no arguments.
        let main = unsafe { libc::pthread_self() };
        thread::scope(|scope| {
            scope.spawn(|| {
                keep_taking(&snapshotter, &stop, |bytes| {
                    Trail::steps_in(bytes, BY_HANDLER);
                    taken.fetch_add(1, Relaxed);
                });
            });
            scope.spawn(|| keep_signalling(main, &stop));
            let mut round = 0;
            while round < ROUNDS || taken.load(Relaxed) < 100 || NEXT.load(Relaxed) < 100 {
                round += 1;
                drop(arena.writable(..).unwrap());
                drop(snapshotter.snapshot().unwrap());
            }
            stop.store(true, Relaxed);
        });
        assert_eq!(Trail::steps_in(&arena, BY_HANDLER), NEXT.load(Relaxed) - 1);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

const COUNTER: usize = 3;
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// May run on several threads at once.
extern "C" fn count(_: i32) {
    let page = COUNTED.fetch_add(1, Relaxed) % PAGES;
    let word = page as usize * (page_size() / 8) + COUNTER;
    // SAFETY: inside the arena, which lives as long as signals come.
    unsafe { &*WORDS.load(Relaxed).wrapping_add(word) }.fetch_add(1, Relaxed);
}

/// The same in a process that forks, in the thread that does and in one that reads a snapshot.
#[test]
fn stores_in_a_handler_around_forks() {
    let ended = in_child(|engine| {
        const FORKS: usize = 300;
        let mut arena = on(engine).build(PAGES as usize * page_size()).unwrap();
        let snapshotter = arena.snapshotter();
        on_signals(count, arena.as_mut_ptr().cast());
        let stop = AtomicBool::new(false);
        let quiet = AtomicBool::new(false);
        // SAFETY: no arguments.
        let main = unsafe { libc::pthread_self() };
        let reader = AtomicU64::new(main);
        thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: no arguments.
                reader.store(unsafe { libc::pthread_self() }, Relaxed);
                let snapshot = snapshotter.snapshot().unwrap();
                let mut byte = [0];
                while !quiet.load(Relaxed) {
                    snapshot.read_at(0, &mut byte).unwrap();
                }
            });
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    for thread in [main, reader.load(Relaxed)] {
                        // SAFETY: both threads wait for this one.
                        unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                    }
                    thread::sleep(std::time::Duration::from_micros(50));
                }
                quiet.store(true, Relaxed);
            });
            for _ in 0..FORKS {
                drop(snapshotter.snapshot().unwrap());
                match fork() {
                    Forked::Child => end_of_fork(|| ()),
                    Forked::Parent(child) => expect_child_ended_well(child),
                }
            }
            stop.store(true, Relaxed);
        });
        let stored: u64 = arena
            .atomic_u64()
            .chunks(page_size() / 8)
            .map(|page| page[COUNTER].load(Relaxed))
            .sum();
        assert_eq!(stored, COUNTED.load(Relaxed));
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}
