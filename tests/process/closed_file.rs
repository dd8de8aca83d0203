//! The program closes the file of memory that is remapped, and opens one of its own by that number.

#![allow(unsafe_code, reason = "closes a descriptor that is not its own")]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::common::{bytes_of, expect_bytes, in_child_on, on, patterned};
use pagecow::Engine;

/// More than the arenas that keep no descriptor.
const PAGES: usize = 2048;

/// Closes the descriptors of files in memory; returns their numbers.
fn close_files() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers: Vec<i32> = entries
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let is_one = target.to_string_lossy().contains("memfd:pagecow");
            is_one.then(|| entry.file_name().to_string_lossy().parse().unwrap())
        })
        .collect();
    for number in &numbers {
        // SAFETY: a program that closes all descriptors that it does not know does the same.
        drop(unsafe { OwnedFd::from_raw_fd(*number) });
    }
    numbers
}

#[test]
fn a_file_that_has_its_number_is_left_alone_and_no_byte_is_wrong() {
    let ended = in_child_on(&[Engine::Remap], |engine| {
        let (mut arena, before) = patterned(on(engine), PAGES);
        let mut own = tempfile::tempfile().unwrap();
        own.write_all(&before).unwrap();
        own.seek(std::io::SeekFrom::Start(3)).unwrap();
        let closed = close_files();
        assert_eq!(closed.len(), 1);
        // SAFETY: duplicates a descriptor of its own.
        let number = unsafe { libc::dup2(own.as_raw_fd(), closed[0]) };
        assert_eq!(number, closed[0]);

        let snapshot = arena.snapshot().unwrap();
        arena.fill(0);
        expect_bytes(&snapshot, &before);
        let mut read = Vec::new();
        snapshot.reader().read_to_end(&mut read).unwrap();
        assert!(read == before);
        let bytes = |page: Result<pagecow::Page, _>| page.unwrap().bytes().to_vec();
        assert!(snapshot.pages().flat_map(bytes).eq(before.iter().copied()));
        assert!(snapshot.to_arena().unwrap()[..] == before);
        assert!(bytes_of(&snapshot) == before);
        drop(snapshot);
        drop(arena);

        // Both numbers are of one open file.
        assert_eq!(own.stream_position().unwrap(), 3);
        // SAFETY: the duplicate, which nobody has closed.
        let duplicate = unsafe { File::from_raw_fd(number) };
        assert!(duplicate.metadata().is_ok(), "closed with the arena");
    });
    ended.expect_finished();
}
