//! The engine that remaps in a process that forks, makes system calls and lowers its limits.

#![allow(unsafe_code, reason = "system calls, and stores beside borrows")]

mod calls;
mod children;
mod pinned;

use crate::common::mappings::limit_address_space;
use crate::common::model::{Model, steps_and_forks};
use crate::common::{
    Ended, Forked, end_of_fork, expect_bytes, expect_child_ended_well, fork, in_child_on, merge,
    on, page_size, patterned,
};
use pagecow::{Arena, ArenaBuilder, Engine, Error, Window};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

/// Lives a scenario where nothing is merged but by hand.
fn by_hand(scenario: impl FnOnce(ArenaBuilder)) -> Ended {
    in_child_on(&[Engine::Remap], |engine| {
        scenario(on(engine).keeper(false))
    })
}

/// Pages of what is merged by one step.
fn slice() -> usize {
    page_size() / size_of::<u64>() / 4
}

/// Bytes of pages that were stored to and not brought back.
fn unmerged(arena: &Arena) -> usize {
    merge(arena);
    arena.check_invariants().unwrap();
    arena.stats().store_bytes as usize
}

/// Random operations, with processes that are forked in between and live on.
#[test]
fn random_operations_and_forks() {
    let ended = by_hand(|builder| {
        let mut runner = TestRunner::deterministic();
        let strategy = steps_and_forks(60);
        for case in 0..24 {
            let steps = strategy.new_tree(&mut runner).unwrap().current();
            let builder = builder.clone().keeper(case % 2 == 0);
            let pages = if case % 3 == 0 { 1100 } else { 40 };
            let mut model = Model::new(Engine::Remap, builder, Window::Page, pages, false).unwrap();
            for step in &steps {
                model.apply(step).unwrap();
                model.check();
                model.arena().check_invariants().unwrap();
            }
            model.check_to_the_end();
        }
    });
    ended.expect_finished();
}

#[test]
fn views_and_branches_in_a_process_that_forks() {
    let ended = by_hand(|builder| {
        let (mut arena, before) = patterned(builder, 40);
        let snapshot = arena.snapshot().unwrap();
        let view = snapshot.view().unwrap();
        let mut branch = snapshot.branch().unwrap();
        branch[0] ^= 0xff;
        arena[1] ^= 0xff;
        let (live, other) = (arena.to_vec(), branch.to_vec());
        drop(snapshot);
        for has_arena in [true, false] {
            let mut arena = has_arena.then_some(&mut arena);
            let child = match fork() {
                Forked::Child => end_of_fork(|| {
                    assert!(view[..] == before && branch[..] == other);
                    branch.fill(1);
                    if let Some(arena) = &mut arena {
                        assert!(arena[..] == live);
                        arena.fill(2);
                        let own = arena.snapshot().unwrap();
                        let mut copy = own.branch().unwrap();
                        copy.fill(3);
                        expect_bytes(&own, &vec![2; before.len()]);
                    }
                    assert!(view[..] == before && branch.iter().all(|byte| *byte == 1));
                }),
                Forked::Parent(child) => child,
            };
            branch[5] ^= 0xff;
            branch[5] ^= 0xff;
            expect_child_ended_well(child);
            assert!(view[..] == before && branch[..] == other);
            if let Some(arena) = arena {
                assert!(arena[..] == live);
            }
        }
        drop(arena);
        assert!(view[..] == before && branch[..] == other);
        drop(view);
        assert!(branch[..] == other);
    });
    ended.expect_finished();
}

/// With less address space than there is, which is what freezing takes for a moment.
#[test]
fn with_no_address_space_left() {
    let ended = by_hand(|builder| {
        let (mut arena, before) = patterned(builder, 2 * slice());
        limit_address_space(1);
        for _ in 0..3 {
            let refused = arena.snapshot();
            assert!(matches!(refused, Err(Error::Reserve { .. })), "{refused:?}");
            let refused = arena.prepare();
            assert!(matches!(refused, Err(Error::Reserve { .. })), "{refused:?}");
        }
        arena.check_invariants().unwrap();
        limit_address_space(libc::RLIM_INFINITY);
        let snapshot = arena.snapshot().unwrap();
        arena.fill(1);
        limit_address_space(1);
        let refused = snapshot.branch();
        assert!(matches!(refused, Err(Error::Reserve { .. })), "{refused:?}");
        let view = snapshot.view().unwrap();
        assert!(view[..] == before);
        drop((view, snapshot));
        // It is not merged, and nothing is lost.
        assert_eq!(unmerged(&arena), arena.len());
        assert!(arena.iter().all(|byte| *byte == 1));
        let refused = arena.snapshot();
        assert!(refused.is_err(), "{refused:?}");
        arena.fill(2);
        limit_address_space(libc::RLIM_INFINITY);
        assert_eq!(unmerged(&arena), 0);
        assert!(arena.iter().all(|byte| *byte == 2));
        let snapshot = arena.snapshot().unwrap();
        arena.fill(3);
        expect_bytes(&snapshot, &vec![2; before.len()]);
    });
    ended.expect_finished();
}
