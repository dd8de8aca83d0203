//! The program closes userfaultfd's descriptor: no snapshot hands out what was written since.

#![allow(unsafe_code, reason = "closes a descriptor that is not its own")]

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::common::{
    Ended, Forked, end_of_fork, expect_bytes, expect_child_ended_well, fork, in_child_on, on,
    page_size, patterned,
};
use pagecow::{Arena, Engine, Error, Snapshot};

/// More than two of the blocks of which untouched ones are protected as a whole.
const PAGES: usize = 2048;
const TOUCHED: usize = 8;

fn on_userfaultfd(scenario: impl FnOnce(Engine)) -> Ended {
    in_child_on(&[Engine::Userfaultfd], scenario)
}

/// The first pages are touched, the others are not.
fn half_touched(engine: Engine) -> (Arena, Vec<u8>) {
    let mut arena = on(engine).build(PAGES * page_size()).unwrap();
    arena[..TOUCHED * page_size()].fill(1);
    // Not read from the arena, which would touch the rest.
    let mut bytes = vec![0; PAGES * page_size()];
    bytes[..TOUCHED * page_size()].fill(1);
    (arena, bytes)
}

/// Closes what userfaultfd descriptors there are; returns their numbers.
fn close_descriptors() -> Vec<i32> {
    let numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let is_one = target.to_string_lossy().contains("userfaultfd");
            is_one.then(|| entry.file_name().to_string_lossy().parse().unwrap())
        })
        .collect();
    assert!(!numbers.is_empty());
    for number in &numbers {
        // SAFETY: a program that closes all descriptors that it does not know does the same.
        drop(unsafe { OwnedFd::from_raw_fd(*number) });
    }
    numbers
}

fn is_lost<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Engine { .. }))
}

#[track_caller]
fn expect_lost(snapshot: &Snapshot) {
    let mut byte = [0];
    assert!(is_lost(snapshot.read_at(0, &mut byte)));
    assert!(is_lost(snapshot.page(TOUCHED - 1)));
    assert!(is_lost(snapshot.pages().next().unwrap()));
    assert!(snapshot.reader().read(&mut byte).is_err());
    let file = tempfile::tempfile().unwrap();
    assert!(snapshot.copy_to(&file).is_err());
    assert!(is_lost(snapshot.changed_since(snapshot)));
    assert!(!snapshot.is_exact() && snapshot.stats().failed);
}

#[test]
fn reads_fail_whether_or_not_a_snapshot_is_asked_for() {
    let ended = on_userfaultfd(|engine| {
        for asked in [false, true] {
            let (mut arena, bytes) = half_touched(engine);
            let snapshot = arena.snapshot().unwrap();
            let mut reader = snapshot.reader();
            let mut begin = vec![0; 100];
            reader.read_exact(&mut begin).unwrap();
            assert!(begin == bytes[..100]);
            close_descriptors();
            arena[..TOUCHED * page_size()].fill(9);
            if asked {
                assert!(is_lost(arena.snapshot()));
                assert!(!snapshot.is_exact());
            }
            // What was read ahead is right; the rest is refused.
            let mut rest = Vec::new();
            assert!(reader.read_to_end(&mut rest).is_err());
            assert!(rest == bytes[100..][..rest.len()]);
            expect_lost(&snapshot);
            assert!(is_lost(arena.snapshot()) && is_lost(arena.prepare()));
        }
    });
    ended.expect_finished();
}

/// They are protected by the mapping, which the descriptor's end leaves as it was.
#[test]
fn stores_to_untouched_blocks_go_on() {
    let ended = on_userfaultfd(|engine| {
        let (mut arena, _) = half_touched(engine);
        let snapshot = arena.snapshot().unwrap();
        close_descriptors();
        arena[(PAGES - 1) * page_size()] = 7;
        assert!(!snapshot.is_exact());
        expect_lost(&snapshot);
        let mut part = arena.writable(..).unwrap();
        part.fill(3);
        drop(part);
        assert!(arena.iter().all(|byte| *byte == 3));
    });
    ended.expect_finished();
}

/// The number is another arena's by then, or some file's.
#[test]
fn a_number_that_is_used_again_is_left_alone() {
    let ended = on_userfaultfd(|engine| {
        let (mut lost, _) = half_touched(engine);
        let snapshot = lost.snapshot().unwrap();
        let numbers = close_descriptors();
        let (mut arena, bytes) = patterned(on(engine), TOUCHED);
        lost[0] = 9;
        expect_lost(&snapshot);
        assert!(is_lost(lost.snapshot()));
        let kept = arena.snapshot().unwrap();
        drop((lost, snapshot));
        arena.fill(0);
        expect_bytes(&kept, &bytes);
        drop((arena, kept));

        let (lost, _) = half_touched(engine);
        assert_eq!(close_descriptors(), numbers);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(file.as_raw_fd(), numbers[0]);
        drop(lost);
        assert!(file.metadata().is_ok());
    });
    ended.expect_finished();
}

/// The child goes on with mprotect, and what its parent lost stays lost.
#[test]
fn a_fork_afterwards() {
    let ended = on_userfaultfd(|engine| {
        let (mut arena, _) = half_touched(engine);
        let snapshot = arena.snapshot().unwrap();
        close_descriptors();
        arena[0] = 9;
        let child = match fork() {
            Forked::Child => end_of_fork(|| {
                let mut byte = [0];
                assert!(snapshot.read_at(0, &mut byte).is_err());
                assert!(!snapshot.is_exact());
                let before = arena.to_vec();
                let again = arena.snapshot().unwrap();
                arena.fill(4);
                expect_bytes(&again, &before);
            }),
            Forked::Parent(child) => child,
        };
        expect_child_ended_well(child);
        expect_lost(&snapshot);
    });
    ended.expect_finished();
}
