//! The keeper: one thread for all arenas, from the first snapshot on.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pagecow::{Arena, ArenaBuilder, Engine, Snapshot};

use crate::common::{
    FAULT, Forked, by_faults, end_of_fork, expect_bytes, expect_child_ended_well, fork, in_child,
    in_child_on, on, page_by_page, page_size,
};

/// More frames than are always kept.
const LEN: usize = 16 << 20;

/// The status of each of this process's keepers.
fn keepers() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.filter_map(|task| {
        let status = task.unwrap().path().join("status");
        fs::read_to_string(status).ok()
    });
    statuses
        .filter(|status| status.starts_with("Name:\tpagecow-keeper\n"))
        .collect()
}

fn await_keepers(count: usize) -> Vec<String> {
    loop {
        let keepers = keepers();
        if keepers.len() == count {
            return keepers;
        }
        std::thread::yield_now();
    }
}

/// A snapshot for which the keeper has something to do: while it lives, or, with the engine that
/// remaps, when it goes.
fn snapshot_for_keeper(engine: Engine, arena: &Arena) -> Option<Snapshot> {
    let snapshot = arena.snapshot().unwrap();
    by_faults(engine).then_some(snapshot)
}

/// The signals that are blocked on a thread, one bit each.
fn blocked(status: &str) -> u64 {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigBlk:\t"));
    u64::from_str_radix(mask.unwrap(), 16).unwrap()
}

fn filled(builder: ArenaBuilder) -> Arena {
    let mut arena = builder.build(LEN).unwrap();
    arena.fill(1);
    arena
}

fn resident(arena: &Arena) -> usize {
    arena.stats().store_resident_bytes as usize
}

#[test]
fn one_for_all_arenas_from_the_first_snapshot_on() {
    let ended = in_child(|engine| {
        let one = filled(on(engine));
        let two = filled(on(engine));
        let none = filled(on(engine).keeper(false));
        assert_eq!(keepers().len(), 0);
        drop(none.snapshot().unwrap());
        assert_eq!(keepers().len(), 0);
        let _one = snapshot_for_keeper(engine, &one);
        await_keepers(1);
        let _two = snapshot_for_keeper(engine, &two);
        drop(one.snapshot().unwrap());
        assert_eq!(await_keepers(1).len(), 1);
    });
    ended.expect_finished();
}

/// No signal handler of the program runs on it.
#[test]
fn all_signals_are_blocked() {
    let ended = in_child(|engine| {
        let arena = filled(on(engine));
        let _snapshot = snapshot_for_keeper(engine, &arena);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGALRM] {
            let bit = 1 << (signal - 1);
            assert_ne!(blocked(&await_keepers(1)[0]) & bit, 0, "signal {signal}");
            // But not on the thread that started it.
            let own = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert_eq!(blocked(&own) & bit, 0, "signal {signal}");
        }
    });
    ended.expect_finished();
}

/// More than a snapshot makes ready itself.
#[test]
fn it_makes_frames_ready() {
    let ended = in_child_on(FAULT, |engine| {
        let arena = filled(page_by_page(engine));
        let _snapshot = arena.snapshot().unwrap();
        while resident(&arena) < LEN / 8 {
            std::thread::yield_now();
        }
    });
    ended.expect_finished();
}

#[test]
fn it_gives_back_what_is_not_used() {
    let ended = in_child(|engine| {
        let mut arena = filled(page_by_page(engine).decay(Duration::from_millis(50)));
        let first = arena.snapshot().unwrap();
        arena.fill(2);
        drop(first);
        // This thread calls nothing that would.
        while resident(&arena) > LEN / 4 {
            std::thread::yield_now();
        }
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// A fork takes no keeper along; the child starts its own.
#[test]
fn a_forked_child_has_its_own() {
    let ended = in_child(|engine| {
        let mut arena = filled(page_by_page(engine));
        let before = snapshot_for_keeper(engine, &arena);
        await_keepers(1);
        let snapshot = arena.snapshot().unwrap();
        drop(before);
        for round in 0..20 {
            arena.fill(round);
            match fork() {
                Forked::Child => end_of_fork(|| {
                    assert_eq!(keepers().len(), 0);
                    let own = arena.snapshot().unwrap();
                    await_keepers(1);
                    arena.fill(200);
                    expect_bytes(&own, &vec![round; LEN]);
                    expect_bytes(&snapshot, &vec![1; LEN]);
                    drop((own, snapshot, arena));
                }),
                Forked::Parent(child) => expect_child_ended_well(child),
            }
            drop(arena.snapshot().unwrap());
        }
        expect_bytes(&snapshot, &vec![1; LEN]);
    });
    ended.expect_finished();
}

/// Arenas go while they are tended, and others fork meanwhile.
#[test]
fn arenas_come_and_go_beside_it() {
    let ended = in_child(|engine| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for value in 1..4 {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        let len = 600 * page_size();
                        let builder = page_by_page(engine).decay(Duration::from_micros(100));
                        let mut arena = builder.build(len).unwrap();
                        arena.fill(value);
                        let snapshot = arena.snapshot().unwrap();
                        arena.fill(0);
                        expect_bytes(&snapshot, &vec![value; len]);
                        arena.check_invariants().unwrap();
                    }
                });
            }
            for _ in 0..100 {
                match fork() {
                    Forked::Child => end_of_fork(|| ()),
                    Forked::Parent(child) => expect_child_ended_well(child),
                }
            }
            stop.store(true, Relaxed);
        });
    });
    ended.expect_finished();
}
