//! Standing ready: pages that nobody writes are armed between snapshots.

use std::time::Duration;

use pagecow::{Arena, ArenaBuilder, Engine, Stats, Window};

use crate::common::{expect_bytes, for_each_fault_engine, on, page_size, pattern};

const PAGES: usize = 2048;
const LONG: Duration = Duration::from_secs(3600);

/// An arena that is looked after by hand, and each time one looks, what was not written since.
fn standing_ready(engine: Engine) -> ArenaBuilder {
    on(engine)
        .keeper(false)
        .stand_ready(true)
        .cold(Duration::ZERO)
}

fn filled(builder: ArenaBuilder) -> (Arena, Vec<u8>) {
    let bytes = pattern(PAGES);
    let mut arena = builder.build(bytes.len()).unwrap();
    arena.copy_from_slice(&bytes);
    (arena, bytes)
}

/// Pages that a snapshot taken now would have to arm.
fn open(arena: &Arena) -> usize {
    arena.prepare().unwrap().left().pages
}

/// Tends until this holds.
fn tend_until(arena: &Arena, done: impl Fn() -> bool) {
    while !done() {
        arena.tend(LONG);
        std::thread::yield_now();
    }
}

/// Tends until all pages are armed.
fn tend_until_armed(arena: &Arena) {
    tend_until(arena, || open(arena) == 0);
}

#[test]
fn an_arena_is_ready_before_its_first_snapshot() {
    for_each_fault_engine(|engine| {
        let (mut arena, mut bytes) = filled(standing_ready(engine));
        assert_eq!(open(&arena), PAGES);
        tend_until_armed(&arena);
        arena.check_invariants().unwrap();
        let stats = arena.stats();
        assert!(stats.pages_armed_early >= PAGES as u64);
        assert_eq!((stats.soft_faults, stats.snapshots), (0, 0));
        assert_eq!(arena[..], bytes[..]);

        // A store before the snapshot needs no copy, one after it does.
        arena[0] = 0xaa;
        bytes[0] = 0xaa;
        assert_eq!(arena.stats().soft_faults, 1);
        assert_eq!(open(&arena), 1);
        let snapshot = arena.snapshot().unwrap();
        arena[0] = 0xbb;
        arena[page_size()] = 0xbb;
        assert_eq!(arena.stats().pages_saved, 2);
        expect_bytes(&snapshot, &bytes);
        arena.check_invariants().unwrap();
    });
}

/// Writes these pages until each has faulted this often without being armed again.
fn keep_writing(arena: &mut Arena, pages: &[usize], done: impl Fn(&Arena) -> bool) {
    let page_size = page_size();
    while !done(arena) {
        for page in pages {
            arena[page * page_size] = arena[page * page_size].wrapping_add(1);
        }
        arena.tend(LONG);
    }
}

#[test]
fn what_is_written_all_the_time_stays_open_and_nothing_else() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = filled(standing_ready(engine));
        // Every block has one, and there are two neighbours.
        let hot: Vec<usize> = (0..PAGES).step_by(50).chain([101]).collect();
        // Each page has faulted at least twice, so that they are known to be hot, and pages are
        // tried less and less often.
        let known = 3 * hot.len() as u64;
        keep_writing(&mut arena, &hot, |arena| {
            arena.stats().soft_faults >= known && open(arena) == hot.len()
        });
        let stats = arena.stats();
        assert!(stats.soft_fault_time > Duration::ZERO);
        let snapshot = arena.snapshot().unwrap();
        let bytes = arena.to_vec();
        for page in 0..PAGES {
            arena[page * page_size()] ^= 1;
        }
        expect_bytes(&snapshot, &bytes);
        arena.check_invariants().unwrap();
    });
}

#[test]
fn what_is_written_everywhere_all_the_time_is_left_alone() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = filled(standing_ready(engine));
        let all: Vec<usize> = (0..PAGES).collect();
        // In this order no page is beside one that was just opened.
        let mixed: Vec<usize> = all.iter().map(|page| page * 577 % PAGES).collect();
        keep_writing(&mut arena, &mixed, |arena| {
            arena.stats().pages_armed_early >= 2 * PAGES as u64
        });
        // A block that fails takes five faults, and other pages of it none.
        let Stats {
            soft_faults,
            pages_armed_early,
            ..
        } = arena.stats();
        assert!(
            soft_faults <= pages_armed_early / 64 * 5 + 5,
            "{soft_faults}"
        );
        arena.check_invariants().unwrap();
    });
}

#[test]
fn memory_that_is_filled_in_order_takes_few_faults() {
    for_each_fault_engine(|engine| {
        let mut arena = standing_ready(engine).build(PAGES * page_size()).unwrap();
        tend_until_armed(&arena);
        for page in 0..PAGES {
            arena[page * page_size()] = 1;
        }
        let faults = arena.stats().soft_faults;
        assert!(faults <= PAGES as u64 / 64, "{faults}");
        arena.check_invariants().unwrap();
    });
}

#[test]
fn pages_are_armed_while_a_snapshot_lives() {
    for_each_fault_engine(|engine| {
        let (mut arena, mut bytes) = filled(standing_ready(engine).window(Window::Page));
        let first = arena.snapshot().unwrap();
        let before = bytes.clone();
        for page in (0..PAGES).step_by(3) {
            arena[page * page_size()] = 0xaa;
            bytes[page * page_size()] = 0xaa;
        }
        let saved = arena.stats().pages_saved;
        assert_eq!(open(&arena), saved as usize);
        tend_until_armed(&arena);
        arena.check_invariants().unwrap();
        // These have their copies, and need no other.
        for page in (0..PAGES).step_by(9) {
            arena[page * page_size()] = 0xbb;
            bytes[page * page_size()] = 0xbb;
        }
        let stats = arena.stats();
        assert_eq!(stats.pages_saved, saved);
        assert!(stats.soft_faults > 0);
        let second = arena.snapshot().unwrap();
        arena.fill(0);
        expect_bytes(&first, &before);
        expect_bytes(&second, &bytes);
        arena.check_invariants().unwrap();
    });
}

/// A block that fails is opened as a whole, but for pages that a snapshot needs.
#[test]
fn a_block_that_fails_makes_no_copies() {
    for_each_fault_engine(|engine| {
        let (mut arena, bytes) = filled(standing_ready(engine).window(Window::Page));
        let snapshot = arena.snapshot().unwrap();
        let page_size = page_size();
        for page in (0..64).filter(|page| page % 8 != 5) {
            arena[page * page_size] = 0xaa;
        }
        tend_until_armed(&arena);
        let saved = arena.stats().pages_saved;
        for page in [0, 2, 4, 7, 9, 11, 14, 17, 20] {
            arena[page * page_size] = 0xbb;
        }
        assert_eq!(arena.stats().pages_saved, saved);
        arena.check_invariants().unwrap();
        expect_bytes(&snapshot, &bytes);
    });
}

#[test]
fn all_stays_open_after_open_all_until_the_next_snapshot() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = filled(standing_ready(engine));
        tend_until_armed(&arena);
        assert!(arena.open_all().unwrap());
        let armed = arena.stats().pages_armed_early;
        for _ in 0..100 {
            arena.tend(LONG);
        }
        assert_eq!(arena.stats().pages_armed_early, armed);
        assert_eq!(open(&arena), PAGES);
        drop(arena.snapshot().unwrap());
        arena[0] = 1;
        tend_until_armed(&arena);
    });
}

/// A guard's pages are left alone, the others are not.
#[test]
fn pages_of_a_guard_are_left_out() {
    for_each_fault_engine(|engine| {
        let (mut arena, bytes) = filled(standing_ready(engine));
        let pending = arena.prepare().unwrap();
        let snapshotter = arena.snapshotter();
        let mut part = arena.writable(70 * page_size()..75 * page_size()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while pending.left().pages > 5 {
                    snapshotter.tend(LONG).unwrap();
                    std::thread::yield_now();
                }
            });
        });
        assert_eq!(pending.left().pages, 5);
        part.copy_from_slice(&bytes[70 * page_size()..75 * page_size()]);
        drop(part);
        assert_eq!(arena.stats().soft_faults, 0);
        arena.check_invariants().unwrap();
        tend_until_armed(&arena);
    });
}

/// What was written before the first snapshot says what will be written after it.
#[test]
fn the_first_interval_has_a_past() {
    for_each_fault_engine(|engine| {
        let faults = |stand_ready| {
            // It takes half a second until blocks that failed are tried again.
            let builder = standing_ready(engine).cold(Duration::from_millis(250));
            let builder = builder.stand_ready(stand_ready);
            let (mut arena, _) = filled(builder);
            let dense: Vec<usize> = (512..1536).map(|page| page * 5 % 1024 + 512).collect();
            if stand_ready {
                tend_until_armed(&arena);
                keep_writing(&mut arena, &dense, |arena| open(arena) >= dense.len());
            }
            let snapshot = arena.snapshot().unwrap();
            let before = arena.stats();
            for page in dense {
                arena[page * page_size()] = 1;
            }
            drop(snapshot);
            let after = arena.stats();
            after.faults - after.soft_faults - (before.faults - before.soft_faults)
        };
        let (without, with) = (faults(false), faults(true));
        assert!(with * 4 <= without, "{with} and {without}");
    });
}

/// Frames are resident before the first snapshot, and stay.
#[test]
fn frames_are_made_ready_in_advance() {
    for_each_fault_engine(|engine| {
        let (arena, _) = filled(standing_ready(engine));
        let wanted = (PAGES / 64 * page_size()) as u64;
        tend_until(&arena, || arena.stats().store_resident_bytes >= wanted);
        assert!(arena.stats().store_resident_bytes <= wanted + (256 << 10));
        arena.check_invariants().unwrap();
    });
}

/// An arena in huge pages is opened by them.
#[test]
fn a_huge_page_is_not_split() {
    for_each_fault_engine(|engine| {
        let (mut arena, bytes) = filled(standing_ready(engine).huge_pages(true));
        tend_until_armed(&arena);
        arena[700 * page_size()] = bytes[700 * page_size()];
        assert_eq!(open(&arena), 512);
        tend_until_armed(&arena);
        let snapshot = arena.snapshot().unwrap();
        arena.fill(0);
        expect_bytes(&snapshot, &bytes);
        arena.check_invariants().unwrap();
    });
}
