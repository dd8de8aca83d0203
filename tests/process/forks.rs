//! fork(2) in a process with armed arenas: parent and child each have memory and snapshots of their
//! own.

#![allow(unsafe_code, reason = "writers that outlive the borrow of their arena")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::common::{
    Forked, Trail, bytes_of, end_of_fork, expect_bytes, expect_child_ended_well, fork, in_child,
    on, page_size, pattern, patterned,
};
use pagecow::{Arena, Engine, Error, Snapshot, Snapshotter};

const PAGES: usize = 48;
const FORKS: usize = 30;
/// The words of each page that the writing thread uses; the rest is as it was filled.
const WRITTEN: usize = 3;

/// The arena's words, for a thread that is joined before the arena goes.
fn words(arena: &Arena) -> &'static [AtomicU64] {
    // SAFETY: mapped, aligned, and any bytes are valid; the callers keep the arena for longer.
    unsafe { std::slice::from_raw_parts(arena.as_ptr().cast(), arena.len() / 8) }
}

/// All of what the memory holds now, while no thread writes.
fn contents(words: &[AtomicU64]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| word.load(Relaxed).to_ne_bytes())
        .collect()
}

fn overwrite(words: &[AtomicU64], value: u64) {
    for word in words {
        word.store(value, Relaxed);
    }
}

/// In the child: reads, writes, takes snapshots, reads the inherited one, drops everything.
fn live(engine: Engine, mut arena: Arena, inherited: Snapshot, before: &[u8]) {
    let found = contents(arena.atomic_u64());
    Trail::steps_in(&found, WRITTEN);
    expect_bytes(&inherited, before);

    let own = arena.snapshot().unwrap();
    expect_bytes(&own, &found);
    arena.fill(0xcc);
    assert!(arena.iter().all(|byte| *byte == 0xcc));
    expect_bytes(&own, &found);
    expect_bytes(&inherited, before);

    let later = arena.snapshot().unwrap();
    drop(own);
    let mut part = arena.writable(..).unwrap();
    part.fill(0xdd);
    drop(part);
    assert!(
        later
            .pages()
            .all(|page| page.unwrap().bytes().iter().all(|byte| *byte == 0xcc))
    );
    expect_bytes(&inherited, before);
    arena.check_invariants().unwrap();

    let mut another = on(engine).build(1).unwrap();
    let empty = another.snapshot().unwrap();
    another[0] = 1;
    assert_eq!(empty.page(0).unwrap().bytes()[0], 0);

    drop(inherited);
    drop(later);
    arena.check_invariants().unwrap();
    drop(arena);
}

/// Takes and drops snapshots, each of which must hold the writer's stores up to some number.
fn keep_taking_snapshots(snapshotter: &Snapshotter, stop: &AtomicBool) -> usize {
    let mut taken = 0;
    let mut kept = Vec::new();
    while !stop.load(Relaxed) {
        let snapshot = snapshotter.snapshot().unwrap();
        Trail::steps_in(&bytes_of(&snapshot), WRITTEN);
        kept.push(snapshot);
        taken += 1;
        if kept.len() == 3 {
            kept.swap_remove(taken % 3);
        }
    }
    taken
}

#[test]
fn with_a_writer_and_a_snapshotting_thread() {
    let ended = in_child(|engine| {
        let before = without_trail(pattern(PAGES));
        let mut arena = on(engine).build(before.len()).unwrap();
        arena.copy_from_slice(&before);
        let inherited = arena.snapshot().unwrap();
        let words = words(&arena);
        let snapshotter = arena.snapshotter();
        static STOP: AtomicBool = AtomicBool::new(false);
        let steps = |words| {
            let mut trail = Trail::new(words, WRITTEN);
            let mut steps = 0;
            while !STOP.load(Relaxed) {
                trail.step();
                steps += 1;
            }
            steps
        };
        let writer = thread::spawn(move || steps(words));
        let taker = thread::spawn(move || keep_taking_snapshots(&snapshotter, &STOP));

        for _ in 0..FORKS {
            let child = match fork() {
                Forked::Child => end_of_fork(|| live(engine, arena, inherited, &before)),
                Forked::Parent(child) => child,
            };
            expect_bytes(&inherited, &before);
            expect_child_ended_well(child);
        }
        STOP.store(true, Relaxed);
        let steps = writer.join().unwrap();
        assert!(taker.join().unwrap() > FORKS);
        let after = contents(words);
        assert_eq!(Trail::steps_in(&after, WRITTEN), steps);
        assert!(without_trail(after) == before);
        expect_bytes(&inherited, &before);
        arena.check_invariants().unwrap();
        assert_eq!(arena.stats().live_snapshots, 1);
    });
    ended.expect_finished();
}

/// The words that the writing thread uses are zero.
fn without_trail(mut bytes: Vec<u8>) -> Vec<u8> {
    for page in bytes.chunks_exact_mut(page_size()) {
        page[WRITTEN * 8..][..8].fill(0);
    }
    bytes
}

#[test]
fn with_a_guard_of_the_forking_thread() {
    let ended = in_child(|engine| {
        let (mut arena, before) = patterned(on(engine), 8);
        let snapshot = arena.snapshot().unwrap();
        let snapshotter = arena.snapshotter();
        let words = words(&arena);
        let mut part = arena.writable(page_size()..3 * page_size()).unwrap();
        part.fill(1);
        let child = match fork() {
            Forked::Child => end_of_fork(|| {
                let refused = snapshotter.snapshot();
                assert!(matches!(refused, Err(Error::GuardHeld)), "{refused:?}");
                part.fill(2);
                drop(part);
                let own = snapshotter.snapshot().unwrap();
                let then = contents(words);
                overwrite(words, 3);
                assert_eq!(own.page(1).unwrap().bytes()[0], 2);
                expect_bytes(&own, &then);
                expect_bytes(&snapshot, &before);
            }),
            Forked::Parent(child) => child,
        };
        expect_child_ended_well(child);
        assert!(part.iter().all(|byte| *byte == 1));
        let refused = snapshotter.snapshot();
        assert!(matches!(refused, Err(Error::GuardHeld)), "{refused:?}");
        drop(part);
        expect_bytes(&snapshot, &before);
        arena.snapshot().unwrap();
    });
    ended.expect_finished();
}

#[test]
fn with_a_guard_of_another_thread() {
    let ended = in_child(|engine| {
        let (mut arena, before) = patterned(on(engine), 8);
        let snapshot = arena.snapshot().unwrap();
        let snapshotter = arena.snapshotter();
        let words = words(&arena);
        let held = Barrier::new(3);
        let release = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut part = arena.writable(page_size()..3 * page_size()).unwrap();
                part.fill(1);
                held.wait();
                release.wait();
            });
            // One more that waits for the guard to go, in the parent only.
            let waiting = scope.spawn(|| {
                held.wait();
                snapshotter.snapshot().unwrap()
            });
            held.wait();
            for _ in 0..FORKS {
                let child = match fork() {
                    Forked::Child => end_of_fork(|| {
                        let then = contents(words);
                        let own = snapshotter.snapshot().unwrap();
                        overwrite(words, 2);
                        expect_bytes(&own, &then);
                        expect_bytes(&snapshot, &before);
                    }),
                    Forked::Parent(child) => child,
                };
                expect_child_ended_well(child);
            }
            release.wait();
            let waited = waiting.join().unwrap();
            expect_bytes(&waited, &contents(words));
        });
        expect_bytes(&snapshot, &before);
        assert!(
            arena[page_size()..3 * page_size()]
                .iter()
                .all(|byte| *byte == 1)
        );
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// Arenas and snapshots that come and go in other threads at the fork.
#[test]
fn with_arenas_that_come_and_go() {
    let ended = in_child(|engine| {
        static STOP: AtomicBool = AtomicBool::new(false);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                thread::spawn(move || {
                    while !STOP.load(Relaxed) {
                        let (mut arena, before) = patterned(on(engine), 3);
                        let snapshot = arena.snapshot().unwrap();
                        arena.fill(9);
                        expect_bytes(&snapshot, &before);
                    }
                })
            })
            .collect();
        for _ in 0..FORKS {
            let child = match fork() {
                Forked::Child => end_of_fork(|| {
                    let (mut arena, before) = patterned(on(engine), 3);
                    let snapshot = arena.snapshot().unwrap();
                    arena.fill(9);
                    expect_bytes(&snapshot, &before);
                    arena.check_invariants().unwrap();
                }),
                Forked::Parent(child) => child,
            };
            expect_child_ended_well(child);
        }
        STOP.store(true, Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
    });
    ended.expect_finished();
}

/// What the parent keeps for later arenas is not used by the child's.
#[test]
fn arenas_made_after_the_fork() {
    let ended = in_child(|engine| {
        let live = || {
            let (mut arena, before) = patterned(on(engine), PAGES);
            let snapshot = arena.snapshot().unwrap();
            arena.fill(0xee);
            expect_bytes(&snapshot, &before);
            assert_eq!(arena.stats().pages_saved, PAGES as u64);
            arena.check_invariants().unwrap();
        };
        live();
        match fork() {
            Forked::Child => end_of_fork(live),
            Forked::Parent(child) => {
                live();
                expect_child_ended_well(child);
            }
        }
        live();
    });
    ended.expect_finished();
}
