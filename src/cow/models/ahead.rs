//! Arming ahead of a commit.

use super::*;

/// Pages are armed ahead while a writer opens them again, then committed.
#[test]
fn armed_ahead_and_writer() {
    model(2, || {
        let shared = arena(3);
        let taker = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            shared.arm_ahead(&mut preparation, Duration::MAX).unwrap();
            shared.snapshot()
        });
        shared.write(2, 1);
        shared.write(0, 1);
        let snapshot = taker.join().unwrap();
        let first = shared.frozen(&snapshot, 2).unwrap();
        let second = shared.frozen(&snapshot, 0).unwrap();
        assert!(first >= second, "the later store without the earlier one");
        shared.assert_settled();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), second);
        shared.assert_settled();
    });
}

/// The same with an older snapshot alive, which must not see what soft faults let through.
#[test]
fn armed_ahead_with_a_live_snapshot() {
    model(2, || {
        let shared = arena(2);
        let first = shared.snapshot();
        shared.write(0, 1);
        let armer = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            shared.arm_ahead(&mut preparation, Duration::MAX).unwrap();
        });
        shared.write(1, 1);
        shared.write(0, 2);
        armer.join().unwrap();
        for at in [0, 1] {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(shared.store.in_use(), 2);
        shared.assert_settled();
    });
}

/// Arming ahead keeps off the pages of a guard.
#[test]
fn armed_ahead_and_guard() {
    model(3, || {
        let shared = arena(2);
        let armer = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            shared.arm_ahead(&mut preparation, Duration::MAX).unwrap();
        });
        shared.begin_guard(PageRange::all(2));
        assert!(
            shared.engine.store(page(1), 1, 1),
            "a page under a guard was armed"
        );
        assert!(
            shared.engine.store(page(0), 0, 1),
            "a page under a guard was armed"
        );
        shared.end_guard();
        armer.join().unwrap();
        shared.assert_settled();
    });
}

/// The last way out opens everything while slices are being armed.
#[test]
fn armed_ahead_and_last_way_out() {
    model(2, || {
        let shared = arena(3);
        let first = shared.snapshot();
        shared.write(1, 1);
        let armer = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            shared.arm_ahead(&mut preparation, Duration::MAX).unwrap();
            shared.snapshot()
        });
        shared.engine.no_mappings.store(true, Relaxed);
        shared.write(2, 1);
        let second = armer.join().unwrap();
        let seen = shared.frozen(&second, 2).unwrap();
        shared.write(2, 2);
        for at in 0..3 {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(shared.frozen(&second, 2).unwrap(), seen);
        shared.assert_settled();
    });
}
