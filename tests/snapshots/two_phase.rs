//! Snapshots in two phases: prepare, step, commit.

use std::time::Duration;

use crate::common::{
    FAULT, by_faults, expect_bytes, for_each_engine, for_each_fault_engine, in_child_on,
    page_by_page, page_size,
};
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
    for_each_fault_engine(|engine| {
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

/// What takes time and arms nothing comes first, however small the steps are: pages that are armed
/// already would be written again meanwhile.
#[test]
fn frames_are_made_ready_before_the_first_slice() {
    for_each_fault_engine(|engine| {
        let arena = page_by_page(engine).build(64 << 20).unwrap();
        let mut pending = arena.prepare().unwrap();
        let calls = arena.stats().protect_calls;
        let before = arena.stats().store_resident_bytes;
        let mut steps = 0;
        while arena.stats().protect_calls == calls {
            pending.step(Duration::ZERO).unwrap();
            steps += 1;
        }
        assert!(steps > 1, "the first step has armed pages");
        // Some hundreds of frames, made resident in small pieces.
        let resident = arena.stats().store_resident_bytes - before;
        assert!(resident > (100 * page_size()) as u64, "{resident} bytes");
    });
}

#[test]
fn nothing_is_frozen_before_the_commit() {
    for_each_fault_engine(|engine| {
        let mut arena = filled(engine, 1);
        let mut pending = arena.prepare().unwrap();
        steps(&mut pending, |_| ());
        drop(pending);
        arena.fill(2);
        let stats = arena.stats();
        assert_eq!((stats.snapshots, stats.pages_saved), (0, 0));
        assert_eq!(stats.faults, stats.soft_faults);
        // No page faults twice.
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
        assert!(arena.stats().last_passes == 0 || !by_faults(engine));
        if engine == Engine::Mprotect {
            assert_eq!(arena.stats().protect_calls, calls + 1);
        }
        assert_eq!(second.changed_since(&first).unwrap().len(), 8);
    });
}

#[test]
fn the_pending_may_outlive_its_arena() {
    for_each_engine(|engine| {
        let arena = filled(engine, 1);
        let mut pending = arena.prepare().unwrap();
        drop(arena);
        assert!(pending.is_ready() && !pending.is_stalled());
        assert_eq!(pending.left().pages, 0);
        let step = pending.step(Duration::ZERO);
        assert!(matches!(step, Err(Error::ArenaDropped)));
        assert!(matches!(pending.commit(), Err(Error::ArenaDropped)));
    });
}

#[test]
fn a_step_under_a_guard_of_the_same_thread_is_refused() {
    for_each_engine(|engine| {
        let mut arena = filled(engine, 1);
        let mut pending = arena.prepare().unwrap();
        let part = arena.writable(..1).unwrap();
        let step = pending.step(Duration::ZERO);
        assert!(matches!(step, Err(Error::GuardHeld)));
        drop(part);
        pending.step(Duration::ZERO).unwrap();
    });
}

/// The rest is armed beside the guard, also where nothing was ever armed.
#[test]
fn steps_leave_out_the_pages_of_a_guard() {
    let ended = in_child_on(FAULT, |engine| {
        let page = page_size();
        for armed_before in [false, true] {
            for guarded in [0..1, 700..705, PAGES - 1..PAGES] {
                let mut arena = filled(engine, 1);
                if armed_before {
                    drop(arena.snapshot().unwrap());
                    arena.fill(1);
                }
                let faults = arena.stats().faults;
                let snapshotter = arena.snapshotter();
                let bytes = guarded.start * page..guarded.end * page;
                let mut part = arena.writable(bytes.clone()).unwrap();
                let stepper = std::thread::spawn(move || {
                    let mut pending = snapshotter.prepare().unwrap();
                    let taken = steps(&mut pending, |_| ());
                    assert!(taken > 0);
                    // Also when little else is left.
                    pending.step(Duration::ZERO).unwrap();
                    pending
                });
                let pending = stepper.join().unwrap();
                let left = pending.left();
                assert!(left.pages <= 512 && left.runs <= 32, "{left:?}");
                part.fill(2);
                drop(part);
                arena.check_invariants().unwrap();
                assert_eq!(arena.stats().faults, faults);
                let snapshot = pending.commit().unwrap();
                let wanted = arena.to_vec();
                arena.fill(9);
                expect_bytes(&snapshot, &wanted);
                arena.check_invariants().unwrap();
            }
        }
    });
    ended.expect_finished();
}

/// One guard after the other, on one page, while snapshots are taken.
#[test]
fn a_stream_of_guards_leaves_little_for_the_commit() {
    let ended = in_child_on(FAULT, |engine| {
        let mut arena = filled(engine, 1);
        let snapshotter = arena.snapshotter();
        let taker = std::thread::spawn(move || {
            let mut pending = snapshotter.prepare().unwrap();
            while !pending.is_ready() && !pending.is_stalled() {
                pending.step(Duration::MAX).unwrap();
            }
            let left = pending.left();
            (left, pending.commit().unwrap())
        });
        while !taker.is_finished() {
            arena.writable(5..6).unwrap()[0] ^= 1;
        }
        let (left, snapshot) = taker.join().unwrap();
        assert!(left.pages <= 512, "{left:?}");
        drop(snapshot);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// A guard that begins while a step arms waits for a slice, not for the step: more is armed after
/// it has ended. On a busy machine its thread may miss its chance, so it is tried until it has one.
#[test]
fn a_guard_gets_in_between_the_slices_of_a_step() {
    let ended = in_child_on(FAULT, |engine| {
        let mut arena = page_by_page(engine).build(64 << 20).unwrap();
        let snapshotter = arena.snapshotter();
        loop {
            arena.fill(1);
            let mut pending = snapshotter.prepare().unwrap();
            let calls = arena.stats().protect_calls;
            let (before, after) = std::thread::scope(|scope| {
                let stepping = scope.spawn(|| pending.step(Duration::MAX).unwrap());
                while arena.stats().protect_calls == calls && !stepping.is_finished() {
                    std::hint::spin_loop();
                }
                drop(arena.writable(..1).unwrap());
                let before = arena.stats().protect_calls;
                stepping.join().unwrap();
                (before, arena.stats().protect_calls)
            });
            if after > before {
                break;
            }
        }
    });
    ended.expect_finished();
}

#[test]
fn a_step_waits_for_a_guard_over_everything_as_long_as_it_may() {
    let ended = in_child_on(FAULT, |engine| {
        let mut arena = filled(engine, 1);
        let snapshotter = arena.snapshotter();
        let part = arena.writable(..).unwrap();
        let (ask, asked) = std::sync::mpsc::channel();
        let stepper = std::thread::spawn(move || {
            let mut pending = snapshotter.prepare().unwrap();
            pending.step(Duration::from_millis(1)).unwrap();
            assert!(!pending.is_ready() && !pending.is_stalled());
            assert_eq!(pending.left().pages, PAGES);
            ask.send(()).unwrap();
            pending.step(Duration::MAX).unwrap();
            assert!(pending.is_ready());
        });
        asked.recv().unwrap();
        drop(part);
        stepper.join().unwrap();
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// Stores `count` times, each time to a page that `next` chooses.
fn scatter(arena: &mut Arena, next: &mut u64, count: usize) {
    let page = arena.page_size();
    for _ in 0..count {
        *next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        arena[(*next >> 33) as usize % PAGES * page] ^= 1;
    }
}

/// A slice has 64 runs; a loop that writes more than that between slices never gets through.
#[test]
fn ready_means_that_little_is_left_and_stalled_that_it_stays_so() {
    for_each_fault_engine(|engine| {
        let mut arena = filled(engine, 1);
        let mut random = 1;
        let mut pending = arena.prepare().unwrap();
        let mut steps = 0;
        while !pending.is_stalled() {
            assert!(!pending.is_ready() || pending.left().runs <= 32);
            pending.step(Duration::ZERO).unwrap();
            scatter(&mut arena, &mut random, 400);
            steps += 1;
            assert!(steps < 100_000, "neither ready nor stalled");
        }
        let left = pending.left();
        assert!(left.runs > 32 || left.pages > 512, "{left:?}");
        assert!(left.stop > Duration::ZERO);
        // It is ready once the loop writes less, however many steps were made before.
        let mut steps = 0;
        while !pending.is_ready() {
            pending.step(Duration::ZERO).unwrap();
            scatter(&mut arena, &mut random, 4);
            steps += 1;
            assert!(steps < 100_000, "not ready");
        }
        assert!(!pending.is_stalled());
        let left = pending.left();
        assert!(left.pages <= 512 && left.runs <= 32, "{left:?}");
        // It has kept up for long, and a burst of writes does not count as if it had not.
        for _ in 0..20 {
            scatter(&mut arena, &mut random, 60);
            pending.step(Duration::MAX).unwrap();
        }
        scatter(&mut arena, &mut random, 1000);
        assert!(!pending.is_ready() && !pending.is_stalled());
        pending.step(Duration::MAX).unwrap();
        assert!(pending.is_ready());
        drop(pending.commit().unwrap());
        arena.check_invariants().unwrap();
    });
}

/// With no snapshot alive a fault opens up to 512 pages, but not of what was just armed.
#[test]
fn a_soft_fault_while_arming_opens_one_page() {
    for_each_fault_engine(|engine| {
        let mut arena = filled(engine, 1);
        drop(arena.snapshot().unwrap());
        let page = arena.page_size();
        let faults = arena.stats().faults;
        for index in 0..PAGES {
            arena[index * page] = 2;
        }
        let faults = arena.stats().faults - faults;
        assert!(
            faults < PAGES as u64 / 2,
            "blocks were not opened: {faults} faults"
        );
        let mut pending = arena.prepare().unwrap();
        steps(&mut pending, |_| ());
        let left = pending.left().pages;
        arena[PAGES / 2 * page] = 3;
        assert!(pending.left().pages <= left + 1);
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
