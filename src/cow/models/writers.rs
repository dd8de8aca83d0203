//! First writes against each other, against readers and against commits.

use super::*;

/// Without a claim, one writer opens the page while the other is still copying it.
#[test]
fn two_writers_on_one_page() {
    model(3, || {
        let shared = arena_with(1, 2, usize::MAX);
        let snapshot = shared.snapshot();
        let other = spawn(&shared, |shared| shared.write(1, 7));
        shared.write(0, 5);
        assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
        other.join().unwrap();
        assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
        assert_eq!([shared.engine.load(0), shared.engine.load(1)], [5, 7]);
        assert_eq!(shared.store.in_use(), 1);
        shared.assert_settled();
    });
}

/// Invariant 5: additions by two threads, with a snapshot taken in between, all land once.
#[test]
fn no_store_is_lost_or_repeated() {
    model(2, || {
        let shared = arena(1);
        let first = shared.snapshot();
        let adder = spawn(&shared, |shared| shared.add(0, 1));
        let taker = spawn(&shared, Shared::snapshot);
        shared.add(0, 2);
        let second = taker.join().unwrap();
        adder.join().unwrap();
        assert_eq!(shared.engine.load(0), 3);
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert!([0, 1, 2, 3].contains(&shared.frozen(&second, 0).unwrap()));
        shared.assert_settled();
    });
}

/// A handler that claimed a page for one epoch must not disarm it after the next snapshot armed it.
#[test]
fn late_handler_and_new_snapshot() {
    model(3, || {
        let shared = arena(1);
        let first = shared.snapshot();
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        let second = taker.join().unwrap();
        let seen = shared.frozen(&second, 0).unwrap();
        shared.assert_settled();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&second, 0).unwrap(), seen);
        shared.assert_settled();
    });
}

/// While a snapshot arms page by page, a thread stores to A (armed: faults) and then to B (not yet
/// armed): the snapshot must not have B's store without A's.
#[test]
fn arming_is_not_one_instant() {
    model(3, || {
        let shared = arena(2);
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        shared.write(1, 1);
        let snapshot = taker.join().unwrap();
        let first = shared.frozen(&snapshot, 0).unwrap();
        let second = shared.frozen(&snapshot, 1).unwrap();
        assert!(first >= second, "the later store without the earlier one");
        shared.assert_settled();
    });
}

/// The same over an arena that is armed in part, and across two threads.
#[test]
fn a_snapshot_has_what_happened_before_what_it_has() {
    model(2, || {
        let shared = arena(2);
        drop(shared.snapshot());
        shared.write(1, 9);
        let taker = spawn(&shared, Shared::snapshot);
        let writer = spawn(&shared, |shared| {
            shared.write(0, 1);
            shared.write(1, 1);
        });
        writer.join().unwrap();
        let snapshot = taker.join().unwrap();
        let first = shared.frozen(&snapshot, 0).unwrap();
        let second = shared.frozen(&snapshot, 1).unwrap();
        assert!(
            first == 1 || second == 9,
            "the later store without the earlier one"
        );
    });
}

/// A reader that copies live memory while the page's first write comes through.
#[test]
fn reader_and_first_writer() {
    model(3, || {
        let shared = arena_with(1, 2, usize::MAX);
        let snapshot = shared.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&shared, move |shared| {
                assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
            })
        };
        shared.write(0, 1);
        shared.write(1, 1);
        reader.join().unwrap();
        assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
    });
}

/// Nobody who waits at a gate or for a claim sleeps for ever.
#[test]
fn no_wake_up_is_forgotten() {
    model(2, || {
        let shared = arena(1);
        let snapshot = shared.snapshot();
        let writer = spawn(&shared, |shared| shared.write(0, 1));
        let closer = spawn(&shared, |shared| {
            shared.gate.close();
            shared.gate.open();
        });
        shared.write(0, 2);
        writer.join().unwrap();
        closer.join().unwrap();
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), 0);
    });
}
