//! What the system limits of memory that is remapped: no byte depends on it, and no thread that
//! stores.

#![allow(unsafe_code, reason = "limits, and stores beside a snapshot")]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::common::{bytes_of, expect_bytes, in_child_on, on, page_size, patterned};
use pagecow::{Engine, Error};

const REMAP: &[Engine] = &[Engine::Remap];
/// As many pages as make views longer than the memory, where nothing is limited.
const LONG: usize = 5000;

fn limit(resource: libc::__rlimit_resource_t, bytes: usize) {
    let limit = libc::rlimit {
        rlim_cur: bytes as u64,
        rlim_max: bytes as u64,
    };
    // SAFETY: a live structure.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// Has all memory locked, and says whether the system lets it.
fn lock_all(flags: libc::c_int) -> bool {
    // SAFETY: no memory changes.
    let locked = unsafe { libc::mlockall(flags) } == 0;
    if !locked {
        println!("skipped: no memory may be locked");
    }
    locked
}

#[test]
fn memory_that_is_locked_when_it_is_made_keeps_its_bytes() {
    let ended = in_child_on(REMAP, |engine| {
        if lock_all(libc::MCL_FUTURE) {
            for pages in [600, LONG] {
                let (arena, before) = patterned(on(engine), pages);
                let snapshot = arena.snapshot().unwrap();
                assert!(arena[..] == before);
                expect_bytes(&snapshot, &before);
            }
        }
    });
    ended.expect_finished();
}

#[test]
fn memory_that_is_locked_between_two_snapshots_keeps_its_bytes() {
    let ended = in_child_on(REMAP, |engine| {
        let (mut arena, _) = patterned(on(engine), LONG);
        let mut before = Vec::new();
        for round in 0..3 {
            arena[round * page_size()] ^= 1;
            if !lock_all(libc::MCL_CURRENT) {
                return;
            }
            arena.fill(round as u8);
            arena[7] = 200;
            before = arena.to_vec();
            let snapshot = arena.snapshot().unwrap();
            assert!(arena[..] == before);
            let branch = snapshot.branch().unwrap();
            assert!(branch[..] == before);
            expect_bytes(&snapshot, &before);
        }
        assert!(arena.open_all().unwrap());
        assert!(arena[..] == before);
    });
    ended.expect_finished();
}

#[test]
fn a_snapshot_for_whose_copies_there_is_no_room_is_refused_beside_a_writer() {
    let ended = in_child_on(REMAP, |engine| {
        // Where there is no limit views would be longer than the memory.
        limit(libc::RLIMIT_DATA, 1 << 40);
        let mut arena = on(engine).build(64 << 20).unwrap();
        arena.fill(7);
        // The spare view counts, and the live one would.
        limit(libc::RLIMIT_DATA, 112 << 20);
        let end = AtomicBool::new(false);
        let snapshotter = arena.snapshotter();
        let words = arena.atomic_u64();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(Relaxed) {
                    words[0].fetch_add(1, Relaxed);
                }
            });
            for _ in 0..20_000 {
                let refused = snapshotter.snapshot().map(drop);
                assert!(matches!(refused, Err(Error::Reserve { .. })), "{refused:?}");
            }
            end.store(true, Relaxed);
        });
        assert!(
            arena[8..]
                .iter()
                .step_by(page_size())
                .all(|byte| *byte == 7)
        );
    });
    ended.expect_finished();
}

#[test]
fn an_arena_longer_than_files_may_be_is_refused() {
    let ended = in_child_on(REMAP, |engine| {
        limit(libc::RLIMIT_FSIZE, 10 * page_size());
        let refused = on(engine).build(11 * page_size()).map(drop);
        assert!(matches!(refused, Err(Error::Reserve { .. })), "{refused:?}");
        let arena = on(engine).build(10 * page_size()).unwrap();
        let snapshot = arena.snapshot().unwrap();
        assert!(bytes_of(&snapshot) == arena[..]);
    });
    ended.expect_finished();
}
