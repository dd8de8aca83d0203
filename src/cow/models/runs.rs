//! Runs of pages that one call opens: windows, blocks without a snapshot, growing beside an open
//! page.

use super::*;

/// Claims over a whole disarmed run: a fault deals with its neighbour, which another thread has
/// claimed and is copying, or is about to.
#[test]
fn window_and_copy_in_progress() {
    model(3, || {
        let core = arena_of_pairs(2, 2);
        let snapshot = core.snapshot();
        let other = spawn(&core, |core| {
            core.write(2, 1);
            core.write(3, 2);
        });
        core.write(0, 3);
        assert_eq!(core.frozen_page(&snapshot, 1).unwrap(), [0, 0]);
        other.join().unwrap();
        for index in [0, 1] {
            assert_eq!(core.frozen_page(&snapshot, index).unwrap(), [0, 0]);
        }
        assert_eq!([0, 2, 3].map(|at| core.memory().load(at)), [3, 1, 2]);
        assert_eq!(core.store.in_use(), 2);
        core.assert_settled();
    });
}

/// A fault that deals with two pages, and a commit: neither is open afterwards unless it is known.
#[test]
fn window_and_commit() {
    model(3, || {
        let core = arena_of_pairs(2, 1);
        let first = core.snapshot();
        let taker = spawn(&core, Core::snapshot);
        core.write(0, 1);
        let second = taker.join().unwrap();
        let seen = core.frozen(&second, 0).unwrap();
        core.assert_settled();
        core.write(1, 2);
        core.write(0, 2);
        assert_eq!(core.frozen(&second, 0).unwrap(), seen);
        assert_eq!(core.frozen(&second, 1).unwrap(), 0);
        assert_eq!(core.frozen(&first, 0).unwrap(), 0);
        core.assert_settled();
    });
}

/// Pages copied ahead of any write, and a reader that is in the middle of one of them.
#[test]
fn window_and_reader() {
    model(2, || {
        let core = arena_of_pairs(2, 2);
        let snapshot = core.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| {
                assert_eq!(core.frozen_page(&snapshot, 1).unwrap(), [0, 0]);
            })
        };
        core.write(0, 1);
        core.write(2, 2);
        core.write(3, 3);
        reader.join().unwrap();
    });
}

/// Near the wall two runs grow towards each other, and each ends where the other has claimed.
#[test]
fn growing_runs_meet() {
    model(2, || {
        let core = arena(4);
        let snapshot = core.snapshot();
        core.write(0, 1);
        core.write(3, 1);
        core.memory().no_splits.store(true, Relaxed);
        let writer = spawn(&core, |core| core.write(2, 6));
        core.write(1, 5);
        writer.join().unwrap();
        for at in 0..4 {
            assert_eq!(core.frozen(&snapshot, at).unwrap(), 0);
        }
        assert_eq!(core.store.in_use(), 4);
        core.assert_settled();
    });
}

/// A run that grows over pages that nobody wrote, and a commit.
#[test]
fn growing_run_and_commit() {
    model(2, || {
        let core = arena(3);
        let first = core.snapshot();
        core.write(0, 1);
        core.memory().no_splits.store(true, Relaxed);
        let writer = spawn(&core, |core| core.write(2, 6));
        let second = core.snapshot();
        assert_eq!(core.frozen(&second, 1).unwrap(), 0);
        core.write(1, 5);
        writer.join().unwrap();
        for at in 0..3 {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(core.frozen(&second, 1).unwrap(), 0);
        core.assert_settled();
    });
}

/// Blocks that are opened while no snapshot lives, and a commit.
#[test]
fn free_blocks_and_commit() {
    model(2, || {
        let core = arena(4);
        core.release(&core.snapshot());
        core.free_faults.store(1, crate::sync::Ordering::Relaxed);
        let writer = spawn(&core, |core| core.write(0, 1));
        let snapshot = core.snapshot();
        let seen = core.frozen(&snapshot, 0).unwrap();
        core.write(1, 1);
        writer.join().unwrap();
        core.write(0, 2);
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), seen);
        assert_eq!(core.frozen(&snapshot, 1).unwrap(), 0);
        core.assert_settled();
    });
}

/// The nearest open page is an open page, while another is being added.
#[test]
fn nearest_open_page_and_add() {
    for (at, other) in [(10, 150), (150, 10)] {
        model(3, move || {
            let set = Arc::new(DirtySet::new(PageCount::new(200)).expect("the fake has memory"));
            set.remove(PageRange::from(0..200));
            let looker = {
                let set = set.clone();
                thread::spawn(move || set.nearest(page(at).into(), usize::MAX))
            };
            set.add(page(other).into());
            let found = looker.join().unwrap();
            assert!(found.is_none_or(|found| found == page(other)), "{found:?}");
        });
    }
}
