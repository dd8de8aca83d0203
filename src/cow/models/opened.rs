//! The whole arena is opened once no snapshot lives.

use super::*;

/// An arena that was armed and has no snapshot any more.
fn settle(shared: Arc<Shared>) -> Arc<Shared> {
    let snapshot = shared.snapshot();
    shared.release(&snapshot);
    shared
}

/// Opening meets a commit and a writer: all is opened before the snapshot, or nothing.
#[test]
fn open_all_and_commit() {
    model(2, || {
        let shared = settle(arena(2));
        let opener = spawn(&shared, |shared| shared.open_all().unwrap());
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(1, 1);
        shared.write(0, 1);
        let snapshot = taker.join().unwrap();
        let first = shared.frozen(&snapshot, 1).unwrap();
        let second = shared.frozen(&snapshot, 0).unwrap();
        assert!(first >= second, "the later store without the earlier one");
        opener.join().unwrap();
        shared.write(1, 2);
        shared.write(0, 2);
        assert_eq!(shared.frozen(&snapshot, 1).unwrap(), first);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), second);
        assert!(!shared.open_all().unwrap());
        shared.assert_settled();
    });
}

/// Opening meets the drop of the last snapshot, whose copies are being made.
#[test]
fn open_all_and_drop() {
    model(2, || {
        let shared = arena(2);
        let snapshot = shared.snapshot();
        let dropper = spawn(&shared, move |shared| {
            assert_eq!(shared.frozen(&snapshot, 0).unwrap(), 0);
            shared.release(&snapshot);
        });
        let opener = spawn(&shared, |shared| shared.open_all().unwrap());
        shared.write(0, 1);
        dropper.join().unwrap();
        let opened = opener.join().unwrap();
        shared.assert_settled();
        if opened {
            assert!(shared.engine.store(page(1), 1, 1), "a page is armed");
        }
        assert_eq!(shared.store.in_use(), 0);
    });
}

/// Opening meets a writer that splits an untouched block: what has been opened must not be closed
/// again.
#[test]
fn open_all_and_split_of_an_untouched_block() {
    model(3, || {
        let shared = settle(arena_of_blocks(2));
        let opener = spawn(&shared, |shared| assert!(shared.open_all().unwrap()));
        shared.write(0, 1);
        opener.join().unwrap();
        for at in [0, 1] {
            assert!(shared.engine.store(page(at), at, 2), "a page is armed");
        }
        let snapshot = shared.snapshot();
        shared.write(1, 3);
        assert_eq!(shared.frozen(&snapshot, 1).unwrap(), 2);
        shared.assert_settled();
    });
}

/// Opening fails half way: writers go on, and the next snapshot knows of what is open.
#[test]
fn opening_fails_half_way() {
    model(2, || {
        let shared = settle(arena(2));
        shared.engine.fail_disarming.store(true, Relaxed);
        assert!(matches!(shared.open_all(), Err(Error::Protect { .. })));
        let writer = spawn(&shared, |shared| shared.write(1, 1));
        let snapshot = shared.snapshot();
        let seen = shared.frozen(&snapshot, 1).unwrap();
        shared.write(0, 2);
        writer.join().unwrap();
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&snapshot, 1).unwrap(), seen);
        shared.assert_settled();
    });
}
