//! Arenas of which little was ever touched: the rest is zeros, and is not looked at.

#![allow(unsafe_code, reason = "ends the first thread of a process alone")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use crate::common::mappings::{forbid_huge_pages, page_tables, resident};
use crate::common::{
    FAULT, Forked, end_of_fork, expect_child_ended_well, for_each_engine, for_each_fault_engine,
    fork, in_child, in_child_on, on, page_by_page, page_size,
};
use pagecow::{Arena, Error, Page, Snapshot};

/// All frozen bytes, read in pieces of `piece` bytes.
fn stream(snapshot: &Snapshot, piece: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; snapshot.len()];
    let mut reader = snapshot.reader();
    for piece in bytes.chunks_mut(piece) {
        reader.read_exact(piece).unwrap();
    }
    assert_eq!(reader.read(&mut [0; 10_000]).unwrap(), 0);
    bytes
}

/// A file has the frozen bytes, whether it is written at once or in pieces.
#[track_caller]
fn expect_saved(snapshot: &Snapshot, wanted: &[u8], mut file: &File) {
    for piece in [99 * page_size() + 1, wanted.len()] {
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        for start in (0..snapshot.len()).step_by(piece) {
            let end = snapshot.len().min(start + piece);
            snapshot.copy_range_to(start..end, file).unwrap();
        }
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == wanted, "in pieces of {piece}");
    }
}

/// All runs that may hold something, as pages.
fn touched(snapshot: &Snapshot) -> BTreeSet<usize> {
    let mut pages = BTreeSet::new();
    let mut next = 0;
    while let Some(run) = snapshot.next_touched(next) {
        assert!(next <= run.start && run.start < run.end && run.end <= snapshot.page_count());
        next = run.end;
        pages.extend(run);
    }
    pages
}

#[track_caller]
fn expect_everywhere(snapshot: &Snapshot, wanted: &[u8]) {
    expect_saved(snapshot, wanted, &tempfile::tempfile().unwrap());
    expect_read(snapshot, wanted);
}

#[track_caller]
fn expect_read(snapshot: &Snapshot, wanted: &[u8]) {
    let page = page_size();
    for piece in [page / 2 + 1, 8192, 5 * page + 3, wanted.len()] {
        assert!(stream(snapshot, piece) == wanted, "in pieces of {piece}");
    }
    for (number, frozen) in snapshot.pages().enumerate() {
        let frozen = frozen.unwrap();
        assert_eq!(frozen.index(), number);
        assert!(
            frozen.bytes() == &wanted[number * page..][..page],
            "page {number}"
        );
    }
    // What is left out is zeros.
    let mut bytes = vec![0; wanted.len()];
    let named: Vec<Page> = snapshot.touched_pages().map(Result::unwrap).collect();
    assert!(named.is_sorted_by(|a, b| a.index() < b.index()));
    for frozen in &named {
        bytes[frozen.index() * page..][..page].copy_from_slice(frozen.bytes());
    }
    assert!(bytes == wanted);
    let named: BTreeSet<usize> = named.iter().map(Page::index).collect();
    assert_eq!(named, touched(snapshot));
}

/// Against vectors: pages written before, between and after snapshots, alone, in rows and side by
/// side.
#[test]
fn every_way_to_read_gives_the_same_bytes() {
    for_each_engine(|engine| {
        for builder in [on(engine), page_by_page(engine)] {
            const PAGES: usize = 4500;
            let page = page_size();
            let mut arena = builder.build(PAGES * page).unwrap();
            let mut random = 1u64;
            let mut snapshots: Vec<(Snapshot, Vec<u8>)> = Vec::new();
            for round in 1..=3u8 {
                for _ in 0..12 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let at = (random >> 33) as usize % PAGES;
                    let count = 1 + (random >> 55) as usize % 3 * 40;
                    for touched in at..(at + count).min(PAGES) {
                        arena[touched * page + at % page] = round;
                    }
                }
                let snapshot = arena.snapshot().unwrap();
                snapshots.push((snapshot, arena.to_vec()));
                for (snapshot, wanted) in &snapshots {
                    expect_everywhere(snapshot, wanted);
                }
            }
        }
    });
}

/// Nothing but what was written and what lies near it is named.
#[test]
fn what_lies_far_from_all_that_was_written_is_left_out() {
    let ended = in_child(|engine| {
        forbid_huge_pages();
        let page = page_size();
        // What userfaultfd splits.
        let block = page / 8;
        let mut arena = page_by_page(engine).build(64 * block * page).unwrap();
        let written = [10 * block + 7, 20 * block, 20 * block + 1, 64 * block - 1];
        arena[written[0] * page] = 1;
        let snapshot = arena.snapshot().unwrap();
        for at in written {
            arena[at * page] = 2;
        }
        let named = touched(&snapshot);
        for at in written {
            assert!(named.contains(&at), "page {at}");
        }
        let near: BTreeSet<usize> = [0, 10, 20, 63].into();
        assert!(named.iter().all(|at| near.contains(&(at / block))));
        let next = *named.range(block..).next().unwrap();
        assert_eq!(snapshot.next_touched(block).unwrap().start, next);
        assert_eq!(snapshot.next_touched(arena.page_count()), None);
        assert_eq!(snapshot.next_touched(usize::MAX), None);
        let frozen: Vec<usize> = snapshot
            .touched_pages()
            .map(Result::unwrap)
            .filter(|page| page.bytes().iter().any(|byte| *byte != 0))
            .map(|page| page.index())
            .collect();
        assert_eq!(frozen, written[..1]);
    });
    ended.expect_finished();
}

/// Reading what was never touched makes nothing resident, and takes no page tables.
#[test]
fn a_stream_of_sixteen_gigabytes_with_one_megabyte_in_use() {
    let ended = in_child(|engine| {
        forbid_huge_pages();
        const LEN: usize = 16 << 30;
        const USED: std::ops::Range<usize> = LEN / 2 + 5..LEN / 2 + 5 + (1 << 20);
        let mut arena = on(engine).build(LEN).unwrap();
        arena[USED].fill(7);
        let snapshot = arena.snapshot().unwrap();
        arena[USED].fill(8);
        let zeros = vec![0; 4 << 20];
        let mut piece = vec![1; zeros.len()];
        let (resident_before, tables) = (resident(), page_tables());
        let mut reader = snapshot.reader();
        let mut found = 0;
        for _ in 0..LEN / piece.len() {
            reader.read_exact(&mut piece).unwrap();
            if piece != zeros {
                assert!(piece.iter().all(|byte| [0, 7].contains(byte)));
                found += piece.iter().filter(|byte| **byte == 7).count();
            }
        }
        assert_eq!(found, USED.len());
        let named = snapshot.touched_pages().count();
        assert!(named < 2000, "{named} pages");
        let tables = page_tables().saturating_sub(tables);
        assert!(tables < 1 << 20, "page tables grown by {tables}");
        let grown = resident().saturating_sub(resident_before);
        assert!(grown < 8 << 20, "grown by {grown}");
    });
    ended.expect_finished();
}

/// What a reader has looked up stays true in the child of a fork, and in the parent. Each looks at
/// its own memory after that.
#[test]
fn readers_around_a_fork() {
    let ended = in_child(|engine| {
        let page = page_size();
        const PAGES: usize = 3000;
        let mut arena = on(engine).build(PAGES * page).unwrap();
        arena[100 * page] = 1;
        let snapshot = arena.snapshot().unwrap();
        let wanted = arena.to_vec();
        let mut reader = snapshot.reader();
        reader.read_exact(&mut vec![0; 10 * page]).unwrap();
        let write = |arena: &mut Arena, value: u8| {
            for at in (0..PAGES).step_by(50) {
                arena[at * page] = value;
            }
        };
        let mut check = |arena: &mut Arena, value: u8| {
            write(arena, value);
            let mut bytes = Vec::new();
            reader.seek(SeekFrom::Start(0)).unwrap();
            reader.read_to_end(&mut bytes).unwrap();
            assert!(bytes == wanted);
            expect_everywhere(&snapshot, &wanted);
            let later = arena.snapshot().unwrap();
            expect_everywhere(&later, arena);
        };
        match fork() {
            Forked::Child => end_of_fork(|| check(&mut arena, 2)),
            Forked::Parent(child) => {
                check(&mut arena, 3);
                expect_child_ended_well(child);
            }
        }
        check(&mut arena, 4);
    });
    ended.expect_finished();
}

/// No descriptor is left for looking at what was touched: then everything counts.
#[test]
fn with_no_file_descriptor_left() {
    let ended = in_child(|engine| {
        let page = page_size();
        const PAGES: usize = 5000;
        let mut arena = on(engine).build(PAGES * page).unwrap();
        arena[100 * page] = 1;
        let saved = tempfile::tempfile().unwrap();
        let mut open = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            open.push(file);
        }
        let snapshot = arena.snapshot().unwrap();
        let wanted = arena.to_vec();
        arena[4000 * page] = 2;
        expect_saved(&snapshot, &wanted, &saved);
        expect_read(&snapshot, &wanted);
        assert_eq!(touched(&snapshot).len(), PAGES);
        drop(open);
        expect_everywhere(&snapshot, &wanted);
    });
    ended.expect_finished();
}

/// A snapshot that has failed says so for pages that were never touched, too.
#[test]
fn untouched_pages_of_a_failed_snapshot() {
    for_each_fault_engine(|engine| {
        const FRAMES: usize = 4;
        let page = page_size();
        let builder = page_by_page(engine).store_limit(FRAMES * page);
        let mut arena = builder.build(3000 * page).unwrap();
        let snapshot = arena.snapshot().unwrap();
        let mut reader = snapshot.reader();
        reader.read_exact(&mut vec![0; 2 * page]).unwrap();
        for at in 0..=FRAMES {
            arena[at * page] = 1;
        }
        reader.seek(SeekFrom::Start(2000 * page as u64)).unwrap();
        let error = reader.read(&mut vec![0; page]).unwrap_err();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        assert!(
            matches!(inner, Some(Error::StoreExhausted { .. })),
            "{error}"
        );
        assert!(reader.read(&mut [0; 10]).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(snapshot.copy_range_to(2000 * page.., &file).is_err());
        for mut pages in [snapshot.pages(), snapshot.touched_pages()] {
            assert!(matches!(
                pages.next(),
                Some(Err(Error::StoreExhausted { .. }))
            ));
            assert!(pages.next().is_none());
        }
    });
}

/// The process's own page map is its first thread's, which has ended.
#[test]
fn with_the_first_thread_gone() {
    let ended = in_child(|engine| {
        let child = match fork() {
            Forked::Child => {
                std::thread::spawn(move || {
                    end_of_fork(|| {
                        let mut arena = page_by_page(engine).build(256 << 20).unwrap();
                        arena[0] = 1;
                        let snapshot = arena.snapshot().unwrap();
                        assert!(snapshot.touched_pages().count() < 1024);
                    });
                });
                // SAFETY: ends this thread alone, whose stack no other thread uses.
                unsafe { libc::syscall(libc::SYS_exit, 0) };
                unreachable!();
            }
            Forked::Parent(child) => child,
        };
        expect_child_ended_well(child);
    });
    ended.expect_finished();
}

/// A stream makes frames ready, some at a time. A single read makes none ready.
#[test]
fn a_single_read_readies_no_frames() {
    let ended = in_child_on(FAULT, |engine| {
        forbid_huge_pages();
        const PAGES: usize = 4096;
        let page = page_size();
        let mut arena = page_by_page(engine)
            .keeper(false)
            .build(PAGES * page)
            .unwrap();
        arena.fill(1);
        let snapshot = arena.snapshot().unwrap();
        // Uses up what was made ready.
        for at in 0..1000 {
            arena[(2000 + at) * page] = 2;
        }
        let mut bytes = vec![0; 16 * page];
        let grown = |act: &mut dyn FnMut()| {
            let before = resident();
            act();
            resident().saturating_sub(before) / page
        };
        // Whatever the first time takes.
        grown(&mut || snapshot.read_at(page, &mut bytes[..8]).unwrap());
        for at in [0, 64, 128] {
            let single = grown(&mut || {
                snapshot.read_at(at * page, &mut bytes[..8]).unwrap();
                drop(snapshot.page(at).unwrap());
            });
            assert!(single < 16, "{single} pages for one read of page {at}");
        }
        let mut reader = snapshot.reader();
        grown(&mut || reader.read_exact(&mut bytes).unwrap());
        let stream = grown(&mut || {
            for _ in 0..4 {
                reader.read_exact(&mut bytes).unwrap();
            }
        });
        assert!((64..160).contains(&stream), "{stream} pages beside 64");
        let pages = grown(&mut || assert_eq!(snapshot.pages().take(64).count(), 64));
        // The pages themselves are on the heap.
        assert!((64..320).contains(&pages), "{pages} pages beside 64");
    });
    ended.expect_finished();
}
