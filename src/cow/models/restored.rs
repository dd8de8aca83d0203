//! Restores, and marks: what is stored meanwhile is lost to nobody.

use super::*;

/// A store of another thread falls into a restore. Whatever becomes of it, the next restore brings
/// its page back: a page that is armed and not noted would stay as it is for good.
#[test]
fn a_store_during_a_restore_is_found_by_the_next() {
    model(2, || {
        let core = arena(2);
        core.write(0, 1);
        let snapshot = core.snapshot();
        core.write(0, 2);
        let writer = spawn(&core, |core| core.write(0, 3));
        core.restore(&snapshot).unwrap();
        writer.join().unwrap();
        assert!([1, 3].contains(&core.memory().load(0)));
        core.restore(&snapshot).unwrap();
        assert_eq!(core.memory().load(0), 1);
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), 1);
        core.assert_settled();
    });
}

/// The same with a page that was not stored to before, and so is not among those brought back.
#[test]
fn a_first_store_during_a_restore_is_found_by_the_next() {
    model(2, || {
        let core = arena(2);
        let snapshot = core.snapshot();
        core.write(0, 2);
        core.restore(&snapshot).unwrap();
        let writer = spawn(&core, |core| core.write(1, 3));
        core.restore(&snapshot).unwrap();
        writer.join().unwrap();
        core.restore(&snapshot).unwrap();
        assert_eq!((core.memory().load(0), core.memory().load(1)), (0, 0));
        core.assert_settled();
    });
}

/// A snapshot of another thread has all of a restore or nothing of it, and stays as it is.
#[test]
fn a_snapshot_has_all_of_a_restore_or_nothing() {
    model(2, || {
        let core = arena(2);
        let first = core.snapshot();
        core.write(0, 2);
        core.write(1, 2);
        let taker = spawn(&core, Core::snapshot);
        core.restore(&first).unwrap();
        let second = taker.join().unwrap();
        let bytes = [0, 1].map(|at| core.frozen(&second, at).unwrap());
        assert!([[2, 2], [0, 0]].contains(&bytes), "{bytes:?}");
        // To and fro: what the other one holds is found again.
        core.restore(&second).unwrap();
        assert_eq!([core.memory().load(0), core.memory().load(1)], bytes);
        core.restore(&first).unwrap();
        assert_eq!([core.memory().load(0), core.memory().load(1)], [0, 0]);
        assert_eq!([0, 1].map(|at| core.frozen(&second, at).unwrap()), bytes);
        core.assert_settled();
    });
}

/// A newer snapshot that still needs what a restore stores over, while a thread reads it.
#[test]
fn a_reader_of_a_newer_snapshot_during_a_restore() {
    model(2, || {
        let core = arena(1);
        let first = core.snapshot();
        core.write(0, 1);
        let second = core.snapshot();
        let reader = {
            let second = second.clone();
            spawn(&core, move |core| core.frozen(&second, 0).unwrap())
        };
        core.restore(&first).unwrap();
        assert_eq!(reader.join().unwrap(), 1);
        assert_eq!(core.memory().load(0), 0);
        core.assert_settled();
    });
}

/// A store beside the end of the snapshot that a mark was made at: it is counted.
#[test]
fn a_store_after_a_mark_is_counted() {
    model(2, || {
        let core = arena(2);
        let snapshot = core.snapshot();
        core.begin_mark();
        let mark = snapshot.epoch;
        let writer = spawn(&core, |core| core.write(1, 1));
        core.release(&snapshot);
        let newer = core.snapshot();
        let is_in = core.frozen(&newer, 1).unwrap() == 1;
        let counted = core.changed_until(mark, &newer).unwrap();
        assert!(!is_in || counted == [page(1)], "{counted:?}");
        writer.join().unwrap();
        assert_eq!(core.changed_since_mark(mark), [page(1)]);
        assert_eq!(
            core.changed_until(mark, &newer).unwrap().len(),
            counted.len()
        );
        core.assert_settled();
    });
}
