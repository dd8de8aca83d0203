//! Arenas far beyond what is resident.

use std::time::{Duration, Instant};

use crate::common::mappings::{page_tables, resident, without_huge_pages};
use crate::common::{by_faults, in_child, on, page_by_page, page_size};
use pagecow::Engine;

/// Resident memory and memory of page tables, and by how much they have grown.
struct Grown {
    resident: usize,
    tables: usize,
}

impl Grown {
    fn since_now() -> Self {
        Self {
            resident: resident(),
            tables: page_tables(),
        }
    }

    #[track_caller]
    fn expect_at_most(&self, most: usize, most_tables: usize) {
        let grown = resident().saturating_sub(self.resident);
        assert!(grown < most, "grown by {grown}");
        let tables = page_tables().saturating_sub(self.tables);
        assert!(tables < most_tables, "page tables grown by {tables}");
    }
}

/// Five snapshots, with three pages written after each. Page tables may grow by `most_tables`
/// bytes.
fn three_pages_touched(engine: Engine, len: usize, most_tables: usize) {
    const MOST: usize = 8 << 20;
    let grown = Grown::since_now();
    let touched = [0, len / 2 + 12345, len - 1];

    let mut arena = page_by_page(engine).build(len).unwrap();
    assert_eq!(arena.len(), len);
    for offset in touched {
        arena[offset] = 1;
    }
    let mut snapshots = Vec::new();
    for round in 1..=5 {
        let begin = Instant::now();
        let snapshot = arena.snapshot().unwrap();
        println!("snapshot {round} took {:?}", begin.elapsed());
        for offset in touched {
            arena[offset] = round + 1;
        }
        // Never written, and only read.
        assert_eq!(arena[len / 3], 0);
        snapshots.push((snapshot, round));
    }
    for (snapshot, round) in &snapshots {
        for offset in touched {
            let mut bytes = [9; 2];
            let bytes = &mut bytes[..1 + usize::from(offset + 1 < len)];
            snapshot.read_at(offset, bytes).unwrap();
            assert_eq!(bytes[0], *round);
            assert!(bytes[1..].iter().all(|byte| *byte == 0));
        }
    }
    let changed = snapshots[4].0.changed_since(&snapshots[0].0).unwrap();
    let pages = touched.map(|offset| offset / page_size());
    assert_eq!(changed, pages.map(|page| page..page + 1));
    let stats = arena.stats();
    let faults = if by_faults(engine) { 15 } else { stats.faults };
    assert_eq!((stats.faults, stats.pages_saved), (faults, 15));
    // Arming what was never touched takes no entries for its pages.
    grown.expect_at_most(MOST, most_tables);
    drop(arena);
    snapshots.swap_remove(1);
    drop(snapshots);
    grown.expect_at_most(MOST, most_tables);
}

#[test]
fn sixty_four_gigabytes_with_three_pages_touched() {
    let ended = in_child(|engine| {
        three_pages_touched(engine, 64 << 30, 2 << 20);
    });
    ended.expect_finished();
}

/// The most pages that an arena may have, 16 TiB with pages of 4 KiB, as far as there is address
/// space for it and for its copies. The blocks of userfaultfd are of 2 GiB then: 4 MiB of page
/// tables for each of the three.
#[test]
fn as_many_pages_as_possible_with_three_of_them_touched() {
    let ended = in_child(|engine| {
        let most = (u32::MAX as usize - 1) * page_size();
        three_pages_touched(engine, most.min((16 << 40) - 2 * 4096), 20 << 20);
    });
    ended.expect_finished();
}

/// Untouched blocks are armed as a whole, however small the slices are: arming a part would take
/// page tables. Each preparation begins with a small slice.
#[test]
fn sixty_four_gigabytes_in_small_slices() {
    let ended = in_child(|engine| {
        const LEN: usize = 64 << 30;
        let grown = Grown::since_now();
        let mut arena = page_by_page(engine).build(LEN).unwrap();
        for _ in 0..1000 {
            let mut pending = arena.prepare().unwrap();
            pending.step(Duration::ZERO).unwrap();
        }
        arena[LEN / 2] = 1;
        let snapshot = arena.snapshot().unwrap();
        arena[LEN / 2] = 2;
        let mut byte = [0];
        snapshot.read_at(LEN / 2, &mut byte).unwrap();
        assert_eq!(byte, [1]);
        grown.expect_at_most(8 << 20, 2 << 20);
    });
    ended.expect_finished();
}

/// Where the system makes huge pages unasked, a first touch in the handler would have 2 MiB zeroed,
/// and each scattered write would take as much memory.
#[test]
fn neither_copies_nor_tables_become_huge_pages() {
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return;
    }
    let ended = in_child(|engine| {
        const PAGES: usize = 1 << 16;
        let before = without_huge_pages();
        let mut arena = on(engine).build(PAGES * page_size()).unwrap();
        let tables = without_huge_pages() - before;
        assert!(tables >= 12 * PAGES, "only {tables} bytes of tables");
        let _snapshot = arena.snapshot().unwrap();
        // With the engine that remaps it takes two.
        arena[0] = 1;
        let _another = (!by_faults(engine)).then(|| arena.snapshot().unwrap());
        let store = without_huge_pages() - before - tables;
        let wanted = PAGES * (page_size() + 32);
        assert!(store >= wanted, "only {store} bytes of the store");
        // The arena's own memory is as the system and its user want.
        assert!(store + tables < 3 * wanted);
    });
    ended.expect_finished();
}
