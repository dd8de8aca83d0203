//! Prepare, step, commit.

mod common;

use std::time::Duration;

use common::{for_each_engine, page_by_page, page_size};
use pagecow::{Arena, Engine, Error, Pending};

const PAGES: usize = 4096;

fn filled(engine: Engine, value: u8) -> Arena {
    let mut arena = page_by_page(engine).build(PAGES * page_size()).unwrap();
    arena.fill(value);
    arena
}

/// One slice at a time until the commit is due.
fn steps(pending: &mut Pending, mut between: impl FnMut(usize)) -> usize {
    let mut steps = 0;
    while !pending.is_ready() {
        pending.step(Duration::ZERO).unwrap();
        between(steps);
        steps += 1;
    }
    steps
}

#[test]
fn what_is_written_between_steps_is_in_the_snapshot() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let page = arena.page_size();
        let mut pending = arena.prepare().unwrap();
        assert!(!pending.is_ready());
        let taken = steps(&mut pending, |step| arena[step % PAGES * page] = 2);
        assert!(taken > 1, "{taken} steps");
        arena.check_invariants().unwrap();
        arena[7] = 3;
        let wanted = arena.to_vec();
        let snapshot = pending.commit().unwrap();
        arena.fill(9);
        let mut frozen = vec![0; wanted.len()];
        snapshot.read_at(0, &mut frozen).unwrap();
        assert!(frozen == wanted);
        let stats = arena.stats();
        assert!(stats.last_passes > 0);
        assert_eq!((stats.snapshots, stats.pages_saved), (1, PAGES as u64));
        arena.check_invariants().unwrap();
    });
}

#[test]
fn nothing_is_frozen_before_the_commit() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let mut pending = arena.prepare().unwrap();
        steps(&mut pending, |_| ());
        drop(pending);
        arena.fill(2);
        let stats = arena.stats();
        assert_eq!((stats.snapshots, stats.pages_saved), (0, 0));
        assert_eq!(stats.faults, stats.soft_faults);
        // Nobody pays twice.
        arena.fill(3);
        assert_eq!(arena.stats().faults, stats.faults);
        arena.check_invariants().unwrap();
    });
}

#[test]
fn a_page_armed_ahead_needs_no_copy() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let older = arena.snapshot().unwrap();
        arena.fill(2);
        let before = arena.stats();
        let mut pending = arena.prepare().unwrap();
        steps(&mut pending, |_| ());
        arena[0] = 3;
        let after = arena.stats();
        assert_eq!(after.pages_saved, before.pages_saved);
        assert_eq!(after.soft_faults, before.soft_faults + 1);
        let newer = pending.commit().unwrap();
        let mut bytes = [0; 2];
        newer.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [3, 2]);
        older.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 1]);
        arena.check_invariants().unwrap();
    });
}

#[test]
fn what_nobody_wrote_stays_armed() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let first = arena.snapshot().unwrap();
        let page = arena.page_size();
        for index in (0..PAGES).step_by(512) {
            arena[index * page] = 2;
        }
        let calls = arena.stats().protect_calls;
        let second = arena.snapshot().unwrap();
        // Eight runs are few enough for the commit itself.
        assert_eq!(arena.stats().last_passes, 0);
        if engine == Engine::Mprotect {
            assert_eq!(arena.stats().protect_calls, calls + 1);
        }
        assert_eq!(second.changed_since(&first).unwrap().len(), 8);
    });
}

#[test]
fn steps_keep_off_a_guard_and_the_pending_may_outlive_its_arena() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let mut pending = arena.prepare().unwrap();
        let faults = arena.stats().faults;
        let mut part = arena.writable(..).unwrap();
        pending.step(Duration::MAX).unwrap();
        part.fill(2);
        drop(part);
        assert_eq!(arena.stats().faults, faults);
        drop(arena);
        assert!(pending.is_ready());
        assert!(matches!(
            pending.step(Duration::ZERO),
            Err(Error::ArenaDropped)
        ));
        assert!(matches!(pending.commit(), Err(Error::ArenaDropped)));
    });
}

#[test]
fn another_thread_may_step() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let page = arena.page_size();
        let mut pending = arena.prepare().unwrap();
        let stepper = std::thread::spawn(move || {
            steps(&mut pending, |_| ());
            pending
        });
        let mut value = 0u8;
        while !stepper.is_finished() {
            value = value.wrapping_add(1);
            for index in 0..64 {
                arena[index * 61 * page] = value;
            }
        }
        let wanted = arena.to_vec();
        let snapshot = stepper.join().unwrap().commit().unwrap();
        arena.fill(0);
        let mut frozen = vec![0; wanted.len()];
        snapshot.read_at(0, &mut frozen).unwrap();
        assert!(frozen == wanted);
        arena.check_invariants().unwrap();
    });
}
