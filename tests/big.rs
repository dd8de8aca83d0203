//! An arena far beyond what is resident.

mod common;

use common::mappings::{page_tables, resident};
use common::{in_child, page_by_page, page_size};

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
