//! The whole arena is opened once no snapshot lives.

use super::*;

/// An arena that was armed and has no snapshot any more.
fn settle(core: Arc<Core>) -> Arc<Core> {
    let snapshot = core.snapshot();
    core.release(&snapshot);
    core
}

/// Opening meets a commit and a writer: all is opened before the snapshot, or nothing.
#[test]
fn open_all_and_commit() {
    model(2, || {
        let core = settle(arena(2));
        let opener = spawn(&core, |core| core.open_all().unwrap());
        let taker = spawn(&core, Core::snapshot);
        core.write(1, 1);
        core.write(0, 1);
        let snapshot = taker.join().unwrap();
        let first = core.frozen(&snapshot, 1).unwrap();
        let second = core.frozen(&snapshot, 0).unwrap();
        assert!(first >= second, "the later store without the earlier one");
        opener.join().unwrap();
        core.write(1, 2);
        core.write(0, 2);
        assert_eq!(core.frozen(&snapshot, 1).unwrap(), first);
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), second);
        assert!(!core.open_all().unwrap());
        core.assert_settled();
    });
}

/// Opening meets the drop of the last snapshot, whose copies are being made.
#[test]
fn open_all_and_drop() {
    model(2, || {
        let core = arena(2);
        let snapshot = core.snapshot();
        let dropper = spawn(&core, move |core| {
            assert_eq!(core.frozen(&snapshot, 0).unwrap(), 0);
            core.release(&snapshot);
        });
        let opener = spawn(&core, |core| core.open_all().unwrap());
        core.write(0, 1);
        dropper.join().unwrap();
        let opened = opener.join().unwrap();
        core.assert_settled();
        if opened {
            assert!(core.memory().store(page(1), 1, 1), "a page is armed");
        }
        assert_eq!(core.store.in_use(), 0);
    });
}

/// Opening meets a writer that splits an untouched block: what has been opened must not be closed
/// again.
#[test]
fn open_all_and_split_of_an_untouched_block() {
    model(3, || {
        let core = settle(arena_of_blocks(2));
        let opener = spawn(&core, |core| assert!(core.open_all().unwrap()));
        core.write(0, 1);
        opener.join().unwrap();
        for at in [0, 1] {
            assert!(core.memory().store(page(at), at, 2), "a page is armed");
        }
        let snapshot = core.snapshot();
        core.write(1, 3);
        assert_eq!(core.frozen(&snapshot, 1).unwrap(), 2);
        core.assert_settled();
    });
}

/// Opening fails half way: writers go on, and the next snapshot knows of what is open.
#[test]
fn opening_fails_half_way() {
    model(2, || {
        let core = settle(arena(2));
        core.memory().fail_disarming.store(true, Relaxed);
        assert!(matches!(core.open_all(), Err(Error::Protect { .. })));
        core.memory().fail_disarming.store(false, Relaxed);
        let writer = spawn(&core, |core| core.write(1, 1));
        let snapshot = core.snapshot();
        let seen = core.frozen(&snapshot, 1).unwrap();
        core.write(0, 2);
        writer.join().unwrap();
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), 0);
        assert_eq!(core.frozen(&snapshot, 1).unwrap(), seen);
        core.assert_settled();
    });
}
