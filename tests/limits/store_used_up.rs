//! The store's limit is reached: writers go on, and no snapshot ever hands out wrong bytes.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::common::mappings::address_space;
use crate::common::{
    FAULT, expect_bytes, in_child, in_child_on, on, page_by_page, page_size, patterned,
};
use pagecow::{Arena, ArenaBuilder, Error, Snapshot};

fn limited(builder: ArenaBuilder, pages: usize, frames: usize) -> (Arena, Vec<u8>) {
    patterned(builder.store_limit(frames * page_size()), pages)
}

#[track_caller]
fn expect_exhausted(snapshot: &Snapshot, frames: usize) {
    assert!(!snapshot.is_exact());
    let wanted = snapshot.id();
    let file = tempfile::tempfile().unwrap();
    assert!(is_exhausted(&snapshot.copy_to(&file).unwrap_err()));
    let mut byte = [0];
    for error in [
        snapshot.read_at(0, &mut byte).unwrap_err(),
        snapshot.read_at(snapshot.len() - 1, &mut byte).unwrap_err(),
        snapshot.page(0).unwrap_err(),
        snapshot.pages().next().unwrap().unwrap_err(),
        snapshot.changed_since(snapshot).unwrap_err(),
    ] {
        match error {
            Error::StoreExhausted { snapshot, limit } => {
                assert_eq!((snapshot, limit), (wanted, frames * page_size()));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(Error::StoreExhausted { .. }))
}

#[test]
fn the_newest_fails_and_the_older_stays_exact() {
    let ended = in_child_on(FAULT, |engine| {
        const PAGES: usize = 8;
        const FRAMES: usize = PAGES + 2;
        let page = page_size();
        let (mut arena, first) = limited(page_by_page(engine), PAGES, FRAMES);
        let older = arena.snapshot().unwrap();
        arena.fill(0x11);
        let newest = arena.snapshot().unwrap();
        let mut reader = newest.reader();
        let mut part = vec![0; page];
        reader.read_exact(&mut part).unwrap();
        assert!(part.iter().all(|byte| *byte == 0x11));
        for index in 0..2 {
            arena[index * page] = 0x22;
        }
        expect_bytes(&newest, &vec![0x11; PAGES * page]);
        assert_eq!(arena.stats().store_bytes, (FRAMES * page) as u64);

        arena[2 * page] = 0x22;
        expect_exhausted(&newest, FRAMES);
        assert!(is_exhausted(&reader.read(&mut part).unwrap_err()));
        assert!(is_exhausted(&reader.read(&mut part[..1]).unwrap_err()));
        arena.fill(0x33);
        assert!(arena.iter().all(|byte| *byte == 0x33));
        expect_bytes(&older, &first);
        assert!(older.is_exact());
        let stats = arena.stats();
        assert_eq!(stats.pages_saved, FRAMES as u64);
        assert_eq!(stats.store_bytes_peak, (FRAMES * page) as u64);
        assert_eq!(stats.faults - stats.soft_faults, FRAMES as u64);
        arena.check_invariants().unwrap();

        drop((newest, reader));
        assert_eq!(arena.stats().store_bytes, (PAGES * page) as u64);
        let next = arena.snapshot().unwrap();
        arena[5 * page] = 0x44;
        expect_bytes(&next, &vec![0x33; PAGES * page]);
        expect_bytes(&older, &first);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

#[test]
fn a_page_that_several_need_fails_them_all() {
    let ended = in_child_on(FAULT, |engine| {
        let page = page_size();
        let (mut arena, first) = limited(on(engine), 6, 2);
        let snapshots = [(); 3].map(|()| arena.snapshot().unwrap());
        arena[0] = 0;
        arena[page] = 0;
        for snapshot in &snapshots {
            expect_bytes(snapshot, &first);
        }
        let live = arena.to_vec();
        let after = arena.snapshot().unwrap();
        arena[2 * page] = 0;
        for snapshot in snapshots.iter().chain([&after]) {
            expect_exhausted(snapshot, 2);
        }
        let [oldest, middle, newest] = snapshots;
        for snapshot in [middle, after, oldest] {
            drop(snapshot);
            expect_exhausted(&newest, 2);
            arena.check_invariants().unwrap();
        }
        assert!(arena[3 * page..] == live[3 * page..]);
        let live = arena.to_vec();
        let next = arena.snapshot().unwrap();
        expect_bytes(&next, &live);
        expect_exhausted(&newest, 2);
        drop(newest);
        arena[4 * page] = 1;
        arena[5 * page] = 1;
        expect_bytes(&next, &live);
        arena[3 * page] = 1;
        expect_exhausted(&next, 2);
        arena.check_invariants().unwrap();
        drop(next);
        assert_eq!(arena.stats().store_bytes, 0);
        assert_eq!(arena.stats().live_snapshots, 0);
    });
    ended.expect_finished();
}

#[test]
fn without_any_frame_nothing_is_exact_once_written() {
    let ended = in_child_on(FAULT, |engine| {
        let (mut arena, first) = limited(on(engine), 3, 0);
        let snapshot = arena.snapshot().unwrap();
        expect_bytes(&snapshot, &first);
        arena[0] = 0;
        expect_exhausted(&snapshot, 0);
        let mut part = arena.writable(page_size()..).unwrap();
        part.fill(9);
        drop(part);
        arena.check_invariants().unwrap();
        drop(snapshot);
        let live = arena.to_vec();
        expect_bytes(&arena.snapshot().unwrap(), &live);
    });
    ended.expect_finished();
}

/// Readers meet the end of the store in the middle of what they read.
#[test]
fn a_reader_in_progress_gets_the_error_and_never_wrong_bytes() {
    let ended = in_child_on(FAULT, |engine| {
        const PAGES: usize = 64;
        let page = page_size();
        let (mut arena, _) = limited(on(engine), PAGES, PAGES / 2);
        let snapshotter = arena.snapshotter();
        let words = arena.atomic_u64();
        let words_per_page = page / 8;
        let (mut failed, mut rounds) = (0, 0);
        while failed < 50 || rounds < 200 {
            rounds += 1;
            let number = rounds as u64;
            for word in words {
                word.store(number, Relaxed);
            }
            let snapshot = snapshotter.snapshot().unwrap();
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let reader = scope.spawn(|| read_until_it_fails(&snapshot, number, &stop));
                // Half the rounds stay within the limit.
                let written = PAGES / 2 + rounds % 2 * 5;
                for index in 0..written {
                    let index = (index * 37 + rounds) % PAGES;
                    words[index * words_per_page + index % 8].store(u64::MAX, Relaxed);
                }
                stop.store(true, Relaxed);
                let has_failed = reader.join().unwrap();
                assert_eq!(has_failed, rounds % 2 == 1);
                failed += usize::from(has_failed);
            });
        }
        arena.check_invariants().unwrap();
        assert_eq!(arena.stats().store_bytes, 0);
    });
    ended.expect_finished();
}

/// Reads all, again and again, and once more after `stop`; all is `number`, or an error.
fn read_until_it_fails(snapshot: &Snapshot, number: u64, stop: &AtomicBool) -> bool {
    loop {
        let last = stop.load(Relaxed);
        let mut bytes = Vec::new();
        let result = snapshot.reader().read_to_end(&mut bytes);
        let (words, rest) = bytes.as_chunks::<8>();
        assert!(words.iter().all(|word| u64::from_ne_bytes(*word) == number));
        match result {
            Err(error) if is_exhausted(&error) => return true,
            result => assert_eq!(result.unwrap(), snapshot.len()),
        }
        assert!(rest.is_empty());
        if last {
            return false;
        }
    }
}

/// Not the power of two above an arena that is a page too large for it.
#[test]
fn address_space_for_copies_stays_within_the_limit() {
    let ended = in_child(|engine| {
        const LIMIT: usize = 1 << 20;
        let pages = (1 << 30) / page_size() + 1;
        // A thread has a stack.
        let builder = page_by_page(engine).store_limit(LIMIT).keeper(false);
        let arena = builder.build(pages * page_size()).unwrap();
        let before = address_space();
        let snapshot = arena.snapshot().unwrap();
        let grown = address_space().saturating_sub(before);
        // And the records of the copies.
        assert!(grown < LIMIT + (1 << 20), "grown by {grown}");
        drop(snapshot);
    });
    ended.expect_finished();
}
