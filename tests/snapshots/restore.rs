//! Putting an arena back to what a snapshot holds: what it touches, and what stays as it is.

#![allow(
    unsafe_code,
    reason = "writers that outlive the borrow of their arena, and mlock"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::common::{
    bytes_of, expect_bytes, for_each_engine, for_each_fault_engine, on, page_by_page, page_size,
    patterned,
};
use pagecow::{Arena, Engine, Error, Snapshot};

const PAGES: usize = 100;

fn words(arena: &Arena) -> &'static [AtomicU64] {
    // SAFETY: mapped, aligned, and any bytes are valid; the callers keep the arena for longer.
    unsafe { std::slice::from_raw_parts(arena.as_ptr().cast(), arena.len() / 8) }
}

/// Restores, which brings back as many pages.
#[track_caller]
fn restore(arena: &mut Arena, snapshot: &Snapshot, pages: usize) {
    let restored = arena.restore(snapshot).unwrap();
    assert_eq!(restored.pages, pages);
    assert!(
        arena[..] == bytes_of(snapshot),
        "not what the snapshot holds"
    );
}

#[test]
fn brings_back_what_was_stored_since_and_nothing_else() {
    for_each_engine(|engine| {
        let (mut arena, before) = patterned(on(engine), PAGES);
        let page = page_size();
        let snapshot = arena.snapshot().unwrap();
        restore(&mut arena, &snapshot, 0);
        for round in 0..5 {
            for at in [3, 4, 50 + round] {
                arena[at * page + 7] ^= 0xff;
            }
            restore(&mut arena, &snapshot, 3);
            assert!(arena[..] == before);
            restore(&mut arena, &snapshot, 0);
        }
        arena.fill(9);
        restore(&mut arena, &snapshot, PAGES);
        expect_bytes(&snapshot, &before);
        drop(snapshot);
        arena.check_invariants().unwrap();
        arena.fill(1);
        assert!(arena.iter().all(|byte| *byte == 1));
    });
}

/// A loop that stores to the same pages needs one copy of each, however often it goes round, and
/// none of the pages that it does not store to is looked at again: no fault, no copy.
#[test]
fn a_loop_costs_one_copy_of_each_page_and_a_fault_for_each_store() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = patterned(page_by_page(engine), PAGES);
        let snapshot = arena.snapshot().unwrap();
        for round in 0..20 {
            let before = arena.stats();
            for at in 0..10 {
                arena[(at * 9 + round % 2) * page_size()] ^= 1;
            }
            let after = arena.stats();
            assert_eq!(after.faults - before.faults, 10);
            restore(&mut arena, &snapshot, 10);
            assert_eq!(arena.stats().faults, after.faults);
        }
        assert_eq!(arena.stats().pages_saved, 20);
        arena.check_invariants().unwrap();
    });
}

/// Pages that are stored to in each round stay open, and are brought back all the same. One that is
/// not stored to any more is armed again.
#[test]
fn a_loop_over_the_same_pages_takes_no_faults() {
    for_each_fault_engine(|engine| {
        let (mut arena, before) = patterned(page_by_page(engine), PAGES);
        let snapshot = arena.snapshot().unwrap();
        let faults = |arena: &mut Arena, pages: &[usize]| {
            let before = arena.stats().faults;
            for page in pages {
                arena[page * page_size()] ^= 1;
            }
            arena.stats().faults - before
        };
        let some = [3, 4, 50, 70];
        for round in 0..10 {
            let wanted = if round < 2 { 4 } else { 0 };
            assert_eq!(faults(&mut arena, &some), wanted, "round {round}");
            restore(&mut arena, &snapshot, 4);
            arena.check_invariants().unwrap();
        }
        // Others beside them, some of which are none of these.
        assert_eq!(faults(&mut arena, &[4, 51, 70]), 1);
        restore(&mut arena, &snapshot, 3);
        assert_eq!(faults(&mut arena, &some), 2);
        restore(&mut arena, &snapshot, 4);
        // A snapshot arms them all, and needs a copy of each.
        let newer = arena.snapshot().unwrap();
        let saved = arena.stats().pages_saved;
        assert_eq!(faults(&mut arena, &some), 4);
        assert_eq!(arena.stats().pages_saved - saved, 4);
        expect_bytes(&newer, &before);
        restore(&mut arena, &snapshot, 4);
        assert!(arena[..] == before);
    });
}

/// Older and newer snapshots in turn, each of which stays as it is.
#[test]
fn goes_to_and_fro_between_snapshots() {
    for_each_engine(|engine| {
        let (mut arena, bytes) = patterned(on(engine), PAGES);
        let mut taken = vec![(arena.snapshot().unwrap(), bytes)];
        for round in 1..5_u8 {
            for at in 0..20 {
                arena[(at * usize::from(round)) % PAGES * page_size()] = round;
            }
            taken.push((arena.snapshot().unwrap(), arena.to_vec()));
        }
        for (turn, which) in [0, 4, 1, 1, 3, 0, 2, 4, 2].into_iter().enumerate() {
            // What nobody wants to keep.
            arena[turn * 7 * page_size()] = 0xee;
            let (snapshot, bytes) = &taken[which];
            arena.restore(snapshot).unwrap();
            assert!(arena[..] == bytes[..], "snapshot {which}");
            for (snapshot, bytes) in &taken {
                expect_bytes(snapshot, bytes);
            }
        }
        // Also when others go.
        taken.remove(1);
        taken.remove(0);
        arena.fill(0);
        for (snapshot, bytes) in &taken {
            arena.restore(snapshot).unwrap();
            assert!(arena[..] == bytes[..]);
        }
        drop(taken);
        arena.check_invariants().unwrap();
    });
}

/// A snapshot that was taken of what was restored is one like any other.
#[test]
fn snapshots_after_a_restore_are_exact() {
    for_each_engine(|engine| {
        let (mut arena, before) = patterned(on(engine), PAGES);
        let first = arena.snapshot().unwrap();
        arena.fill(2);
        restore(&mut arena, &first, PAGES);
        let second = arena.snapshot().unwrap();
        arena[..page_size()].fill(3);
        expect_bytes(&second, &before);
        expect_bytes(&first, &before);
        // What the second one armed was stored to since the restore, or was not.
        restore(&mut arena, &first, 1);
        restore(&mut arena, &second, 0);
    });
}

#[test]
fn what_can_not_be_restored_leaves_the_arena_as_it_is() {
    for_each_engine(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        let (mut other, _) = patterned(on(engine), PAGES);
        let snapshot = other.snapshot().unwrap();
        arena.fill(5);
        let error = arena.restore(&snapshot).unwrap_err();
        assert!(
            matches!(error, Error::OtherArena { snapshot: 1 }),
            "{error}"
        );
        assert!(arena.iter().all(|byte| *byte == 5));
        assert!(other.restore(&snapshot).is_ok());
    });
    for_each_fault_engine(|engine| {
        let builder = page_by_page(engine).store_limit(3 * page_size());
        let (mut arena, _) = patterned(builder, PAGES);
        let snapshot = arena.snapshot().unwrap();
        arena.fill(5);
        let error = arena.restore(&snapshot).unwrap_err();
        assert!(matches!(error, Error::StoreExhausted { .. }), "{error}");
        assert!(arena.iter().all(|byte| *byte == 5));
    });
}

/// A newer snapshot needs a copy of what is stored over, and there is none to give: that one fails,
/// and not the one that is restored.
#[test]
fn a_store_that_is_used_up_fails_the_snapshots_that_need_it() {
    for_each_fault_engine(|engine| {
        let builder = page_by_page(engine).store_limit(3 * page_size());
        let (mut arena, before) = patterned(builder, PAGES);
        let older = arena.snapshot().unwrap();
        arena[..3 * page_size()].fill(5);
        let newer = arena.snapshot().unwrap();
        restore(&mut arena, &older, 3);
        assert!(arena[..] == before);
        assert!(!newer.is_exact());
        expect_bytes(&older, &before);
    });
}

/// Threads store all the while. What they store may stay or go; once they are quiet the next
/// restore finds all of it.
#[test]
fn stores_during_restores_are_brought_back_by_a_later_one() {
    for_each_engine(|engine| {
        let (mut arena, before) = patterned(on(engine), PAGES);
        let snapshot = arena.snapshot().unwrap();
        let words = words(&arena);
        for round in 0..30 {
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                for thread in 0..2 {
                    let done = &done;
                    scope.spawn(move || {
                        let mut at = thread * 977 + round;
                        while !done.load(Relaxed) {
                            at = (at * 13 + 7) % words.len();
                            words[at].fetch_add(1, Relaxed);
                        }
                    });
                }
                for _ in 0..20 {
                    arena.restore(&snapshot).unwrap();
                }
                done.store(true, Relaxed);
            });
            arena.restore(&snapshot).unwrap();
            assert!(arena[..] == before, "round {round}");
            arena.check_invariants().unwrap();
        }
    });
}

/// Snapshots of another thread have all of a restore or nothing of it.
#[test]
fn no_snapshot_of_another_thread_falls_into_the_middle() {
    for_each_engine(|engine| {
        let mut arena = on(engine).build(PAGES * page_size()).unwrap();
        let start = arena.snapshot().unwrap();
        let snapshotter = arena.snapshotter();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let taker = scope.spawn(|| {
                let mut taken = 0;
                while !done.load(Relaxed) || taken < 3 {
                    let bytes = bytes_of(&snapshotter.snapshot().unwrap());
                    let all = bytes.iter().all(|byte| *byte == bytes[0]);
                    assert!(all, "half of a restore");
                    taken += 1;
                }
            });
            for round in 0..200 {
                arena.writable(..).unwrap().fill(round as u8 + 1);
                arena.restore(&start).unwrap();
            }
            done.store(true, Relaxed);
            taker.join().unwrap();
        });
    });
}

/// Where remapped memory is lent to another engine, or cannot be thrown away, it is restored page
/// by page.
#[test]
fn remapped_memory_is_restored_whoever_has_it() {
    if !crate::common::engines().contains(&Engine::Remap) {
        return;
    }
    let (mut arena, before) = patterned(on(Engine::Remap), PAGES);
    let first = arena.snapshot().unwrap();
    arena[..10 * page_size()].fill(1);
    let second = arena.snapshot().unwrap();
    let middle = arena.to_vec();
    arena[5 * page_size()..20 * page_size()].fill(2);
    arena.restore(&first).unwrap();
    assert!(arena[..] == before);
    arena.restore(&second).unwrap();
    assert!(arena[..] == middle);
    expect_bytes(&first, &before);
    expect_bytes(&second, &middle);
    drop(second);
    drop(first);

    // SAFETY: the arena's own memory.
    if unsafe { libc::mlock(arena.as_ptr().cast(), page_size()) } == 0 {
        let locked = arena.snapshot().unwrap();
        arena[..2 * page_size()].fill(3);
        arena.restore(&locked).unwrap();
        expect_bytes(&locked, &arena);
    }
}
