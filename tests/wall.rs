//! The mapping wall (`vm.max_map_count`): writes go on, and snapshots stay exact.

mod common;

use common::mappings::{self, Mapping};
use common::signals;
use common::{expect_bytes, in_child, page_size, pattern};
use pagecow::{Arena, Snapshot, Stats};

const LEN: usize = 64 << 20;
/// An arena of which all pages can be looked at in a short time.
const SHORT: usize = 8 << 20;
/// Mappings that are left for the arena; each second page of it would need 8192.
const LEFT: usize = 500;

fn arena_of(bytes: &[u8]) -> Arena {
    let mut arena = Arena::new(bytes.len()).unwrap();
    arena.copy_from_slice(bytes);
    arena
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
    let ended = in_child("with_few_mappings_left", || {
        let before = pattern(LEN / page_size());
        let mut arena = arena_of(&before);
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
    let test = "with_few_mappings_left_and_armed_before_anything_was_written";
    let ended = in_child(test, || {
        let mut arena = Arena::new(SHORT).unwrap();
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

/// No page is open, so there is no neighbour to join: all that is left goes at once.
#[test]
fn with_no_mapping_left_and_no_open_page() {
    let ended = in_child("with_no_mapping_left_and_no_open_page", || {
        const PAGES: usize = 256;
        let before = pattern(PAGES);
        let mut arena = arena_of(&before);
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
        // The kernel refused a call inside the handler, which is none of the program's business.
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
    let ended = in_child("a_first_snapshot_with_no_mapping_left", || {
        let before = pattern(256);
        let mut arena = arena_of(&before);
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

/// Nobody else uses mappings, and the arena alone would need more than there are.
#[test]
fn an_arena_that_would_use_all_mappings_by_itself() {
    let ended = in_child("an_arena_that_would_use_all_mappings_by_itself", || {
        let page = page_size();
        let len = (mappings::limit() * 2 * page)
            .next_power_of_two()
            .max(512 << 20);
        let mut arena = Arena::new(len).unwrap();
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
        let mut word = [0; 16];
        for offset in (0..len).step_by(page) {
            let written = offset.is_multiple_of(2 * page);
            first.read_at(offset, &mut word).unwrap();
            assert_eq!(word, [0; 16]);
            second.read_at(offset, &mut word).unwrap();
            assert_eq!((word[8], word[0]), (u8::from(written), 0));
            assert_eq!(arena[offset + 8], 2 * u8::from(written));
        }
    });
    ended.expect_finished();
}
