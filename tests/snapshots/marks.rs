//! Marks: what was stored since, when the snapshot is gone.

use std::ops::Range;
use std::slice;

use crate::common::{
    for_each_engine, for_each_fault_engine, on, page_by_page, page_size, patterned,
};
use pagecow::{Arena, Error, Mark};

const PAGES: usize = 1000;

fn store(arena: &mut Arena, pages: Range<usize>) {
    for page in pages {
        arena[page * page_size()] ^= 1;
    }
}

#[track_caller]
fn expect_named(named: &[Range<usize>], pages: Range<usize>) {
    let is_named = |page| named.iter().any(|run| run.contains(&page));
    assert!(
        pages.clone().all(is_named),
        "{named:?} lack some of {pages:?}"
    );
}

/// An export again and again: each has what was stored since the one before, and no snapshot lives
/// in between.
#[test]
fn a_chain_of_marks_misses_nothing() {
    for_each_engine(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        let mut mark = arena.snapshot().unwrap().mark().unwrap();
        for round in 0..10 {
            let pages = round * 7..round * 9 + 30;
            store(&mut arena, pages.clone());
            expect_named(&arena.changed_since(&mark).unwrap(), pages.clone());
            let snapshot = arena.snapshot().unwrap();
            // Not a part of it.
            store(&mut arena, 900..910);
            let changed = snapshot.changed_since(&mark).unwrap();
            expect_named(&changed, pages);
            let next = snapshot.mark().unwrap();
            assert!(next.snapshot_id() > mark.snapshot_id());
            let error = snapshot.changed_since(&arena.mark().unwrap()).unwrap_err();
            assert!(matches!(error, Error::NotOlder { .. }), "{error}");
            mark = next;
            expect_named(&arena.changed_since(&mark).unwrap(), 900..910);
        }
    });
}

/// Marks beside a mark: each counts from its own point.
#[test]
fn each_mark_has_a_point_of_its_own() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = patterned(page_by_page(engine), PAGES);
        let marks: Vec<Mark> = (0..5)
            .map(|round| {
                let mark = arena.mark().unwrap();
                store(&mut arena, round * 10..round * 10 + 5);
                mark
            })
            .collect();
        for (round, mark) in marks.iter().enumerate() {
            let wanted: Vec<_> = (round..5).map(|at| at * 10..at * 10 + 5).collect();
            assert_eq!(arena.changed_since(mark).unwrap(), wanted);
        }
    });
}

/// No copies are kept for it, and stores to memory that was stored to since cost nothing.
#[test]
fn a_mark_keeps_no_copies() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = patterned(page_by_page(engine), PAGES);
        let _mark = arena.mark().unwrap();
        let before = arena.stats();
        store(&mut arena, 0..PAGES);
        store(&mut arena, 0..PAGES);
        let after = arena.stats();
        assert_eq!(after.pages_saved, before.pages_saved);
        assert_eq!(after.store_bytes, 0);
        assert_eq!(after.soft_faults - before.soft_faults, PAGES as u64);
    });
}

/// It stays exact where a snapshot beside it has copies made, and after a restore.
#[test]
fn snapshots_and_restores_beside_a_mark() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = patterned(page_by_page(engine), PAGES);
        let older = arena.snapshot().unwrap();
        let mark = arena.mark().unwrap();
        store(&mut arena, 0..3);
        arena.restore(&older).unwrap();
        store(&mut arena, 10..12);
        let newer = arena.snapshot().unwrap();
        store(&mut arena, 20..21);
        assert_eq!(newer.changed_since(&mark).unwrap(), [0..3, 10..12]);
        assert_eq!(
            newer.pages_that_differ(&older).unwrap(),
            slice::from_ref(&(10..12))
        );
        assert_eq!(arena.changed_since(&mark).unwrap(), [0..3, 10..12, 20..21]);
        assert_eq!(
            arena.changed_since(&newer).unwrap(),
            slice::from_ref(&(20..21))
        );
    });
}

/// Opening all pages at once is no store to them, but nobody can tell any more.
#[test]
fn after_open_all_a_mark_names_all_pages() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = patterned(page_by_page(engine), PAGES);
        let mark = arena.mark().unwrap();
        store(&mut arena, 5..6);
        assert!(arena.open_all().unwrap());
        assert_eq!(
            arena.changed_since(&mark).unwrap(),
            slice::from_ref(&(0..PAGES))
        );
        let next = arena.mark().unwrap();
        store(&mut arena, 7..8);
        assert_eq!(
            arena.changed_since(&next).unwrap(),
            slice::from_ref(&(7..8))
        );
    });
}

#[test]
fn a_mark_of_another_arena_is_refused() {
    for_each_engine(|engine| {
        let one = on(engine).build(1).unwrap();
        let other = on(engine).build(1).unwrap();
        let mark = one.mark().unwrap();
        let error = other.changed_since(&mark).unwrap_err();
        assert!(matches!(error, Error::OtherArena { .. }), "{error}");
        let error = other.snapshot().unwrap().changed_since(&mark).unwrap_err();
        assert!(
            matches!(error, Error::NotOlder { other: None, .. }),
            "{error}"
        );
        // A mark may outlive its arena.
        drop(one);
        assert!(mark.snapshot_id() > 0);
    });
}
