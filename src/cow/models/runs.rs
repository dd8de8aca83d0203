//! Runs of pages that one call opens: windows, blocks without a snapshot, growing beside an open page.

use super::*;

/// Claims over a whole disarmed run: a fault deals with its neighbour, which another thread has claimed and is
/// copying, or is about to.
#[test]
fn window_and_copy_in_progress() {
    model(3, || {
        let shared = arena_of_pairs(2, 2);
        let snapshot = shared.snapshot();
        let other = spawn(&shared, |shared| {
            shared.write(2, 1);
            shared.write(3, 2);
        });
        shared.write(0, 3);
        assert_eq!(shared.frozen_page(&snapshot, 1).unwrap(), [0, 0]);
        other.join().unwrap();
        for index in [0, 1] {
            assert_eq!(shared.frozen_page(&snapshot, index).unwrap(), [0, 0]);
        }
        assert_eq!([0, 2, 3].map(|at| shared.engine.load(at)), [3, 1, 2]);
        assert_eq!(shared.store.in_use(), 2);
        shared.assert_settled();
    });
}

/// A fault that deals with two pages, and a commit: neither is open afterwards unless it is known.
#[test]
fn window_and_commit() {
    model(3, || {
        let shared = arena_of_pairs(2, 1);
        let first = shared.snapshot();
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        let second = taker.join().unwrap();
        let seen = shared.frozen(&second, 0).unwrap();
        shared.assert_settled();
        shared.write(1, 2);
        shared.write(0, 2);
        assert_eq!(shared.frozen(&second, 0).unwrap(), seen);
        assert_eq!(shared.frozen(&second, 1).unwrap(), 0);
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        shared.assert_settled();
    });
}

/// Pages copied ahead of any write, and a reader that is in the middle of one of them.
#[test]
fn window_and_reader() {
    model(2, || {
        let shared = arena_of_pairs(2, 2);
        let snapshot = shared.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&shared, move |shared| {
                assert_eq!(shared.frozen_page(&snapshot, 1).unwrap(), [0, 0]);
            })
        };
        shared.write(0, 1);
        shared.write(2, 2);
        shared.write(3, 3);
        reader.join().unwrap();
    });
}

/// Near the wall two runs grow towards each other, and each ends where the other has claimed.
#[test]
fn growing_runs_meet() {
    model(2, || {
        let shared = arena(4);
        let snapshot = shared.snapshot();
        shared.write(0, 1);
        shared.write(3, 1);
        shared.engine.no_splits.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(2, 6));
        shared.write(1, 5);
        writer.join().unwrap();
        for at in 0..4 {
            assert_eq!(shared.frozen(&snapshot, at).unwrap(), 0);
        }
        assert_eq!(shared.store.in_use(), 4);
        shared.assert_settled();
    });
}

/// A run that grows over pages that nobody wrote, and a commit.
#[test]
fn growing_run_and_commit() {
    model(2, || {
        let shared = arena(3);
        let first = shared.snapshot();
        shared.write(0, 1);
        shared.engine.no_splits.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(2, 6));
        let second = shared.snapshot();
        assert_eq!(shared.frozen(&second, 1).unwrap(), 0);
        shared.write(1, 5);
        writer.join().unwrap();
        for at in 0..3 {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(shared.frozen(&second, 1).unwrap(), 0);
        shared.assert_settled();
    });
}

/// Blocks that are opened while no snapshot lives, and a commit.
#[test]
fn free_blocks_and_commit() {
    model(2, || {
        let shared = arena(4);
        shared.release(&shared.snapshot());
        shared.free_faults.store(1, crate::sync::Ordering::Relaxed);
        let writer = spawn(&shared, |shared| shared.write(0, 1));
        let snapshot = shared.snapshot();
        let seen = shared.frozen(&snapshot, 0).unwrap();
        shared.write(1, 1);
        writer.join().unwrap();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), seen);
        assert_eq!(shared.frozen(&snapshot, 1).unwrap(), 0);
        shared.assert_settled();
    });
}

/// The nearest open page is an open page, while another is being added.
#[test]
fn nearest_open_page_and_add() {
    for (at, other) in [(10, 150), (150, 10)] {
        model(3, move || {
            let set = Arc::new(DirtySet::new(200).expect("the fake has memory"));
            set.remove(PageRange::all(200));
            let looker = {
                let set = set.clone();
                thread::spawn(move || set.nearest(PageRange::new(page(at), page(at)), usize::MAX))
            };
            set.add(PageRange::new(page(other), page(other)));
            let found = looker.join().unwrap();
            assert!(found.is_none_or(|found| found == page(other)), "{found:?}");
        });
    }
}
