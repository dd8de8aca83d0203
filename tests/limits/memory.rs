//! What README says of memory, as the system counts it.

use std::time::Duration;

use crate::common::mappings::{forbid_huge_pages, resident};
use crate::common::{FAULT, expect_bytes, in_child_on, page_by_page, page_size};
use pagecow::{Arena, Engine, Snapshot};

const LEN: usize = 64 << 20;
/// Bookkeeping, and frames that are few enough to be kept whatever was used.
const LITTLE: usize = 8 << 20;

/// An arena of which every page was written, and what is resident without it.
fn filled(engine: Engine) -> (Arena, usize) {
    forbid_huge_pages();
    let before = resident();
    let mut arena = page_by_page(engine).build(LEN).unwrap();
    arena.fill(1);
    (arena, before)
}

fn write_everything(arena: &mut Arena, value: u8) {
    arena.fill(value);
}

/// Beyond the arena itself, copies and what is kept beside them.
#[track_caller]
fn expect_beyond_the_arena(arena: &Arena, before: usize, copies: usize) {
    let beyond = resident().saturating_sub(before + LEN);
    assert!(beyond <= copies + LITTLE, "{beyond} bytes, not {copies}");
    let said = arena.stats().store_resident_bytes as usize;
    assert!(beyond <= said + LITTLE, "{beyond} bytes, {said} said");
    assert!(said <= beyond + (1 << 20), "{beyond} bytes, {said} said");
}

fn rolling(arena: &mut Arena, mut newest: Snapshot, times: usize) -> Snapshot {
    for round in 0..times {
        arena[round * page_size()] ^= 1;
        newest = arena.snapshot().unwrap();
    }
    newest
}

/// A copy of each page that was written, and nothing ahead for pages that have copies.
#[test]
fn a_second_snapshot_after_everything_was_written() {
    let ended = in_child_on(FAULT, |engine| {
        let (mut arena, before) = filled(engine);
        let first = arena.snapshot().unwrap();
        write_everything(&mut arena, 2);
        expect_beyond_the_arena(&arena, before, LEN);
        let second = arena.snapshot().unwrap();
        expect_beyond_the_arena(&arena, before, LEN);
        assert_eq!(arena.stats().store_bytes as usize, LEN);
        drop(first);
        arena.check_invariants().unwrap();
        drop(second);
        // The second period used none, so that half of what was kept stays.
        expect_beyond_the_arena(&arena, before, LEN / 2);
    });
    ended.expect_finished();
}

/// By hand, what a keeper does: frames that hold copies now will be free for the next ones.
#[test]
fn a_keeper_expects_no_new_frames_for_copies_that_exist() {
    let ended = in_child_on(FAULT, |engine| {
        let mut arena = page_by_page(engine).keeper(false).build(LEN).unwrap();
        arena.fill(1);
        let _first = arena.snapshot().unwrap();
        write_everything(&mut arena, 2);
        let _second = arena.snapshot().unwrap();
        arena.tend(Duration::MAX);
        let resident = arena.stats().store_resident_bytes as usize;
        assert!(resident < LEN + LITTLE, "{resident} bytes");
    });
    ended.expect_finished();
}

/// What a period used is kept for the next, and decays when none comes.
#[test]
fn kept_memory_decays() {
    let ended = in_child_on(FAULT, |engine| {
        forbid_huge_pages();
        let before = resident();
        let builder = page_by_page(engine).keeper(false);
        let mut arena = builder.decay(Duration::from_millis(1)).build(LEN).unwrap();
        arena.fill(1);
        let first = arena.snapshot().unwrap();
        write_everything(&mut arena, 2);
        drop(first);
        assert_eq!(arena.stats().store_resident_bytes as usize, LEN);
        expect_beyond_the_arena(&arena, before, LEN);
        arena.check_invariants().unwrap();
        while arena.stats().store_resident_bytes as usize > LITTLE / 2 {
            arena.tend(Duration::MAX);
        }
        expect_beyond_the_arena(&arena, before, 0);
        arena.check_invariants().unwrap();
        // It is good for copies again.
        let second = arena.snapshot().unwrap();
        write_everything(&mut arena, 3);
        expect_bytes(&second, &vec![2; LEN]);
    });
    ended.expect_finished();
}

/// The same with a snapshot alive.
#[test]
fn kept_memory_decays_while_a_snapshot_lives() {
    let ended = in_child_on(FAULT, |engine| {
        let builder = page_by_page(engine).keeper(false);
        let mut arena = builder.decay(Duration::from_millis(1)).build(LEN).unwrap();
        arena.fill(1);
        let first = arena.snapshot().unwrap();
        write_everything(&mut arena, 2);
        let second = arena.snapshot().unwrap();
        drop(first);
        while arena.stats().store_resident_bytes as usize > LITTLE / 2 {
            arena.tend(Duration::MAX);
        }
        arena.check_invariants().unwrap();
        write_everything(&mut arena, 3);
        expect_bytes(&second, &vec![2; LEN]);
    });
    ended.expect_finished();
}

#[test]
fn without_decay_little_is_kept() {
    let ended = in_child_on(FAULT, |engine| {
        forbid_huge_pages();
        let before = resident();
        let builder = page_by_page(engine).keeper(false);
        let mut arena = builder.decay(Duration::ZERO).build(LEN).unwrap();
        arena.fill(1);
        let first = arena.snapshot().unwrap();
        write_everything(&mut arena, 2);
        drop(first);
        expect_beyond_the_arena(&arena, before, 0);
    });
    ended.expect_finished();
}

/// But while a snapshot lives, writers have what the last period used, whoever tends the arena.
#[test]
fn without_decay_a_snapshot_alive_keeps_what_was_used() {
    let ended = in_child_on(FAULT, |engine| {
        let builder = page_by_page(engine).keeper(false);
        let mut arena = builder.decay(Duration::ZERO).build(LEN).unwrap();
        arena.fill(1);
        let first = arena.snapshot().unwrap();
        write_everything(&mut arena, 2);
        let second = arena.snapshot().unwrap();
        drop(first);
        arena.tend(Duration::MAX);
        assert!(arena.stats().store_resident_bytes as usize >= LEN);
        drop(second);
        arena.tend(Duration::MAX);
        assert!(arena.stats().store_resident_bytes as usize <= LITTLE);
    });
    ended.expect_finished();
}

/// Snapshot after snapshot, with one alive at any time.
#[test]
fn memory_shrinks_while_snapshots_live() {
    let ended = in_child_on(FAULT, |engine| {
        let (mut arena, before) = filled(engine);
        let first = arena.snapshot().unwrap();
        write_everything(&mut arena, 2);
        let newest = rolling(&mut arena, first, 50);
        arena.check_invariants().unwrap();
        expect_beyond_the_arena(&arena, before, 0);
        // What was given back is good for copies again.
        let frozen = arena.to_vec();
        write_everything(&mut arena, 3);
        expect_bytes(&newest, &frozen[..]);
        let newest = rolling(&mut arena, newest, 1);
        drop(newest);
        expect_beyond_the_arena(&arena, before + LEN, LEN);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

#[test]
fn a_snapshot_that_is_given_up_leaves_nothing() {
    let ended = in_child_on(FAULT, |engine| {
        let (mut arena, before) = filled(engine);
        let first = arena.snapshot().unwrap();
        write_everything(&mut arena, 2);
        drop(first);
        let mut pending = arena.prepare().unwrap();
        while !pending.is_ready() {
            pending.step(std::time::Duration::from_millis(1)).unwrap();
        }
        drop(pending);
        expect_beyond_the_arena(&arena, before, LEN);
    });
    ended.expect_finished();
}
