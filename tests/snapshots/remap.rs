//! What the engine that remaps has and the others have not: memory that views and branches share
//! with the arena until either side stores to it, and what is brought back when they are gone.

#![allow(unsafe_code, reason = "stores of all kinds, and looks at mappings")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::engines::remap;
use crate::common::mappings::{frames, minor_faults};
use crate::common::stores::{STORES, store};
use crate::common::{Trail, bytes_of, expect_bytes, merge, page_size};
use pagecow::{Arena, Branch, Snapshot};

/// Of the engine that remaps, where nothing is merged but by hand.
fn patterned(pages: usize) -> (Arena, Vec<u8>) {
    crate::common::patterned(remap().keeper(false), pages)
}

/// Pages of what is merged by one step.
fn slice() -> usize {
    page_size() / size_of::<u64>() / 4
}

/// All is shared and can be stored to by anybody.
#[track_caller]
fn expect_merged(arena: &Arena) {
    merge(arena);
    assert_eq!(arena.stats().store_bytes, 0);
    assert!(arena.prepare().unwrap().is_ready());
    arena.check_invariants().unwrap();
}

#[test]
fn neither_side_of_a_branch_sees_the_other() {
    const PAGES: usize = 12;
    let page = page_size();
    for (name, with) in STORES {
        let (mut arena, before) = patterned(PAGES);
        let snapshot = arena.snapshot().unwrap();
        let mut branch = snapshot.branch().unwrap();
        let (mut live, mut other) = (before.clone(), before.clone());
        // A page, a part of one, across a border, several: first on one side, then on the other.
        let ranges = [
            page..2 * page,
            4 * page + 100..4 * page + 200,
            6 * page - 40..6 * page + 60,
            7 * page..10 * page,
        ];
        for (number, range) in ranges.into_iter().enumerate() {
            let value = 0x21 + number as u8;
            for side in [number % 2, 1 - number % 2] {
                if side == 0 {
                    let mirror = &mut live[range.clone()];
                    store(name, with, &mut arena[range.clone()], mirror, value);
                } else {
                    let mirror = &mut other[range.clone()];
                    store(name, with, &mut branch[range.clone()], mirror, value ^ 0x4c);
                }
                assert!(arena[..] == live && branch[..] == other, "{name}");
                expect_bytes(&snapshot, &before);
            }
        }
        drop(snapshot);
        assert!(branch[..] == other, "{name}");
        drop(branch);
        expect_merged(&arena);
        assert!(arena[..] == live, "{name}");
    }
}

/// Pages that each of two parts of memory has of its own, that is, that lie in different frames.
fn apart(one: &[u8], other: &[u8]) -> Option<Vec<usize>> {
    let (one, other) = (frames(one)?, frames(other)?);
    let pairs = one.iter().zip(&other).enumerate();
    Some(
        pairs
            .filter(|(_, (one, other))| one != other)
            .map(|(page, _)| page)
            .collect(),
    )
}

fn touch(bytes: &[u8]) {
    for byte in bytes.iter().step_by(page_size()) {
        std::hint::black_box(*byte);
    }
}

/// The one side has copied what it stored to, and nothing else; the other side then stores to the
/// frozen page itself only if nobody else has it: here the snapshot has it always.
#[test]
fn only_what_is_stored_to_is_copied_and_only_once() {
    const PAGES: usize = 64;
    let page = page_size();
    let (mut arena, _) = patterned(PAGES);
    let snapshot = arena.snapshot().unwrap();
    let view = snapshot.view().unwrap();
    let mut branch = snapshot.branch().unwrap();
    for side in [&view[..], &branch, &arena] {
        touch(side);
    }
    if frames(&view).is_none() {
        println!("skipped in part: this process may not see which frames its pages are in");
    }
    let expect_apart = |one: &[u8], other: &[u8], wanted: &[usize]| {
        if let Some(found) = apart(one, other) {
            assert_eq!(found, wanted);
        }
    };
    expect_apart(&view, &arena, &[]);
    expect_apart(&view, &branch, &[]);
    arena[3 * page] = 1;
    arena[9 * page] = 1;
    branch[4 * page] = 1;
    branch[9 * page] = 1;
    expect_apart(&view, &arena, &[3, 9]);
    expect_apart(&view, &branch, &[4, 9]);
    assert_eq!(arena.stats().pages_saved, 2);
    let faults = minor_faults();
    for _ in 0..100 {
        for index in [3, 9] {
            arena[index * page] ^= 1;
        }
        for index in [4, 9] {
            branch[index * page] ^= 1;
        }
    }
    assert_eq!(minor_faults() - faults, 0);
    // What the branch alone has goes with it, and what the arena has is brought back.
    drop((view, branch, snapshot));
    expect_merged(&arena);
}

#[test]
fn after_the_last_of_them_the_writer_pays_nothing() {
    let pages = 2 * slice() + 7;
    let (mut arena, before) = patterned(pages);
    let snapshot = arena.snapshot().unwrap();
    let branches = [(); 3].map(|()| snapshot.branch().unwrap());
    arena.fill(2);
    drop(snapshot);
    for branch in branches {
        merge(&arena);
        assert_eq!(arena.stats().store_bytes as usize, arena.len());
        assert!(branch[..] == before);
    }
    expect_merged(&arena);
    assert!(arena.iter().all(|byte| *byte == 2));
    let faults = minor_faults();
    let ours = arena.stats().faults;
    arena.fill(3);
    let taken = minor_faults() - faults;
    assert_eq!((arena.stats().faults, taken), (ours, 0));
    assert!(arena.iter().all(|byte| *byte == 3));
}

#[test]
fn a_branch_of_a_snapshot_that_is_older_than_another() {
    let page = page_size();
    let (mut arena, first) = patterned(40);
    let older = arena.snapshot().unwrap();
    arena[3 * page..5 * page].fill(0xaa);
    let second = arena.to_vec();
    let newer = arena.snapshot().unwrap();
    arena[4 * page..6 * page].fill(0xbb);
    let third = arena.to_vec();

    let mut of_older = older.branch().unwrap();
    let mut of_newer = newer.branch().unwrap();
    of_older[4 * page] = 1;
    of_newer[5 * page] = 2;
    arena[20 * page] = 3;
    let mut wanted = [first.clone(), second.clone(), third];
    wanted[0][4 * page] = 1;
    wanted[1][5 * page] = 2;
    wanted[2][20 * page] = 3;
    assert!(of_older[..] == wanted[0] && of_newer[..] == wanted[1] && arena[..] == wanted[2]);
    expect_bytes(&older, &first);
    expect_bytes(&newer, &second);
    let changed = newer.changed_since(&older).unwrap();
    assert_eq!(changed.into_iter().flatten().collect::<Vec<_>>(), [3, 4]);
    drop((older, of_newer));
    arena.check_invariants().unwrap();
    assert!(of_older[..] == wanted[0] && arena[..] == wanted[2]);
    expect_bytes(&newer, &second);
    drop((newer, of_older));
    expect_merged(&arena);
    assert!(arena[..] == wanted[2]);
}

/// As `Snapshot::branch` says, and no other memory is the worse for it.
#[test]
fn giving_back_pages_of_a_branch_brings_the_snapshot_back() {
    let page = page_size();
    let (mut arena, before) = patterned(16);
    let snapshot = arena.snapshot().unwrap();
    let mut branch = snapshot.branch().unwrap();
    branch.fill(1);
    arena.fill(2);
    let part = branch[2 * page..].as_mut_ptr();
    // SAFETY: whole pages, borrowed exclusively; any bytes are valid.
    let result = unsafe { libc::madvise(part.cast(), 3 * page, libc::MADV_DONTNEED) };
    assert_eq!(result, 0);
    let mut wanted = vec![1; before.len()];
    wanted[2 * page..5 * page].copy_from_slice(&before[2 * page..5 * page]);
    assert!(branch[..] == wanted);
    branch[3 * page] ^= 0xff;
    wanted[3 * page] ^= 0xff;
    assert!(branch[..] == wanted);
    expect_bytes(&snapshot, &before);
    assert!(arena.iter().all(|byte| *byte == 2));
}

fn mappings_of(branches: &[Branch]) -> Vec<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ranges: Vec<(usize, usize)> = maps
        .lines()
        .map(|line| {
            let (from, rest) = line.split_once('-').unwrap();
            let to = rest.split(' ').next().unwrap();
            let number = |hex| usize::from_str_radix(hex, 16).unwrap();
            (number(from), number(to))
        })
        .collect();
    let count = |branch: &Branch| {
        let bytes = branch.as_ptr_range();
        let touching = ranges
            .iter()
            .filter(|(from, to)| *from < bytes.end as usize && (bytes.start as usize) < *to);
        touching.count()
    };
    branches.iter().map(count).collect()
}

#[test]
fn many_branches_at_once_are_a_mapping_each() {
    const BRANCHES: usize = 300;
    let page = page_size();
    let (mut arena, before) = patterned(20);
    let snapshot = arena.snapshot().unwrap();
    let mut branches: Vec<Branch> = (0..BRANCHES).map(|_| snapshot.branch().unwrap()).collect();
    for (number, branch) in branches.iter_mut().enumerate() {
        branch[number % 20 * page..][..8].copy_from_slice(&(number as u64).to_ne_bytes());
    }
    arena.fill(7);
    assert!(mappings_of(&branches).iter().all(|count| *count == 1));
    for (number, branch) in branches.iter().enumerate() {
        let mut wanted = before.clone();
        wanted[number % 20 * page..][..8].copy_from_slice(&(number as u64).to_ne_bytes());
        assert!(branch[..] == wanted, "branch {number}");
    }
    // In any order.
    let last = branches.swap_remove(BRANCHES / 2);
    while !branches.is_empty() {
        branches.swap_remove(branches.len() / 3);
    }
    let number = BRANCHES / 2 % 20;
    assert!(last[..number * page] == before[..number * page]);
    drop(last);
    drop((branches, snapshot));
    expect_merged(&arena);
}

#[test]
fn views_and_branches_outlive_the_arena_on_other_threads() {
    let (mut arena, before) = patterned(30);
    let snapshot = arena.snapshot().unwrap();
    let view = snapshot.view().unwrap();
    let mut branch = snapshot.branch().unwrap();
    arena.fill(9);
    drop(snapshot);
    drop(arena);
    let reader = thread::spawn({
        let (view, before) = (view.clone(), before.clone());
        move || assert!(view[..] == before)
    });
    let writer = thread::spawn(move || {
        branch.fill(4);
        branch
    });
    reader.join().unwrap();
    let branch = writer.join().unwrap();
    assert!(view[..] == before && branch.iter().all(|byte| *byte == 4));
    drop(view);
    assert!(branch.iter().all(|byte| *byte == 4));
}

/// By the steps of a snapshot on its way; what is stored meanwhile is in the snapshot.
#[test]
fn what_is_stored_while_a_merge_is_half_done() {
    let pages = 6 * slice();
    let page = page_size();
    let (mut arena, before) = patterned(pages);
    for steps in 0..8 {
        let older = arena.snapshot().unwrap();
        let was = arena.to_vec();
        // Many, so that slices do not grow.
        for at in (0..pages).step_by(3) {
            arena[at * page + 7] = arena[at * page + 7].wrapping_add(1);
        }
        drop(older);
        let mut pending = arena.prepare().unwrap();
        for _ in 0..steps {
            pending.step(Duration::ZERO).unwrap();
            arena.check_invariants().unwrap();
            for at in (steps..pages).step_by(slice() / 3) {
                arena[at * page + 9] = arena[at * page + 9].wrapping_add(1);
            }
        }
        assert_eq!(pending.is_ready(), steps >= 6, "after {steps} steps");
        assert_eq!(pending.left().pages, pages.saturating_sub(steps * slice()));
        let now = arena.to_vec();
        let newer = pending.commit().unwrap();
        arena.fill(0);
        expect_bytes(&newer, &now);
        drop(newer);
        arena.copy_from_slice(&was);
        expect_merged(&arena);
    }
    assert!(arena[..] == before);
}

/// Each step takes some calls, so it is to be of many pages; and stores wait for it, so it is to be
/// of few copies.
#[test]
fn little_is_merged_in_few_steps_and_much_in_small_ones() {
    let (slices, clean) = (64, 40);
    let page = page_size();
    let (mut arena, _) = patterned(slices * slice());
    let dense = clean * slice()..slices * slice();
    for writes_much in [false, true] {
        let snapshot = arena.snapshot().unwrap();
        arena[3 * page] = 1;
        if writes_much {
            arena[dense.start * page..].fill(2);
        }
        drop(snapshot);
        let mut pending = arena.prepare().unwrap();
        let mut steps = 0;
        while !pending.is_ready() {
            let copies = arena.stats().store_bytes / page as u64;
            pending.step(Duration::ZERO).unwrap();
            let left = arena.stats().store_bytes / page as u64;
            assert!(copies - left <= slice() as u64, "{copies} - {left}");
            steps += 1;
        }
        let many = if writes_much { slices - clean } else { 0 };
        assert!((many..many + 12).contains(&steps), "{steps} steps");
        drop(pending);
        expect_merged(&arena);
    }
}

/// A snapshot that overlaps with another is one of copies, but the arena is not.
#[test]
fn an_arena_from_an_overlapping_snapshot_has_its_engine() {
    let (mut arena, _) = patterned(8);
    let _older = arena.snapshot().unwrap();
    arena[0] ^= 1;
    let overlapping = arena.snapshot().unwrap();
    assert!(arena.stats().protect_calls > 0);
    let other = overlapping.to_arena().unwrap();
    assert!(other[..] == arena[..]);
    let _snapshot = other.snapshot().unwrap();
    assert_eq!(other.stats().protect_calls, 0);
}

#[test]
fn a_guard_keeps_merging_away() {
    let (mut arena, _) = patterned(2 * slice());
    let snapshotter = arena.snapshotter();
    let snapshot = arena.snapshot().unwrap();
    arena.fill(2);
    drop(snapshot);
    let mut part = arena.writable(..page_size()).unwrap();
    snapshotter.tend(Duration::MAX).unwrap();
    let left = snapshotter.stats().unwrap().store_bytes as usize;
    assert_eq!(left, 2 * slice() * page_size());
    part.fill(3);
    drop(part);
    expect_merged(&arena);
    assert_eq!((arena[0], arena[page_size()]), (3, 2));
}

/// Views of 16 MiB and more are longer than the memory: what is behind it goes to and fro with the
/// last page, so that each view stays in one piece.
#[test]
fn long_memory_is_frozen_and_merged_again_and_again() {
    let pages = (20 << 20) / page_size();
    let (mut arena, mut bytes) = patterned(pages);
    for round in 0..4 {
        let snapshot = arena.snapshot().unwrap();
        let branch = snapshot.branch().unwrap();
        for page in [0, round + 1, pages - 1 - round, pages - 1] {
            arena[page * page_size() + round] ^= 0xff;
        }
        assert_eq!(mappings_of(&[branch]).len(), 1);
        expect_bytes(&snapshot, &bytes);
        bytes.copy_from_slice(&arena);
        drop(snapshot);
        expect_merged(&arena);
        assert!(arena[..] == bytes);
    }
}

/// A snapshot while another lives is the same one if nothing was stored in between.
#[test]
fn snapshots_between_which_nothing_was_stored_are_one() {
    let (mut arena, before) = patterned(50);
    let snapshots = [(); 3].map(|()| arena.snapshot().unwrap());
    let [one, two, three] = snapshots.each_ref().map(|one| one.view().unwrap());
    assert_eq!((one.as_ptr(), one.as_ptr()), (two.as_ptr(), three.as_ptr()));
    arena[0] ^= 0xff;
    let later = arena.snapshot().unwrap();
    assert_eq!(later.view().unwrap()[0], before[0] ^ 0xff);
    let changed = later.changed_since(&snapshots[1]).unwrap();
    assert_eq!(changed.into_iter().flatten().collect::<Vec<_>>(), [0]);
    let [one, two, three] = snapshots;
    drop((two, three));
    expect_bytes(&one, &before);
}

/// The memory that the kernel's copies took is given back.
#[test]
fn copies_are_given_back_when_they_are_merged() {
    let pages = 8 * slice();
    let (arena, _) = patterned(pages);
    let snapshot = arena.snapshot().unwrap();
    let copies = || crate::common::mappings::anonymous_in(&arena);
    assert_eq!(copies(), 0);
    let start = arena.as_mut_ptr();
    for page in 0..pages {
        // SAFETY: inside the arena, to which nobody has a reference.
        unsafe { start.wrapping_add(page * page_size()).write_volatile(1) };
    }
    assert_eq!(copies(), arena.len());
    assert_eq!(arena.stats().store_resident_bytes as usize, arena.len());
    drop(snapshot);
    expect_merged(&arena);
    assert_eq!(copies(), 0);
}

/// Four writers, each with an order of stores over many pages, under snapshots that come and go and
/// merges that begin and stop: no snapshot has a later store without an earlier one.
#[test]
fn snapshots_are_cut_at_one_instant() {
    let pages = 4 * slice() + 3;
    let mut arena = remap().build(pages * page_size()).unwrap();
    let snapshotter = arena.snapshotter();
    let words = arena.atomic_u64();
    let stop = AtomicBool::new(false);
    let steps: Vec<u64> = thread::scope(|scope| {
        let writers = [0, 1, 2, 3].map(|word| {
            let stop = &stop;
            scope.spawn(move || {
                let mut trail = Trail::new(words, word);
                let mut steps = 0;
                while !stop.load(Ordering::Relaxed) {
                    trail.step();
                    steps += 1;
                }
                steps
            })
        });
        let check = |snapshot: &Snapshot| {
            let bytes = bytes_of(snapshot);
            for word in 0..4 {
                Trail::steps_in(&bytes, word);
            }
            assert!(bytes_of(snapshot) == bytes, "a snapshot has changed");
        };
        let mut kept = None;
        for round in 0..40 {
            let snapshot = snapshotter.snapshot().unwrap();
            check(&snapshot);
            if let Some(kept) = &kept {
                check(kept);
            }
            // Some overlap, with merges between them that are never, half and wholly done.
            kept = (round % 5 == 0).then_some(snapshot);
            for _ in 0..round % 7 {
                snapshotter.tend(Duration::ZERO).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    expect_merged(&arena);
    for (word, steps) in steps.into_iter().enumerate() {
        assert_eq!(Trail::steps_in(&arena, word), steps);
    }
}

/// Where the file knows its holes, a branch and a view are as long as the arena, zeros included.
#[test]
fn what_was_never_stored_to_is_zeros_everywhere() {
    let page = page_size();
    let mut arena = remap().build(3000 * page).unwrap();
    arena[1000 * page] = 1;
    let snapshot = arena.snapshot().unwrap();
    arena[2000 * page] = 2;
    let mut branch = snapshot.branch().unwrap();
    branch[2999 * page] = 3;
    let mut wanted = vec![0; arena.len()];
    wanted[1000 * page] = 1;
    expect_bytes(&snapshot, &wanted);
    assert!(snapshot.view().unwrap()[..] == wanted);
    let copy = snapshot.to_arena().unwrap();
    assert!(copy[..] == wanted);
    wanted[2999 * page] = 3;
    assert!(branch[..] == wanted);
}
