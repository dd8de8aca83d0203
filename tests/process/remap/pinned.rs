//! Pages that somebody besides the page tables has: rings of io_uring, and pipes.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};

use super::calls::{beside_merging, file_of, part};
use super::{by_hand, unmerged};
use crate::common::{expect_bytes, page_size, patterned};

/// `None` where the system has none, or refuses it.
fn ring() -> Option<IoUring> {
    match IoUring::new(2) {
        Ok(ring) => Some(ring),
        Err(error) => {
            println!("skipped: io_uring: {error}");
            None
        }
    }
}

/// Has a ring do it, and waits for the end.
fn act(ring: &mut IoUring, entry: &Entry) -> io::Result<usize> {
    // SAFETY: parts of an arena, to which nobody has a reference until this returns.
    unsafe { ring.submission().push(entry) }.unwrap();
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().unwrap().result();
    usize::try_from(done).map_err(|_| io::Error::from_raw_os_error(-done))
}

fn read(ring: &mut IoUring, file: &File, into: libc::iovec) -> io::Result<usize> {
    let file = types::Fd(file.as_raw_fd());
    let entry = opcode::Read::new(file, into.iov_base.cast(), into.iov_len as u32);
    act(ring, &entry.build())
}

#[test]
fn what_a_ring_reads_arrives_in_an_arena_that_is_frozen() {
    let ended = by_hand(|builder| {
        let Some(mut ring) = ring() else { return };
        let page = page_size();
        let (arena, before) = patterned(builder, 8);
        let snapshot = arena.snapshot().unwrap();
        let file = file_of(3 * page, 9);
        let into = part(&arena, 2 * page - 5, 2 * page + 9);
        let len = into.iov_len;
        assert_eq!(read(&mut ring, &file, into).unwrap(), len);
        let mut wanted = before.clone();
        wanted[2 * page - 5..4 * page + 4].fill(9);
        assert!(arena[..] == wanted);
        expect_bytes(&snapshot, &before);
        drop(snapshot);
        assert_eq!(unmerged(&arena), 0);
        assert!(arena[..] == wanted);
    });
    ended.expect_finished();
}

#[test]
fn what_a_ring_reads_beside_merging_arrives_or_is_refused() {
    let ended = by_hand(|builder| {
        let Some(mut ring) = ring() else { return };
        beside_merging(builder, |arena, offset, len, file| {
            read(&mut ring, file, part(arena, offset, len))
        });
    });
    ended.expect_finished();
}

/// As README says under "Limits".
#[test]
fn a_registered_buffer_stays_with_what_is_frozen() {
    let ended = by_hand(|builder| {
        let Some(mut ring) = ring() else { return };
        let page = page_size();
        let (mut arena, before) = patterned(builder, 8);
        let all = part(&arena, 0, 8 * page);
        // SAFETY: the arena outlives the ring.
        let registered = unsafe { ring.submitter().register_buffers(&[all]) };
        if let Err(error) = registered {
            println!("skipped: registered buffers: {error}");
            return;
        }
        let snapshot = arena.snapshot().unwrap();
        arena[3 * page] = 0xee;
        let file = file_of(page, 9);
        for index in [3, 5] {
            let into = part(&arena, index * page, page);
            let file = types::Fd(file.as_raw_fd());
            let entry = opcode::ReadFixed::new(file, into.iov_base.cast(), page as u32, 0);
            assert_eq!(act(&mut ring, &entry.build()).unwrap(), page);
        }
        let mut frozen = before.clone();
        frozen[3 * page..4 * page].fill(9);
        frozen[5 * page..6 * page].fill(9);
        expect_bytes(&snapshot, &frozen);
        // Where nothing was stored since, the arena still has the frozen page.
        let mut live = before;
        live[3 * page] = 0xee;
        live[5 * page..6 * page].fill(9);
        assert!(arena[..] == live);
        drop(snapshot);
        assert_eq!(unmerged(&arena), 0);
        assert!(arena[..] == live);
    });
    ended.expect_finished();
}

/// Puts the pages themselves into a pipe.
fn splice(bytes: libc::iovec, into: &PipeWriter) {
    let len = bytes.iov_len;
    // SAFETY: bytes that stay where they are; the kernel only reads them.
    let spliced = unsafe { libc::vmsplice(into.as_raw_fd(), &raw const bytes, 1, 0) };
    assert_eq!(spliced, len as isize, "{}", io::Error::last_os_error());
}

fn expect_in_pipe(mut pipe: &PipeReader, wanted: &[u8]) {
    let mut found = vec![0; wanted.len()];
    pipe.read_exact(&mut found).unwrap();
    assert!(found == wanted);
}

#[test]
fn pages_in_a_pipe_are_those_of_their_time() {
    let ended = by_hand(|builder| {
        let page = page_size();
        let (mut arena, before) = patterned(builder, 8);
        let (from, to) = io::pipe().unwrap();
        let bytes_of = |index: usize| index * page..(index + 1) * page;

        // The file's page, which is frozen: a store makes another one.
        splice(part(&arena, 2 * page, page), &to);
        let snapshot = arena.snapshot().unwrap();
        let branch = snapshot.branch().unwrap();
        arena[bytes_of(2)].fill(0x22);
        expect_in_pipe(&from, &before[bytes_of(2)]);

        // The frozen page, by the snapshot.
        let view = snapshot.view().unwrap();
        let frozen = libc::iovec {
            iov_base: view[bytes_of(4)].as_ptr().cast_mut().cast(),
            iov_len: page,
        };
        splice(frozen, &to);
        arena[bytes_of(4)].fill(0x44);
        expect_in_pipe(&from, &before[bytes_of(4)]);
        expect_bytes(&snapshot, &before);
        assert!(branch[..] == before);

        // A copy, which is not the arena's any more once it is merged.
        splice(part(&arena, 4 * page, page), &to);
        drop((snapshot, branch, view));
        assert_eq!(unmerged(&arena), 0);
        arena[bytes_of(4)].fill(0x55);
        expect_in_pipe(&from, &vec![0x44; page]);
        let mut live = before;
        live[bytes_of(2)].fill(0x22);
        live[bytes_of(4)].fill(0x55);
        assert!(arena[..] == live);
    });
    ended.expect_finished();
}
