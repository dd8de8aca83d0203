//! Processes that were forked: what each side sees of the other, and for how long the parent leaves
//! alone what they look at.

use std::ffi::CStr;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

use super::{by_hand, slice, unmerged};
use crate::common::mappings::{frames, minor_faults};
use crate::common::stores::{STORES, store};
use crate::common::{
    Forked, end_of_fork, expect_bytes, expect_child_ended_well, fork, page_size, patterned,
};
use pagecow::{Arena, ArenaBuilder};

/// A process that was forked, and ends when it is told to.
struct Child {
    process: libc::pid_t,
    tell: PipeWriter,
    ready: PipeReader,
}

impl Child {
    /// Acts, says that it has, and waits.
    fn fork(act: impl FnOnce()) -> Self {
        let (told, tell) = std::io::pipe().unwrap();
        let (ready, mut say) = std::io::pipe().unwrap();
        let process = match fork() {
            Forked::Child => end_of_fork(|| {
                act();
                say.write_all(&[0]).unwrap();
                wait(told);
            }),
            Forked::Parent(child) => child,
        };
        let child = Self {
            process,
            tell,
            ready,
        };
        (&child.ready).read_exact(&mut [0]).unwrap();
        child
    }

    fn end(mut self) {
        self.tell.write_all(&[0]).unwrap();
        expect_child_ended_well(self.process);
    }
}

fn wait(mut told: PipeReader) {
    told.read_exact(&mut [0]).unwrap();
}

/// Parent and child have private views of one file then: it is a snapshot already.
#[test]
fn a_snapshot_beside_a_child_arms_nothing_while_nothing_was_stored() {
    let ended = by_hand(|builder| {
        let (mut arena, before) = patterned(builder, 4);
        let child = Child::fork(|| ());
        let snapshot = arena.snapshot().unwrap();
        assert_eq!(arena.stats().protect_calls, 0);
        arena[0] ^= 1;
        expect_bytes(&snapshot, &before);
        // Something was stored, and what the child looks at stays: it is armed.
        drop(snapshot);
        let _snapshot = arena.snapshot().unwrap();
        assert!(arena.stats().protect_calls > 0);
        child.end();
    });
    ended.expect_finished();
}

#[test]
fn neither_side_of_a_fork_sees_the_other() {
    let ended = by_hand(|builder| {
        const PAGES: usize = 12;
        let page = page_size();
        for (name, with) in STORES {
            for frozen in [false, true] {
                let (mut arena, mut live) = patterned(builder.clone(), PAGES);
                let snapshot = frozen.then(|| arena.snapshot().unwrap());
                let before = live.clone();
                if frozen {
                    // Pages that have been copied before the fork.
                    arena[3 * page..5 * page].fill(0xbb);
                    live[3 * page..5 * page].fill(0xbb);
                }
                let ranges = [
                    page..2 * page,
                    4 * page + 100..4 * page + 200,
                    6 * page - 40..6 * page + 60,
                    7 * page..10 * page,
                ];
                let write = |arena: &mut Arena, live: &mut Vec<u8>, value| {
                    for range in ranges.clone() {
                        let mirror = &mut live[range.clone()];
                        store(name, with, &mut arena[range], mirror, value);
                        assert!(arena[..] == live[..], "{name}");
                    }
                    if let Some(snapshot) = &snapshot {
                        expect_bytes(snapshot, &before);
                    }
                };
                let (mut told, mut tell) = std::io::pipe().unwrap();
                let child = match fork() {
                    Forked::Child => end_of_fork(|| {
                        assert!(arena[..] == live[..]);
                        // Once before the parent stores, and once after it.
                        write(&mut arena, &mut live, 0x31);
                        told.read_exact(&mut [0]).unwrap();
                        write(&mut arena, &mut live, 0x42);
                        arena.check_invariants().unwrap();
                    }),
                    Forked::Parent(child) => child,
                };
                write(&mut arena, &mut live, 0x53);
                tell.write_all(&[0]).unwrap();
                write(&mut arena, &mut live, 0x64);
                expect_child_ended_well(child);
                assert!(arena[..] == live[..], "{name}");
                drop(snapshot);
                assert_eq!(unmerged(&arena), 0);
                assert!(arena[..] == live[..], "{name}");
            }
        }
    });
    ended.expect_finished();
}

/// Stores to these pages; returns how many page faults that took.
#[inline(never)]
fn faults_of_stores(arena: &Arena, pages: &[usize]) -> i64 {
    let before = minor_faults();
    for page in pages {
        let byte = arena.as_mut_ptr().wrapping_add(page * page_size());
        // SAFETY: inside the arena, to which nobody has a reference.
        unsafe { byte.write_volatile(0x77) };
    }
    minor_faults() - before
}

/// Both sides copy a page when they store to it while the other needs it, once. What only one side
/// still needs it does not copy again.
#[test]
fn a_page_is_copied_only_while_both_sides_need_it() {
    let ended = by_hand(|builder| {
        let (arena, _) = patterned(builder, 64);
        // The first ones make this very code resident in the process.
        let expect_copied_once = |rehearsed: &[usize], pages: &[usize]| {
            faults_of_stores(&arena, rehearsed);
            assert_eq!(faults_of_stores(&arena, pages), pages.len() as i64);
            assert_eq!(faults_of_stores(&arena, pages), 0);
        };
        let child = Child::fork(|| expect_copied_once(&[50, 51], &[4, 9]));
        expect_copied_once(&[40, 41], &[3, 9]);
        assert_eq!(arena.stats().pages_saved, 4);
        let frame = |page: usize| frames(&arena).map(|frames| frames[page]);
        let own = frame(9);
        child.end();
        assert_eq!(faults_of_stores(&arena, &[3, 9]), 0);
        assert_eq!(frame(9), own);

        // Nothing was merged, so the copies are the next child's as well.
        let child = Child::fork(|| ());
        let shared = frame(3);
        assert_eq!(faults_of_stores(&arena, &[9]), 1);
        if own.is_some() {
            assert_ne!(frame(9), own);
        }
        child.end();
        faults_of_stores(&arena, &[3]);
        assert_eq!(frame(3), shared);
        assert_eq!(unmerged(&arena), 0);
    });
    ended.expect_finished();
}

/// An arena of which all was stored to since a fork, whose child looks at what was before.
fn forked(builder: ArenaBuilder, act: impl FnOnce(&Arena)) -> (Arena, Child) {
    let (mut arena, _) = patterned(builder, 2 * slice());
    let child = Child::fork(|| act(&arena));
    arena.fill(1);
    (arena, child)
}

#[test]
fn a_child_that_exits_frees_the_parent() {
    let ended = by_hand(|builder| {
        let (arena, child) = forked(builder, |_| ());
        assert_eq!(unmerged(&arena), arena.len());
        child.end();
        assert_eq!(unmerged(&arena), 0);
        assert!(arena.iter().all(|byte| *byte == 1));
    });
    ended.expect_finished();
}

/// It lives on as another program, which reads until its standard input ends.
#[test]
fn a_child_that_executes_a_program_frees_the_parent() {
    const PROGRAM: &CStr = c"/bin/cat";
    let ended = by_hand(|builder| {
        let (mut arena, _) = patterned(builder, 2 * slice());
        let (input, tell) = std::io::pipe().unwrap();
        // Closed by the execution.
        let (mut executed, mark) = std::io::pipe().unwrap();
        let child = match fork() {
            Forked::Child => {
                // SAFETY: descriptors of this process.
                unsafe { libc::dup2(input.as_raw_fd(), 0) };
                let arguments = [PROGRAM.as_ptr(), std::ptr::null()];
                // SAFETY: a path and arguments that end as they have to.
                unsafe { libc::execv(PROGRAM.as_ptr(), arguments.as_ptr()) };
                panic!("execv: {}", std::io::Error::last_os_error());
            }
            Forked::Parent(child) => child,
        };
        drop((mark, input));
        arena.fill(1);
        assert_eq!(executed.read(&mut [0]).unwrap(), 0);
        // The old address space goes a little later than its descriptors.
        while unmerged(&arena) > 0 {
            std::thread::yield_now();
        }
        assert!(arena.iter().all(|byte| *byte == 1));
        drop(tell);
        expect_child_ended_well(child);
    });
    ended.expect_finished();
}

#[test]
fn a_child_that_closes_all_its_descriptors_looks_on() {
    let ended = by_hand(|builder| {
        let (mut arena, before) = patterned(builder, 2 * slice());
        let (told, mut tell) = std::io::pipe().unwrap();
        let (mut ready, say) = std::io::pipe().unwrap();
        let child = match fork() {
            Forked::Child => end_of_fork(|| {
                for (from, to) in [(told.as_raw_fd(), 0), (say.as_raw_fd(), 1)] {
                    // SAFETY: descriptors of this process.
                    assert_eq!(unsafe { libc::dup2(from, to) }, to);
                }
                // SAFETY: as above. Nothing of this child uses any other.
                let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
                assert_eq!(closed, 0);
                let mut byte = [0u8];
                // SAFETY: a byte, which is borrowed exclusively.
                unsafe { libc::write(1, byte.as_ptr().cast(), 1) };
                // SAFETY: as above.
                unsafe { libc::read(0, byte.as_mut_ptr().cast(), 1) };
                assert!(arena[..] == before);
                // SAFETY: as above; ends the process without closing descriptors once more.
                unsafe { libc::_exit(0) };
            }),
            Forked::Parent(child) => child,
        };
        ready.read_exact(&mut [0]).unwrap();
        arena.fill(1);
        assert_eq!(unmerged(&arena), arena.len());
        tell.write_all(&[0]).unwrap();
        expect_child_ended_well(child);
        assert_eq!(unmerged(&arena), 0);
        assert!(arena.iter().all(|byte| *byte == 1));
    });
    ended.expect_finished();
}

/// A child of the child looks on when that has gone.
#[test]
fn grandchildren_keep_the_parent_from_merging() {
    let ended = by_hand(|builder| {
        let (mut arena, before) = patterned(builder, 2 * slice());
        let (told, mut tell) = std::io::pipe().unwrap();
        let (mut over, end) = std::io::pipe().unwrap();
        let child = match fork() {
            Forked::Child => end_of_fork(|| {
                // It stores to what it has, so that its child differs from its parent.
                arena[0] = 7;
                if let Forked::Child = fork() {
                    end_of_fork(|| {
                        wait(told);
                        assert_eq!(arena[0], 7);
                        assert!(arena[1..] == before[1..]);
                        (&end).write_all(&[1]).unwrap();
                    });
                }
            }),
            Forked::Parent(child) => child,
        };
        drop(end);
        expect_child_ended_well(child);
        arena.fill(1);
        assert_eq!(unmerged(&arena), arena.len());
        tell.write_all(&[0]).unwrap();
        let mut said = Vec::new();
        over.read_to_end(&mut said).unwrap();
        assert_eq!(said, [1], "the grandchild has found something else");
        while unmerged(&arena) > 0 {
            std::thread::yield_now();
        }
        assert!(arena.iter().all(|byte| *byte == 1));
    });
    ended.expect_finished();
}

/// More than have marks of their own; they end in any order.
#[test]
fn several_children_each_with_its_own() {
    let ended = by_hand(|builder| {
        const CHILDREN: usize = 40;
        let (mut arena, _) = patterned(builder, 2 * slice());
        let mut children = Vec::new();
        for value in 0..CHILDREN as u8 {
            arena.fill(value);
            let (told, tell) = std::io::pipe().unwrap();
            let process = match fork() {
                Forked::Child => end_of_fork(|| {
                    wait(told);
                    assert!(arena.iter().all(|byte| *byte == value));
                }),
                Forked::Parent(child) => child,
            };
            children.push((process, tell));
        }
        arena.fill(200);
        while !children.is_empty() {
            assert_eq!(unmerged(&arena), arena.len());
            let (child, mut tell) = children.swap_remove(children.len() / 3);
            tell.write_all(&[0]).unwrap();
            expect_child_ended_well(child);
        }
        assert_eq!(unmerged(&arena), 0);
        assert!(arena.iter().all(|byte| *byte == 200));
    });
    ended.expect_finished();
}

#[test]
fn a_fork_during_a_merge_that_is_half_done() {
    let ended = by_hand(|builder| {
        let pages = 4 * slice();
        let page = page_size();
        for steps in 0..=4 {
            let (mut arena, _) = patterned(builder.clone(), pages);
            drop(arena.snapshot().unwrap());
            for index in (0..pages).step_by(3) {
                arena[index * page + 5] ^= 0xff;
            }
            for _ in 0..steps {
                arena.tend(std::time::Duration::ZERO);
            }
            let was = arena.to_vec();
            let (told, mut tell) = std::io::pipe().unwrap();
            let child = match fork() {
                Forked::Child => end_of_fork(|| {
                    wait(told);
                    assert!(arena[..] == was);
                    let own = arena.snapshot().unwrap();
                    arena.fill(3);
                    expect_bytes(&own, &was);
                    arena.check_invariants().unwrap();
                }),
                Forked::Parent(child) => child,
            };
            assert!(arena[..] == was);
            // Snapshots go on, in other ways.
            let snapshot = arena.snapshot().unwrap();
            arena.fill(4);
            expect_bytes(&snapshot, &was);
            drop(snapshot);
            assert!(unmerged(&arena) > 0);
            tell.write_all(&[0]).unwrap();
            expect_child_ended_well(child);
            assert_eq!(unmerged(&arena), 0);
            assert!(arena.iter().all(|byte| *byte == 4));
        }
    });
    ended.expect_finished();
}

/// Children say nothing of arenas that were made after they were forked.
#[test]
fn a_later_arena_is_merged_beside_a_child() {
    let ended = by_hand(|builder| {
        let (older, child) = forked(builder.clone(), |_| ());
        let (mut arena, before) = patterned(builder, 2 * slice());
        let snapshot = arena.snapshot().unwrap();
        arena.fill(2);
        expect_bytes(&snapshot, &before);
        drop(snapshot);
        assert_eq!(unmerged(&arena), 0);
        assert_eq!(unmerged(&older), older.len());
        child.end();
        assert_eq!(unmerged(&older), 0);
    });
    ended.expect_finished();
}
