//! The mapping wall (`vm.max_map_count`): writes go on, and snapshots stay exact.

use crate::common::mappings::{self, Mapping};
use crate::common::signals;
use crate::common::{Ended, expect_bytes, in_child_on, page_by_page, page_size, patterned};
use pagecow::{Arena, ArenaBuilder, Engine, Snapshot, Stats};

const LEN: usize = 64 << 20;
/// An arena of which all pages can be looked at in a short time.
const SHORT: usize = 8 << 20;
/// Mappings that are left for the arena; each second page of it would need 8192.
const LEFT: usize = 500;

/// Only mprotect splits mappings. Whatever is saved ahead here is saved because of the wall.
fn on_mprotect(scenario: impl FnOnce(ArenaBuilder)) -> Ended {
    in_child_on(&[Engine::Mprotect], |engine| {
        scenario(page_by_page(engine));
    })
}

fn write_every_second_page(arena: &mut Arena, byte: u8) {
    let page = page_size();
    for offset in (0..arena.len()).step_by(2 * page) {
        arena[offset + 8] = byte;
    }
}

#[track_caller]
fn expect_way_out(stats: &Stats) {
    assert!(stats.wall_exits > 0, "{stats:?}");
    assert!(stats.pages_saved_ahead > 0, "{stats:?}");
    assert!(stats.pages_saved >= stats.faults - stats.soft_faults - stats.spurious_faults);
}

/// Each page has at most one copy.
#[track_caller]
fn expect_no_more_than_a_copy_each(arena: &Arena, snapshot: &Snapshot) {
    let pages = arena.page_count() as u64;
    assert!(snapshot.stats().pages_saved <= pages);
    assert!(arena.stats().pages_saved <= pages * arena.stats().snapshots);
}

#[test]
fn with_few_mappings_left() {
    let ended = on_mprotect(|builder| {
        let (mut arena, before) = patterned(builder, LEN / page_size());
        let filler = mappings::leave(LEFT);
        let snapshot = arena.snapshot().unwrap();
        write_every_second_page(&mut arena, 0xff);
        drop(filler);
        let stats = arena.stats();
        expect_way_out(&stats);
        expect_no_more_than_a_copy_each(&arena, &snapshot);
        expect_bytes(&snapshot, &before);
        assert!(
            arena
                .iter()
                .skip(8)
                .step_by(2 * page_size())
                .all(|byte| *byte == 0xff)
        );
        drop(snapshot);
        arena.check_invariants().unwrap();
        assert_eq!(arena.stats().store_bytes, 0);
    });
    ended.expect_finished();
}

/// Mappings of memory that was armed before it was ever written do not merge by themselves.
#[test]
fn with_few_mappings_left_and_armed_before_anything_was_written() {
    let ended = on_mprotect(|builder| {
        let mut arena = builder.build(SHORT).unwrap();
        let first = arena.snapshot().unwrap();
        let filler = mappings::leave(LEFT);
        write_every_second_page(&mut arena, 1);
        expect_way_out(&arena.stats());
        let between = arena.to_vec();
        let second = arena.snapshot().unwrap();
        let unbroken = mappings::count();
        let exits = arena.stats().wall_exits;
        write_every_second_page(&mut arena, 2);
        assert!(arena.stats().wall_exits > exits);
        assert!(mappings::count() > unbroken);
        let third = arena.snapshot().unwrap();
        assert!(
            mappings::count() <= unbroken + 4,
            "mappings do not merge again"
        );
        drop(filler);
        expect_bytes(&first, &vec![0; SHORT]);
        expect_bytes(&second, &between);
        expect_bytes(&third, &arena);
        expect_no_more_than_a_copy_each(&arena, &first);
        arena.check_invariants().unwrap();
        drop((first, third));
        arena.check_invariants().unwrap();
        expect_bytes(&second, &between);
    });
    ended.expect_finished();
}

/// Arming a slice needs a mapping more, and arming everything needs none.
#[test]
fn a_snapshot_with_no_mapping_left() {
    let ended = on_mprotect(|builder| {
        let (mut arena, before) = patterned(builder, LEN / page_size());
        let mut pending = arena.prepare().unwrap();
        let filler = mappings::leave_none();
        pending.step(std::time::Duration::MAX).unwrap();
        assert!(!pending.is_ready() && pending.is_stalled());
        assert_eq!(pending.left().pages, LEN / page_size());
        drop(pending);
        let snapshot = arena.snapshot().unwrap();
        drop(filler);
        arena.check_invariants().unwrap();
        arena.fill(0xff);
        expect_bytes(&snapshot, &before);
    });
    ended.expect_finished();
}

/// No page is open, so there is no neighbour to join: all that is left goes at once.
#[test]
fn with_no_mapping_left_and_no_open_page() {
    let ended = on_mprotect(|builder| {
        const PAGES: usize = 256;
        let (mut arena, before) = patterned(builder, PAGES);
        let snapshot = arena.snapshot().unwrap();
        let mut bytes = vec![0; before.len()];
        let filler = mappings::leave_none();
        signals::set_errno(77);
        arena[100 * page_size() + 8] = 0xff;
        let errno = signals::errno();
        let at_the_wall = arena.stats();
        write_every_second_page(&mut arena, 0xff);
        let after = arena.stats();
        let result = snapshot.read_at(0, &mut bytes);
        drop(filler);

        result.unwrap();
        assert!(bytes == before);
        // The kernel refused a call inside the handler. The program does not notice.
        assert_eq!(errno, 77);
        assert_eq!((at_the_wall.faults, at_the_wall.wall_exits), (1, 1));
        assert_eq!(at_the_wall.pages_saved, PAGES as u64);
        assert_eq!(at_the_wall.pages_saved_ahead, PAGES as u64 - 1);
        assert_eq!((after.faults, after.pages_saved), (1, PAGES as u64));
        arena.check_invariants().unwrap();

        let later = arena.snapshot().unwrap();
        // Over-reports, but misses nothing.
        let all = 0..PAGES;
        assert_eq!(later.changed_since(&snapshot).unwrap(), [all]);
        let now = arena.to_vec();
        arena.fill(3);
        expect_bytes(&later, &now);
        expect_bytes(&snapshot, &before);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// A snapshot that the kernel refuses leaves everything as it was.
#[test]
fn a_first_snapshot_with_no_mapping_left() {
    let ended = on_mprotect(|builder| {
        let (mut arena, before) = patterned(builder, 256);
        let filler = mappings::leave_none();
        // What only maps, and splits nothing, is granted a little longer.
        let kinds = [libc::PROT_READ, libc::PROT_EXEC].into_iter().cycle();
        let one = |protection| Mapping::try_new(1, protection);
        let more: Vec<Mapping> = kinds.map_while(one).take(8).collect();
        let refused = arena.snapshot();
        drop(more);
        drop(filler);
        if let Err(error) = refused {
            assert_eq!(arena.stats().live_snapshots, 0, "{error}");
            assert!(
                mappings::is_writable(arena.as_ptr(), arena.len()),
                "{error}"
            );
        }
        let snapshot = arena.snapshot().unwrap();
        arena.fill(1);
        expect_bytes(&snapshot, &before);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// An arena of which each second page would use all mappings.
fn arena_beyond_all_mappings(builder: ArenaBuilder) -> Arena {
    let len = mappings::limit() * 2 * page_size();
    builder
        .build(len.next_power_of_two().max(512 << 20))
        .unwrap()
}

/// It was empty, then each second page was written, then each was written again.
#[track_caller]
fn expect_two_writings(arena: &Arena, first: &Snapshot, second: &Snapshot) {
    let page = page_size();
    let mut word = [0; 16];
    for offset in (0..arena.len()).step_by(page) {
        let written = u8::from(offset.is_multiple_of(2 * page));
        first.read_at(offset, &mut word).unwrap();
        assert_eq!(word, [0; 16]);
        second.read_at(offset, &mut word).unwrap();
        assert_eq!((word[8], word[0]), (written, 0));
        assert_eq!(arena[offset + 8], 2 * written);
    }
}

/// Nothing else uses mappings.
#[test]
fn an_arena_that_would_use_all_mappings_by_itself() {
    let ended = on_mprotect(|builder| {
        let mut arena = arena_beyond_all_mappings(builder);
        let first = arena.snapshot().unwrap();
        write_every_second_page(&mut arena, 1);
        expect_way_out(&arena.stats());
        expect_no_more_than_a_copy_each(&arena, &first);
        // Room is left for the rest of the program.
        let limit = mappings::limit();
        assert!(mappings::count() < limit * 7 / 8);
        assert!(arena.stats().vma_peak < limit as u64 * 7 / 8);

        let second = arena.snapshot().unwrap();
        let exits = arena.stats().wall_exits;
        write_every_second_page(&mut arena, 2);
        assert!(arena.stats().wall_exits > exits);
        expect_two_writings(&arena, &first, &second);
    });
    ended.expect_finished();
}

#[test]
fn userfaultfd_needs_no_mappings_for_isolated_pages() {
    let ended = in_child_on(&[Engine::Userfaultfd], |engine| {
        let mut arena = arena_beyond_all_mappings(page_by_page(engine));
        let count = mappings::count();
        let isolated = arena.page_count() as u64 / 2;
        let first = arena.snapshot().unwrap();
        for round in 1..=2 {
            let snapshot = arena.snapshot().unwrap();
            write_every_second_page(&mut arena, round);
            let stats = arena.stats();
            let wanted = u64::from(round) * isolated;
            assert_eq!((stats.faults, stats.pages_saved), (wanted, wanted));
            assert_eq!((stats.wall_exits, stats.pages_saved_ahead), (0, 0));
            // Those of the store.
            assert!(mappings::count() < count + 50);
            if round == 2 {
                expect_two_writings(&arena, &first, &snapshot);
            }
        }
    });
    ended.expect_finished();
}

/// Memory that was written before, and few mappings left.
#[test]
fn userfaultfd_with_few_mappings_left() {
    let ended = in_child_on(&[Engine::Userfaultfd], |engine| {
        let (mut arena, before) = patterned(page_by_page(engine), LEN / page_size());
        let filler = mappings::leave(50);
        let snapshot = arena.snapshot().unwrap();
        write_every_second_page(&mut arena, 0xff);
        drop(filler);
        let stats = arena.stats();
        let isolated = arena.page_count() as u64 / 2;
        assert_eq!((stats.faults, stats.pages_saved), (isolated, isolated));
        assert_eq!((stats.wall_exits, stats.pages_saved_ahead), (0, 0));
        expect_bytes(&snapshot, &before);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// The mapping protects blocks that were never touched. The first store has to split it.
#[test]
fn userfaultfd_with_no_mapping_left_for_an_untouched_block() {
    const LEN: usize = 32 << 20;
    let ended = in_child_on(&[Engine::Userfaultfd], |engine| {
        for touched in [0, 1, 2] {
            let mut arena = page_by_page(engine).build(LEN).unwrap();
            // Reading the arena would touch it.
            let mut before = vec![0; LEN];
            for half in 0..touched {
                arena[half * LEN / 2] = 7;
                before[half * LEN / 2] = 7;
            }
            let snapshot = arena.snapshot().unwrap();
            let filler = mappings::leave_none();
            signals::set_errno(77);
            // Neighbours would need no further mapping.
            for part in (0..16).map(|part| (part * 3 + 5) % 16) {
                arena[part * LEN / 16 + 8] = 1;
            }
            let errno = signals::errno();
            drop(filler);
            assert_eq!(errno, 77);
            expect_bytes(&snapshot, &before);
            expect_no_more_than_a_copy_each(&arena, &snapshot);
            arena.check_invariants().unwrap();

            let now = arena.to_vec();
            let later = arena.snapshot().unwrap();
            arena.fill(3);
            expect_bytes(&later, &now);
            expect_bytes(&snapshot, &before);
            arena.check_invariants().unwrap();
        }
    });
    ended.expect_finished();
}

/// Mappings that these bytes consist of.
fn mappings_of(arena: &Arena) -> u64 {
    let regions = region::query_range(arena.as_ptr(), arena.len()).unwrap();
    regions.count() as u64
}

/// With userfaultfd, mappings protect the blocks that were never touched, and these mappings count.
#[test]
fn mappings_of_untouched_blocks() {
    let ended = in_child_on(&[Engine::Userfaultfd], |engine| {
        const BLOCKS: usize = 64;
        let block = page_size() * page_size() / 8;
        let mut arena = page_by_page(engine).build(BLOCKS * block).unwrap();
        for touched in (0..BLOCKS).step_by(2) {
            arena[touched * block] = 1;
        }
        let snapshot = arena.snapshot().unwrap();
        let guards = 2;
        assert_eq!(mappings_of(&arena), BLOCKS as u64);
        assert_eq!(arena.stats().vma_peak, BLOCKS as u64 + guards);
        for untouched in (1..BLOCKS).step_by(2) {
            arena[untouched * block] = 1;
        }
        assert_eq!(mappings_of(&arena), 1);
        assert_eq!(arena.stats().vma_peak, BLOCKS as u64 + guards);
        drop(snapshot);
    });
    ended.expect_finished();
}
