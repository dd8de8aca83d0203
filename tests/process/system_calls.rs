//! System calls that write into an arena: refused by the kernel without `writable`, not with it.

#![allow(unsafe_code, reason = "read(2) into memory that may be armed")]

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;

use crate::common::{
    FAULT, Trail, bytes_of, expect_bytes, in_child, in_child_on, on, page_by_page, page_size,
    pattern, patterned,
};
use pagecow::{Arena, Error};

/// read(2), as a program that knows nothing of armed pages would call it.
fn plain_read(
    source: &impl AsRawFd,
    arena: &Arena,
    offset: usize,
    len: usize,
) -> io::Result<usize> {
    assert!(offset + len <= arena.len());
    let into = arena.as_mut_ptr().wrapping_add(offset);
    // SAFETY: inside the arena, to which nobody has a reference now.
    let read = unsafe { libc::read(source.as_raw_fd(), into.cast(), len) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

fn file_of(len: usize, byte: u8) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![byte; len]).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn a_read_into_an_armed_page_is_refused_and_raises_no_signal() {
    let ended = in_child_on(FAULT, |engine| {
        let (arena, before) = patterned(on(engine), 8);
        let snapshot = arena.snapshot().unwrap();
        let file = file_of(page_size(), 9);
        let refused = plain_read(&file, &arena, 0, page_size()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));

        let (pipe, mut sink) = io::pipe().unwrap();
        sink.write_all(&[9; 100]).unwrap();
        let refused = plain_read(&pipe, &arena, 0, 100).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));

        assert_eq!(arena.stats().faults, 0);
        assert!(arena[..] == before);
        expect_bytes(&snapshot, &before);
    });
    ended.expect_finished();
}

#[test]
fn a_read_across_the_border_of_armed_memory_is_short() {
    let ended = in_child_on(FAULT, |engine| {
        let page = page_size();
        let (mut arena, before) = patterned(page_by_page(engine), 4);
        let snapshot = arena.snapshot().unwrap();
        arena[page] = before[page];
        let file = file_of(3 * page, 9);
        let read = plain_read(&file, &arena, page + 10, 2 * page).unwrap();
        assert_eq!(read, page - 10);
        assert!(arena[2 * page..] == before[2 * page..]);
        expect_bytes(&snapshot, &before);
    });
    ended.expect_finished();
}

#[test]
fn a_read_through_a_guard_arrives_whole() {
    let ended = in_child(|engine| {
        let page = page_size();
        let (mut arena, before) = patterned(page_by_page(engine), 8);
        let snapshot = arena.snapshot().unwrap();
        let (from, to) = (page - 5, 5 * page + 7);
        let mut file = file_of(8 * page, 9);
        let mut part = arena.writable(from..to).unwrap();
        // One system call, as `File` makes it.
        assert_eq!(file.read(&mut part).unwrap(), to - from);
        drop(part);
        let (pipe, mut sink) = io::pipe().unwrap();
        sink.write_all(&[8; 3]).unwrap();
        drop(sink);
        assert_eq!(arena.read_from(6 * page - 1..7 * page, pipe).unwrap(), 3);

        let mut after = before.clone();
        after[from..to].fill(9);
        after[6 * page - 1..6 * page + 2].fill(8);
        assert!(arena[..] == after);
        expect_bytes(&snapshot, &before);
        let stats = arena.stats();
        assert_eq!(
            (stats.faults, stats.pages_saved, stats.pages_saved_ahead),
            (0, 7, 0)
        );
        let later = arena.snapshot().unwrap();
        let written = 0..7;
        assert_eq!(later.changed_since(&snapshot).unwrap(), [written]);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

#[test]
fn no_snapshot_commits_within_a_guard() {
    let ended = in_child(|engine| {
        let page = page_size();
        let (mut arena, before) = patterned(on(engine), 2);
        let (mut other, _) = patterned(on(engine), 2);
        let snapshotter = arena.snapshotter();
        let part = arena.writable(0..page).unwrap();
        // Waiting for its own guard would be for ever; so would it be for two guards crosswise.
        let refused = snapshotter.snapshot();
        assert!(matches!(refused, Err(Error::GuardHeld)), "{refused:?}");
        let refused = other.snapshot();
        assert!(matches!(refused, Err(Error::GuardHeld)), "{refused:?}");
        let second = other.writable(..).unwrap();
        drop(part);
        let refused = snapshotter.snapshot();
        assert!(matches!(refused, Err(Error::GuardHeld)), "{refused:?}");
        drop(second);
        expect_bytes(&snapshotter.snapshot().unwrap(), &before);
        // No bytes are no guard.
        let nothing = arena.writable(5..5).unwrap();
        snapshotter.snapshot().unwrap();
        drop(nothing);
        let end = arena.len();
        for outside in [0..end + 1, end + 1..end, usize::MAX..usize::MAX] {
            let refused = arena.writable(outside);
            assert!(
                matches!(refused, Err(Error::OutOfBounds { .. })),
                "{refused:?}"
            );
        }
    });
    ended.expect_finished();
}

/// Each filling is of one byte value, so each snapshot must be.
#[test]
fn fillings_and_snapshots_in_a_loop() {
    let ended = in_child(|engine| {
        const ROUNDS: usize = 300;
        let mut arena = on(engine).build(64 * page_size()).unwrap();
        let len = arena.len();
        let snapshotter = arena.snapshotter();
        let taken = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let taker = scope.spawn(|| {
                let mut kept = Vec::new();
                while !stop.load(Relaxed) {
                    let snapshot = snapshotter.snapshot().unwrap();
                    let bytes = bytes_of(&snapshot);
                    assert!(
                        bytes.iter().all(|byte| *byte == bytes[0]),
                        "two fillings at once"
                    );
                    kept.push((snapshot, bytes[0]));
                    taken.fetch_add(1, Relaxed);
                    if kept.len() > 4 {
                        let (snapshot, was) = kept.swap_remove(usize::from(bytes[0]) % 4);
                        assert!(bytes_of(&snapshot).iter().all(|byte| *byte == was));
                    }
                }
            });
            let mut refused = 0;
            let mut round = 0;
            while round < ROUNDS || taken.load(Relaxed) < ROUNDS || refused == 0 {
                round += 1;
                let byte = (round % 251) as u8;
                let mut file = file_of(len, byte);
                // May succeed between two snapshots; writes what is there already.
                let same = file_of(100, arena[0]);
                match plain_read(&same, &arena, 0, 100) {
                    Ok(read) => assert_eq!(read, 100),
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
                        refused += 1;
                    }
                }
                if round % 2 == 0 {
                    let mut part = arena.writable(..).unwrap();
                    file.read_exact(&mut part).unwrap();
                } else {
                    assert_eq!(arena.read_from(.., file).unwrap(), len);
                }
                assert!(arena.iter().all(|found| *found == byte));
            }
            stop.store(true, Relaxed);
            taker.join().unwrap();
        });
        arena.check_invariants().unwrap();
        assert_eq!(arena.stats().live_snapshots, 0);
    });
    ended.expect_finished();
}

/// What a source says before and after some bytes.
struct Broken(Cursor<Vec<u8>>, Vec<io::ErrorKind>);

impl Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.1.first() == Some(&io::ErrorKind::Interrupted) {
            return Err(self.1.remove(0).into());
        }
        match self.0.read(buf)? {
            0 if !self.1.is_empty() => Err(self.1.remove(0).into()),
            read => Ok(read),
        }
    }
}

#[test]
fn a_source_that_breaks_leaves_what_arrived_and_no_guard() {
    let ended = in_child(|engine| {
        let (mut arena, before) = patterned(on(engine), 2);
        let kinds = vec![io::ErrorKind::Interrupted, io::ErrorKind::BrokenPipe];
        let source = Broken(Cursor::new(vec![9; 10]), kinds);
        let error = arena.read_from(3..100, source).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let mut after = before.clone();
        after[3..13].fill(9);
        expect_bytes(&arena.snapshot().unwrap(), &after);
        let end = arena.len();
        let error = arena.read_from(..end + 1, io::empty()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
    ended.expect_finished();
}

#[test]
fn after_the_last_snapshot_open_all_lets_reads_arrive() {
    let ended = in_child_on(FAULT, |engine| {
        const PAGES: usize = 1024;
        let page = page_size();
        // The upper half is never touched before it is armed.
        let mut arena = page_by_page(engine).build(PAGES * page).unwrap();
        let before = pattern(PAGES / 2);
        arena[..before.len()].copy_from_slice(&before);
        let snapshot = arena.snapshot().unwrap();
        let kept = snapshot.page(3).unwrap();
        arena[page] ^= 0xff;
        let refused = |arena: &Arena, offset| {
            let file = file_of(2 * page, 9);
            let refused = plain_read(&file, arena, offset, 2 * page).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
        };
        refused(&arena, 2 * page);

        // While a snapshot lives it does nothing; a page that owns its bytes keeps none alive.
        assert!(!arena.open_all().unwrap());
        refused(&arena, 2 * page);
        assert_eq!(bytes_of(&snapshot)[..before.len()], before);
        drop(snapshot);
        refused(&arena, 2 * page);
        refused(&arena, (PAGES - 2) * page);

        let faults = arena.stats().faults;
        assert!(arena.open_all().unwrap());
        arena.check_invariants().unwrap();
        for offset in [2 * page, (PAGES - 2) * page] {
            let file = file_of(2 * page, 9);
            assert_eq!(
                plain_read(&file, &arena, offset, 2 * page).unwrap(),
                2 * page
            );
            assert_eq!(arena[offset..offset + 2 * page], vec![9; 2 * page]);
        }
        assert_eq!(kept.bytes(), &before[3 * page..4 * page]);
        arena.fill(5);
        assert_eq!(arena.stats().faults, faults, "a fault in an open arena");
        assert!(arena.open_all().unwrap());

        // A further snapshot knows that everything is open.
        let later = arena.snapshot().unwrap();
        let wanted = arena.to_vec();
        refused(&arena, 2 * page);
        for page_index in [0, 2, PAGES / 2, PAGES - 1] {
            arena[page_index * page] = 6;
        }
        expect_bytes(&later, &wanted);
        assert_eq!(arena.stats().faults, faults + 4);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// A datagram that arrives for an armed page is gone, as with any address that the kernel may not
/// write to.
#[test]
fn a_datagram_for_an_armed_page_is_lost_and_one_for_an_open_arena_is_not() {
    let ended = in_child_on(FAULT, |engine| {
        let (arena, _) = patterned(on(engine), 4);
        drop(arena.snapshot().unwrap());
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        sender.send(&[9; 100]).unwrap();
        let refused = plain_read(&receiver, &arena, 0, 100).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
        assert!(arena.open_all().unwrap());
        sender.send(&[8; 100]).unwrap();
        assert_eq!(plain_read(&receiver, &arena, 0, 100).unwrap(), 100);
        assert_eq!(arena[..100], [8; 100]);
    });
    ended.expect_finished();
}

/// Threads that store, take snapshots and drop them, and open the arena whenever it is let.
#[test]
fn opening_beside_stores_and_snapshots() {
    let ended = in_child(|engine| {
        const ROUNDS: usize = 200;
        let arena = on(engine).build(64 * page_size()).unwrap();
        let snapshotter = arena.snapshotter();
        // SAFETY: the arena's memory as atomics, for as long as it lives; nobody has a reference to
        // it.
        let words = unsafe {
            std::slice::from_raw_parts(arena.as_ptr().cast::<AtomicU64>(), arena.len() / 8)
        };
        let stop = AtomicBool::new(false);
        let opened = AtomicUsize::new(0);
        thread::scope(|scope| {
            for word in 0..2 {
                let stop = &stop;
                scope.spawn(move || {
                    let mut trail = Trail::new(words, word);
                    while !stop.load(Relaxed) {
                        trail.step();
                    }
                });
            }
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    opened.fetch_add(usize::from(arena.open_all().unwrap()), Relaxed);
                }
            });
            let mut round = 0;
            while round < ROUNDS || opened.load(Relaxed) < 20 {
                round += 1;
                let snapshot = snapshotter.snapshot().unwrap();
                let bytes = bytes_of(&snapshot);
                for word in 0..2 {
                    Trail::steps_in(&bytes, word);
                }
                assert!(bytes_of(&snapshot) == bytes, "a snapshot has changed");
            }
            stop.store(true, Relaxed);
        });
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}
