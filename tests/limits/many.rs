//! Thousands of small arenas in one process: what each takes of what a process has little of.

#![allow(unsafe_code, reason = "the limit of descriptors is a system call")]

use crate::common::mappings::{self, forbid_huge_pages, resident};
use crate::common::{by_faults, expect_bytes, in_child, in_child_on, on, page_size};
use pagecow::{Arena, Engine, Error, Snapshot};

const LEN: usize = 64 << 10;

/// As many as the kernel's limit of mappings leaves room for, with five each.
fn count() -> usize {
    10_000.min(mappings::limit() / 6)
}

fn make(engine: Engine, count: usize) -> Vec<Arena> {
    (0..count).map(|_| on(engine).build(LEN).unwrap()).collect()
}

fn snapshots(arenas: &[Arena]) -> Vec<Snapshot> {
    arenas
        .iter()
        .map(|arena| arena.snapshot().unwrap())
        .collect()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn allow_descriptors(most: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: a valid limit.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0);
}

#[test]
fn each_takes_few_mappings_and_little_memory() {
    let ended = in_child(|engine| {
        forbid_huge_pages();
        let count = count();
        let mut arenas = make(engine, 1);
        let (mappings_before, resident_before) = (mappings::count(), resident());
        arenas.extend(make(engine, count));
        let snapshots = snapshots(&arenas);

        let mappings = mappings::count() - mappings_before;
        // A memory of one view, or of three.
        let each = if by_faults(engine) { 3 } else { 7 };
        assert!(mappings <= each * count, "{mappings} mappings for {count}");
        // Each has touched one page of its own.
        let own = count * page_size();
        let bookkeeping = (resident() - resident_before).saturating_sub(own) / count;
        assert!(bookkeeping <= 32 << 10, "{bookkeeping} bytes each");
        drop(snapshots);
    });
    ended.expect_finished();
}

#[test]
fn all_together_need_one_descriptor() {
    let ended = in_child(|engine| {
        const ARENAS: usize = 200;
        allow_descriptors(64);
        let before = descriptors();
        let arenas = make(engine, ARENAS);
        let _snapshots = snapshots(&arenas);
        assert!(descriptors() <= before + 1);
    });
    ended.expect_finished();
}

/// Also when the engine was found to work before.
#[test]
fn without_one_there_is_an_error() {
    let ended = in_child_on(&[Engine::Userfaultfd], |engine| {
        engine.check().unwrap();
        allow_descriptors(0);
        let result = on(engine).build(LEN);
        assert!(matches!(result, Err(Error::Engine { .. })), "{result:?}");
        assert!(on(Engine::Mprotect).build(LEN).is_ok());
    });
    ended.expect_finished();
}

/// The handler finds each of them, whichever others have come and gone.
#[test]
fn each_is_found_by_its_faults() {
    let ended = in_child(|engine| {
        let count = count() / 4;
        let mut arenas = make(engine, count);
        // Holes of all kinds: single arenas, and hundreds in a row.
        let mut number = 0;
        arenas.retain(|_| {
            number += 1;
            number % 3 != 0 && !(count / 2..count / 2 + 300).contains(&number)
        });
        arenas.extend(make(engine, count / 4));
        let snapshots = snapshots(&arenas);
        for (index, arena) in arenas.iter_mut().enumerate() {
            arena[index * 977 % LEN] = 1;
        }
        for (arena, snapshot) in arenas.iter().zip(&snapshots) {
            expect_bytes(snapshot, &[0; LEN]);
            assert_eq!(arena.stats().faults, u64::from(by_faults(engine)));
            assert_eq!(snapshot.stats().pages_saved, 1);
        }
    });
    ended.expect_finished();
}
