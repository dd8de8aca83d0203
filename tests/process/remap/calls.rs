//! System calls that write into an arena that is frozen or being merged, and descriptors that are
//! closed behind its back.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::{by_hand, slice, unmerged};
use crate::common::{
    Forked, end_of_fork, expect_bytes, expect_child_ended_well, fork, page_size, patterned,
};
use pagecow::{Arena, ArenaBuilder, Snapshot};

pub(super) fn file_of(len: usize, byte: u8) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![byte; len]).unwrap();
    file.rewind().unwrap();
    file
}

/// Bytes of the arena, for a system call.
pub(super) fn part(arena: &Arena, offset: usize, len: usize) -> libc::iovec {
    assert!(offset + len <= arena.len());
    libc::iovec {
        iov_base: arena.as_mut_ptr().wrapping_add(offset).cast(),
        iov_len: len,
    }
}

fn result(of_call: isize) -> io::Result<usize> {
    usize::try_from(of_call).map_err(|_| io::Error::last_os_error())
}

/// preadv(2), from the beginning of a file.
fn preadv(file: &impl AsRawFd, parts: &[libc::iovec]) -> io::Result<usize> {
    let (first, count) = (parts.as_ptr(), parts.len() as i32);
    // SAFETY: parts of an arena, to which nobody has a reference now.
    result(unsafe { libc::preadv(file.as_raw_fd(), first, count, 0) })
}

#[test]
fn calls_arrive_in_an_arena_that_is_frozen() {
    let ended = by_hand(|builder| {
        let page = page_size();
        let (arena, before) = patterned(builder, 20);
        let snapshot = arena.snapshot().unwrap();
        let branch = snapshot.branch().unwrap();
        let mut wanted = before.clone();

        let mut file = file_of(3 * page, 9);
        let into = part(&arena, page - 5, 2 * page + 9);
        // SAFETY: as in `preadv`.
        let read = unsafe { libc::read(file.as_raw_fd(), into.iov_base, into.iov_len) };
        assert_eq!(read as usize, into.iov_len);
        wanted[page - 5..3 * page + 4].fill(9);
        file.rewind().unwrap();

        let parts = [
            part(&arena, 5 * page, 7),
            part(&arena, 7 * page - 1, 2 * page),
        ];
        assert_eq!(preadv(&file, &parts).unwrap(), 2 * page + 7);
        wanted[5 * page..5 * page + 7].fill(9);
        wanted[7 * page - 1..9 * page - 1].fill(9);

        let (sender, receiver) = UnixDatagram::pair().unwrap();
        sender.send(&[8; 1000]).unwrap();
        let into = part(&arena, 11 * page - 500, 1000);
        let socket = receiver.as_raw_fd();
        // SAFETY: as in `preadv`.
        let received = unsafe { libc::recv(socket, into.iov_base, into.iov_len, 0) };
        assert_eq!(received, 1000);
        wanted[11 * page - 500..11 * page + 500].fill(8);

        assert!(arena[..] == wanted);
        assert!(branch[..] == before);
        expect_bytes(&snapshot, &before);
        assert_eq!(arena.stats().faults, 0);
        drop((snapshot, branch));
        assert_eq!(unmerged(&arena), 0);
        assert!(arena[..] == wanted);
    });
    ended.expect_finished();
}

/// A call may be refused or come short, and what it says has arrived has. In the end all is as it
/// was said. `read` reads a file from its beginning into this part of the arena.
pub(super) fn beside_merging(
    builder: ArenaBuilder,
    mut read: impl FnMut(&Arena, usize, usize, &File) -> io::Result<usize>,
) {
    let pages = 3 * slice();
    let (arena, _) = patterned(builder, pages);
    let snapshotter = arena.snapshotter();
    let stop = AtomicBool::new(false);
    // 64 of the last pages are stored to by calls, others so that there is something to merge.
    let stored = (pages - 64) * page_size();
    let len = 64 * page_size();
    let mut refused = 0;
    thread::scope(|scope| {
        let merging = scope.spawn(|| {
            let (start, other) = (arena.as_mut_ptr() as usize, stored);
            let mut rounds = 0;
            while !stop.load(Relaxed) {
                let snapshot = snapshotter.snapshot().unwrap();
                for offset in (0..other).step_by(16 * page_size()) {
                    let byte = (start + offset) as *mut u8;
                    // SAFETY: inside the arena, where nothing else is stored.
                    unsafe { byte.write_volatile(rounds as u8) };
                }
                drop(snapshot);
                snapshotter.tend(std::time::Duration::MAX).unwrap();
                rounds += 1;
            }
            rounds
        });
        for round in 0..4000 {
            let byte = (round % 250) as u8;
            let file = file_of(len, byte);
            let read = match read(&arena, stored, len, &file) {
                Ok(read) => read,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
                    0
                }
            };
            refused += usize::from(read < len);
            assert!(
                arena[stored..stored + read]
                    .iter()
                    .all(|found| *found == byte)
            );
        }
        stop.store(true, Relaxed);
        let rounds = merging.join().unwrap();
        println!("{rounds} merges, {refused} calls that came short");
        assert!(rounds > 0);
    });
    assert_eq!(unmerged(&arena), 0);
}

#[test]
fn calls_beside_merging_arrive_or_are_refused() {
    let ended = by_hand(|builder| {
        beside_merging(builder, |arena, offset, len, file| {
            preadv(file, &[part(arena, offset, len)])
        });
    });
    ended.expect_finished();
}

/// Numbers of open descriptors but for the standard ones.
fn descriptors() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    numbers
        .map(|number| number.parse().unwrap())
        .filter(|number| *number > 2)
        .collect()
}

fn close_all() {
    for number in descriptors() {
        // SAFETY: nothing of Rust's owns it here.
        unsafe { libc::close(number) };
    }
}

fn touched(snapshot: &Snapshot) -> usize {
    let mut count = 0;
    let mut next = 0;
    while let Some(pages) = snapshot.next_touched(next) {
        count += pages.len();
        next = pages.end;
    }
    count
}

/// Holes are not known then, and everything else is as ever.
#[test]
fn descriptors_closed_by_the_program() {
    let ended = by_hand(|builder| {
        let pages = 12 * slice();
        let page = page_size();
        let mut arena = builder.build(pages * page).unwrap();
        arena[700 * page] = 1;
        let known = arena.snapshot().unwrap();
        assert!(touched(&known) < pages / 2);
        close_all();
        let (reuse, _other) = io::pipe().unwrap();
        assert_eq!(touched(&known), pages);
        arena[701 * page] = 2;
        let mut wanted = vec![0; arena.len()];
        wanted[700 * page] = 1;
        expect_bytes(&known, &wanted);
        let mut branch = known.branch().unwrap();
        branch[0] = 3;
        drop(known);
        assert_eq!(
            (branch[0], branch[700 * page], branch[701 * page]),
            (3, 1, 0)
        );
        drop(branch);
        assert_eq!(unmerged(&arena), 0);
        // The number is someone else's by now, and stays it.
        drop(arena);
        drop(reuse.try_clone().unwrap());
    });
    ended.expect_finished();
}

/// Whether a child is gone is not known then, so that nothing is merged any more; snapshots are
/// right all the same.
#[test]
fn a_childs_mark_closed_by_the_program() {
    let ended = by_hand(|builder| {
        let (mut arena, before) = patterned(builder, 2 * slice());
        let (mut told, mut tell) = io::pipe().unwrap();
        let keep: [i32; 2] = [told.as_raw_fd(), tell.as_raw_fd()];
        let child = match fork() {
            Forked::Child => end_of_fork(|| {
                told.read_exact(&mut [0]).unwrap();
                assert!(arena[..] == before);
            }),
            Forked::Parent(child) => child,
        };
        for number in descriptors() {
            if !keep.contains(&number) {
                // SAFETY: nothing of Rust's owns it here.
                unsafe { libc::close(number) };
            }
        }
        let others: Vec<OwnedFd> = (0..4)
            .map(|_| File::open("/dev/null").unwrap().into())
            .collect();
        for round in 1..4 {
            let was = arena.to_vec();
            let snapshot = arena.snapshot().unwrap();
            arena.fill(round);
            expect_bytes(&snapshot, &was);
            drop(snapshot);
            assert!(unmerged(&arena) > 0);
        }
        tell.write_all(&[0]).unwrap();
        expect_child_ended_well(child);
        assert!(arena.iter().all(|byte| *byte == 3));
        for other in others {
            assert!(File::from(other).metadata().is_ok());
        }
    });
    ended.expect_finished();
}
