//! First writes against each other, against readers and against commits.

use super::*;

/// Without a claim, one writer opens the page while the other is still copying it.
#[test]
fn two_writers_on_one_page() {
    model(3, || {
        let core = arena_with(1, 2, usize::MAX);
        let snapshot = core.snapshot();
        let other = spawn(&core, |core| core.write(1, 7));
        core.write(0, 5);
        assert_eq!(core.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
        other.join().unwrap();
        assert_eq!(core.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
        assert_eq!([core.engine.load(0), core.engine.load(1)], [5, 7]);
        assert_eq!(core.store.in_use(), 1);
        core.assert_settled();
    });
}

/// Invariant 5: additions by two threads, with a snapshot taken in between, all land once.
#[test]
fn no_store_is_lost_or_repeated() {
    model(2, || {
        let core = arena(1);
        let first = core.snapshot();
        let adder = spawn(&core, |core| core.add(0, 1));
        let taker = spawn(&core, Core::snapshot);
        core.add(0, 2);
        let second = taker.join().unwrap();
        adder.join().unwrap();
        assert_eq!(core.engine.load(0), 3);
        assert_eq!(core.frozen(&first, 0).unwrap(), 0);
        assert!([0, 1, 2, 3].contains(&core.frozen(&second, 0).unwrap()));
        core.assert_settled();
    });
}

/// A handler that claimed a page for one epoch must not disarm it after the next snapshot armed it.
#[test]
fn late_handler_and_new_snapshot() {
    model(3, || {
        let core = arena(1);
        let first = core.snapshot();
        let taker = spawn(&core, Core::snapshot);
        core.write(0, 1);
        let second = taker.join().unwrap();
        let seen = core.frozen(&second, 0).unwrap();
        core.assert_settled();
        core.write(0, 2);
        assert_eq!(core.frozen(&first, 0).unwrap(), 0);
        assert_eq!(core.frozen(&second, 0).unwrap(), seen);
        core.assert_settled();
    });
}

/// While a snapshot arms page by page, a thread stores to A (armed: faults) and then to B (not yet
/// armed): the snapshot must not have B's store without A's.
#[test]
fn arming_is_not_one_instant() {
    model(3, || {
        let core = arena(2);
        let taker = spawn(&core, Core::snapshot);
        core.write(0, 1);
        core.write(1, 1);
        let snapshot = taker.join().unwrap();
        let first = core.frozen(&snapshot, 0).unwrap();
        let second = core.frozen(&snapshot, 1).unwrap();
        assert!(first >= second, "the later store without the earlier one");
        core.assert_settled();
    });
}

/// The same over an arena that is armed in part, and across two threads.
#[test]
fn a_snapshot_has_what_happened_before_what_it_has() {
    model(2, || {
        let core = arena(2);
        drop(core.snapshot());
        core.write(1, 9);
        let taker = spawn(&core, Core::snapshot);
        let writer = spawn(&core, |core| {
            core.write(0, 1);
            core.write(1, 1);
        });
        writer.join().unwrap();
        let snapshot = taker.join().unwrap();
        let first = core.frozen(&snapshot, 0).unwrap();
        let second = core.frozen(&snapshot, 1).unwrap();
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
        let core = arena_with(1, 2, usize::MAX);
        let snapshot = core.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| {
                assert_eq!(core.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
            })
        };
        core.write(0, 1);
        core.write(1, 1);
        reader.join().unwrap();
        assert_eq!(core.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
    });
}

/// No thread that waits at a gate or for a claim sleeps for ever.
#[test]
fn no_wake_up_is_forgotten() {
    model(2, || {
        let core = arena(1);
        let snapshot = core.snapshot();
        let writer = spawn(&core, |core| core.write(0, 1));
        let closer = spawn(&core, |core| {
            core.gate.close();
            core.gate.open();
        });
        core.write(0, 2);
        writer.join().unwrap();
        closer.join().unwrap();
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), 0);
    });
}
