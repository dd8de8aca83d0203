//! Snapshots of whole data structures, under a lock of the program.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::common::mappings::limit_address_space;
use crate::common::{
    FAULT, expect_bytes, for_each_engine, for_each_fault_engine, in_child, in_child_on, on,
    page_size, signals,
};
use pagecow::{Arena, Engine, Error, Snapshotter};

const PAGES: usize = 4096;

fn filled(engine: Engine, value: u8) -> Arena {
    let mut arena = on(engine).build(PAGES * page_size()).unwrap();
    arena.fill(value);
    arena
}

/// No snapshot was taken or is on its way, and one can be.
#[track_caller]
fn expect_all_well(arena: &mut Arena) {
    let stats = arena.stats();
    assert_eq!((stats.snapshots, stats.live_snapshots), (0, 0));
    let wanted = arena.to_vec();
    let snapshot = arena.snapshot().unwrap();
    arena.fill(99);
    expect_bytes(&snapshot, &wanted);
    arena.check_invariants().unwrap();
}

#[test]
fn when_the_lock_is_taken_little_is_left() {
    for_each_fault_engine(|engine| {
        let mut arena = filled(engine, 1);
        let snapshotter = arena.snapshotter();
        for by_snapshotter in [false, true] {
            arena.fill(2);
            let lock = || {
                let left = snapshotter.prepare().unwrap().left();
                assert!(left.pages <= 512 && left.runs <= 32, "{left:?}");
            };
            let snapshot = if by_snapshotter {
                snapshotter.snapshot_with(lock)
            } else {
                arena.snapshot_with(lock)
            };
            assert!(snapshot.unwrap().timings().passes > 0);
        }
    });
}

/// The other thread holds the lock until nearly everything is armed: for ever, if that took the
/// lock.
#[test]
fn arming_goes_on_while_another_thread_holds_the_lock() {
    let ended = in_child_on(FAULT, |engine| {
        let arena = filled(engine, 1);
        let snapshotter = arena.snapshotter();
        let lock = Mutex::new(());
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _held = lock.lock().unwrap();
                let pending = snapshotter.prepare().unwrap();
                assert!(!pending.is_ready());
                tell.send(()).unwrap();
                while !pending.is_ready() {
                    std::thread::yield_now();
                }
                assert_eq!(snapshotter.stats().unwrap().snapshots, 0);
            });
            told.recv().unwrap();
            arena.snapshot_with(|| lock.lock().unwrap()).unwrap();
        });
    });
    ended.expect_finished();
}

/// Has the lock as soon as it is free: a thread that slept would come too late to find out that a
/// snapshot is taken without it. Leaves it to others for a while first.
fn lock_at_once<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    std::thread::sleep(Duration::from_micros(1));
    loop {
        if let Ok(held) = lock.try_lock() {
            return held;
        }
        std::thread::yield_now();
    }
}

/// Under the lock two words in different pages are made equal, many pairs of them.
#[test]
fn what_is_whole_under_the_lock_is_whole_in_the_snapshot() {
    let ended = in_child(|engine| {
        let mut arena = filled(engine, 0);
        let snapshotter = arena.snapshotter();
        let words_per_page = page_size() / 8;
        let words = arena.atomic_u64();
        let pairs = Mutex::new(());
        let done = AtomicBool::new(false);
        let writer = |seed: usize| {
            let mut at = seed;
            while !done.load(Relaxed) {
                at = (at * 1_103_515_245 + 12345) % (PAGES / 2);
                let _held = lock_at_once(&pairs);
                let value = words[at * words_per_page].fetch_add(1, Relaxed) + 1;
                std::thread::yield_now();
                words[(at + PAGES / 2) * words_per_page].store(value, Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for seed in 0..3 {
                scope.spawn(move || writer(seed));
            }
            let mut sum = 0;
            for _ in 0..60 {
                let snapshot = snapshotter.snapshot_with(|| pairs.lock().unwrap()).unwrap();
                let word = |page: usize| {
                    let mut word = [0; 8];
                    snapshot.read_at(page * page_size(), &mut word).unwrap();
                    u64::from_ne_bytes(word)
                };
                let before = sum;
                sum = 0;
                for page in 0..PAGES / 2 {
                    let (one, other) = (word(page), word(page + PAGES / 2));
                    assert_eq!(one, other, "pair {page} of {snapshot:?}");
                    sum += one;
                }
                assert!(sum >= before, "an older state");
            }
            done.store(true, Relaxed);
        });
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// A guard that notes how many snapshots had been taken when it was dropped.
struct Noting<'a> {
    snapshotter: &'a Snapshotter,
    /// `u64::MAX`: it was not dropped; `u64::MAX - 1`: then the arena was gone.
    at_drop: &'a Cell<u64>,
}

impl<'a> Noting<'a> {
    fn new(snapshotter: &'a Snapshotter, at_drop: &'a Cell<u64>) -> Self {
        at_drop.set(u64::MAX);
        Self {
            snapshotter,
            at_drop,
        }
    }
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        let stats = self.snapshotter.stats();
        let taken = stats.map_or(u64::MAX - 1, |stats| stats.snapshots);
        self.at_drop.set(taken);
    }
}

#[test]
fn the_guard_is_dropped_after_the_commit_and_before_the_return() {
    for_each_engine(|engine| {
        let arena = filled(engine, 1);
        let snapshotter = arena.snapshotter();
        let at_drop = Cell::new(0);
        let lock = || Noting::new(&snapshotter, &at_drop);
        arena.snapshot_with(lock).unwrap();
        assert_eq!(at_drop.get(), 1);
        snapshotter.snapshot_with(lock).unwrap();
        assert_eq!(at_drop.get(), 2);
    });
}

#[test]
fn the_guard_is_dropped_also_when_the_commit_fails() {
    for_each_engine(|engine| {
        let arena = filled(engine, 1);
        let snapshotter = arena.snapshotter();
        let at_drop = Cell::new(0);
        let result = snapshotter.snapshot_with(|| {
            drop(arena);
            Noting::new(&snapshotter, &at_drop)
        });
        assert!(matches!(result, Err(Error::ArenaDropped)), "{result:?}");
        assert_eq!(at_drop.get(), u64::MAX - 1);
    });
}

#[test]
fn a_lock_that_panics_costs_the_snapshot_only() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let lock = || -> () { std::panic::panic_any("from the lock") };
        let result = catch_unwind(AssertUnwindSafe(|| arena.snapshot_with(lock)));
        let panic = result.unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"from the lock"));
        arena[0] = 2;
        expect_all_well(&mut arena);
    });
}

#[test]
fn a_lock_that_fails_costs_the_snapshot_only() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let snapshotter = arena.snapshotter();
        let lock = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
        let results: [std::io::Result<_>; 2] = [
            arena.try_snapshot_with(lock),
            snapshotter.try_snapshot_with(lock),
        ];
        for result in results {
            let kind = result.unwrap_err().kind();
            assert_eq!(kind, std::io::ErrorKind::WouldBlock);
        }
        arena[0] = 2;
        expect_all_well(&mut arena);
    });
}

/// Whatever makes a snapshot impossible is noticed before the program's lock is taken.
#[test]
fn errors_come_before_the_lock() {
    extern "C" fn theirs(_: i32) {}

    #[track_caller]
    fn expect_refused(snapshotter: &Snapshotter, wanted: impl Fn(&Error) -> bool) {
        let locked = Cell::new(false);
        let error = snapshotter.snapshot_with(|| locked.set(true)).unwrap_err();
        assert!(wanted(&error), "{error:?}");
        assert!(!locked.get(), "locked before {error:?}");
    }

    let ended = in_child(|engine| {
        let mut arena = filled(engine, 1);
        let snapshotter = arena.snapshotter();
        for signal in signals::of_engine(engine) {
            signals::mask(libc::SIG_BLOCK, &[*signal]);
            expect_refused(&snapshotter, |error| matches!(error, Error::SignalMasked));
            signals::mask(libc::SIG_UNBLOCK, &[*signal]);

            let theirs = signals::action(theirs as *const () as usize, 0, &[]);
            let ours = signals::install(*signal, &theirs);
            expect_refused(&snapshotter, |error| {
                matches!(error, Error::HandlerReplaced)
            });
            signals::install(*signal, &ours);
        }

        let part = arena.writable(..1).unwrap();
        expect_refused(&snapshotter, |error| matches!(error, Error::GuardHeld));
        drop(part);

        limit_address_space(1);
        expect_refused(&snapshotter, |error| matches!(error, Error::Reserve { .. }));
        limit_address_space(libc::RLIM_INFINITY);

        expect_all_well(&mut arena);
        drop(arena);
        expect_refused(&snapshotter, |error| matches!(error, Error::ArenaDropped));
    });
    ended.expect_finished();
}

/// A writer locks two shards, and the snapshot all of them, in the same order.
#[test]
fn any_number_of_locks_is_one_guard() {
    let ended = in_child(|engine| {
        let mut arena = filled(engine, 0);
        let snapshotter = arena.snapshotter();
        let words = arena.atomic_u64();
        let words_per_page = page_size() / 8;
        let shards: Vec<Mutex<&[AtomicU64]>> =
            words.chunks(words.len() / 8).map(Mutex::new).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (first, second) in [(0, 7), (1, 6)] {
                let (one, other) = (&shards[first], &shards[second]);
                let done = &done;
                scope.spawn(move || {
                    let mut page = 0;
                    while !done.load(Relaxed) {
                        page = (page + 37) % (PAGES / 8);
                        let (one, other) = (lock_at_once(one), lock_at_once(other));
                        one[page * words_per_page].fetch_add(1, Relaxed);
                        std::thread::yield_now();
                        other[page * words_per_page].fetch_add(1, Relaxed);
                    }
                });
            }
            for _ in 0..40 {
                let all = || -> Vec<_> { shards.iter().map(|s| s.lock().unwrap()).collect() };
                let snapshot = snapshotter.snapshot_with(all).unwrap();
                let shard = |index: usize| {
                    let mut bytes = vec![0; snapshot.len() / 8];
                    snapshot.read_at(index * bytes.len(), &mut bytes).unwrap();
                    bytes
                };
                assert!(shard(0) == shard(7), "{snapshot:?}");
                assert!(shard(1) == shard(6), "{snapshot:?}");
            }
            done.store(true, Relaxed);
        });
        drop(shards);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}
