//! The keeper: one thread for all arenas, from the first snapshot on.

#![allow(unsafe_code, reason = "system calls about processors")]

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

/// What the kernel says of where and when a thread runs: processors and policy.
fn runs(status: &str, tid: libc::pid_t) -> (String, libc::c_int) {
    let mut lines = status.lines();
    let processors = lines.find_map(|line| line.strip_prefix("Cpus_allowed:\t"));
    // SAFETY: a plain system call.
    let policy = unsafe { libc::sched_getscheduler(tid) };
    (processors.unwrap().to_owned(), policy)
}

fn run_when_idle_on_the_last_processor() {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: zeros are valid parameters.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: a plain system call on live parameters.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    // SAFETY: zeros are a valid set.
    let mut processors: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a plain system call on a live set of that size.
    unsafe { libc::sched_getaffinity(0, size, &raw mut processors) };
    // SAFETY: numbers within the set.
    let has = |number: &usize| unsafe { libc::CPU_ISSET(*number, &processors) };
    let last = (0..libc::CPU_SETSIZE as usize).rfind(has).unwrap();
    // SAFETY: zeros are a valid set.
    let mut only: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a number within the set.
    unsafe { libc::CPU_SET(last, &mut only) };
    // SAFETY: as above.
    unsafe { libc::sched_setaffinity(0, size, &raw const only) };
}

/// A thread that takes the first snapshot may be one that runs only when no other does.
#[test]
fn it_runs_as_the_first_thread_does_whoever_starts_it() {
    let ended = in_child(|engine| {
        let arena = filled(on(engine));
        let first = fs::read_to_string("/proc/self/status").unwrap();
        let first = runs(&first, std::process::id() as libc::pid_t);
        let idle = std::thread::scope(|scope| {
            let idle = scope.spawn(|| {
                run_when_idle_on_the_last_processor();
                let own = fs::read_to_string("/proc/thread-self/status").unwrap();
                drop(arena.snapshot().unwrap());
                runs(&own, 0)
            });
            idle.join().unwrap()
        });
        assert_eq!(idle.1, libc::SCHED_IDLE);
        loop {
            let keeper = await_keepers(1).remove(0);
            let mut lines = keeper.lines();
            let tid = lines.find_map(|line| line.strip_prefix("Pid:\t"));
            // It names itself before it does the rest.
            if runs(&keeper, tid.unwrap().parse().unwrap()) == first {
                break;
            }
            std::thread::yield_now();
        }
    });
    ended.expect_finished();
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

/// Without a snapshot, and also in the child of a fork, once it has taken one.
#[test]
fn it_arms_what_is_to_stand_ready() {
    let ended = in_child_on(FAULT, |engine| {
        let mut arena = filled(on(engine).stand_ready(true));
        await_keepers(1);
        let pages = (LEN / page_size()) as u64;
        let open = |arena: &Arena| arena.prepare().unwrap().left().pages;
        while open(&arena) > 0 {
            std::thread::yield_now();
        }
        assert!(arena.stats().pages_armed_early >= pages);
        match fork() {
            Forked::Child => end_of_fork(|| {
                arena.fill(2);
                assert!(open(&arena) > 0);
                assert_eq!(keepers().len(), 0);
                let snapshot = arena.snapshot().unwrap();
                arena.fill(3);
                while open(&arena) > 0 {
                    std::thread::yield_now();
                }
                expect_bytes(&snapshot, &vec![2; LEN]);
                arena.check_invariants().unwrap();
            }),
            Forked::Parent(child) => expect_child_ended_well(child),
        }
        arena.fill(4);
        let snapshot = arena.snapshot().unwrap();
        arena.fill(5);
        expect_bytes(&snapshot, &vec![4; LEN]);
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
