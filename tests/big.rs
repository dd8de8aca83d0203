//! An arena far beyond what is resident.

mod common;

use common::mappings::{page_tables, resident, without_huge_pages};
use common::{in_child, on, page_by_page, page_size};

#[test]
fn sixty_four_gigabytes_with_three_pages_touched() {
    let ended = in_child("sixty_four_gigabytes_with_three_pages_touched", |engine| {
        const LEN: usize = 64 << 30;
        const MOST: usize = 8 << 20;
        let start = resident();
        let tables = page_tables();
        let grown = || resident().saturating_sub(start);
        let touched = [0, LEN / 2 + 12345, LEN - 1];

        let mut arena = page_by_page(engine).build(LEN).unwrap();
        assert_eq!(arena.len(), LEN);
        for offset in touched {
            arena[offset] = 1;
        }
        let mut snapshots = Vec::new();
        for round in 1..=5 {
            let snapshot = arena.snapshot().unwrap();
            for offset in touched {
                arena[offset] = round + 1;
            }
            // Never written, and only read.
            assert_eq!(arena[LEN / 3], 0);
            snapshots.push((snapshot, round));
        }
        for (snapshot, round) in &snapshots {
            for offset in touched {
                let mut bytes = [9; 2];
                let bytes = &mut bytes[..1 + usize::from(offset + 1 < LEN)];
                snapshot.read_at(offset, bytes).unwrap();
                assert_eq!(bytes[0], *round);
                assert!(bytes[1..].iter().all(|byte| *byte == 0));
            }
        }
        let changed = snapshots[4].0.changed_since(&snapshots[0].0).unwrap();
        let pages = touched.map(|offset| offset / page_size());
        assert_eq!(changed, pages.map(|page| page..page + 1));
        let stats = arena.stats();
        assert_eq!((stats.faults, stats.pages_saved), (15, 15));
        assert!(grown() < MOST, "grown by {}", grown());
        // Arming what was never touched takes no entries for its pages.
        let tables = page_tables().saturating_sub(tables);
        assert!(tables < 2 << 20, "page tables grown by {tables}");
        drop(arena);
        snapshots.swap_remove(1);
        drop(snapshots);
        assert!(grown() < MOST, "grown by {}", grown());
    });
    ended.expect_finished();
}

/// Where the system makes huge pages unasked, a first touch in the handler would have 2 MiB zeroed, and what is
/// written here and there would take that much each time.
#[test]
fn neither_copies_nor_tables_become_huge_pages() {
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return;
    }
    let ended = in_child("neither_copies_nor_tables_become_huge_pages", |engine| {
        const PAGES: usize = 1 << 16;
        let before = without_huge_pages();
        let arena = on(engine).build(PAGES * page_size()).unwrap();
        let tables = without_huge_pages() - before;
        assert!(tables >= 12 * PAGES, "only {tables} bytes of tables");
        let _snapshot = arena.snapshot().unwrap();
        let store = without_huge_pages() - before - tables;
        let wanted = PAGES * (page_size() + 32);
        assert!(store >= wanted, "only {store} bytes of the store");
        // What the arena itself is made of is as the system and its user want.
        assert!(store + tables < 3 * wanted);
    });
    ended.expect_finished();
}
