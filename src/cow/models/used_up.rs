//! The store is used up.

use super::*;

/// The store is used up: a reader gets the frozen bytes or the error, never what was written later.
#[test]
fn store_used_up_and_reader() {
    model(3, || {
        let core = arena_with(2, 1, 1);
        let snapshot = core.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| {
                for at in [1, 0] {
                    match core.frozen(&snapshot, at) {
                        Ok(value) => assert_eq!(value, 0),
                        Err(error) => assert!(matches!(error, Error::StoreExhausted { .. })),
                    }
                }
            })
        };
        core.write(0, 1);
        core.write(1, 1);
        reader.join().unwrap();
        assert!(core.has_failed(&snapshot));
        assert_eq!([core.engine.load(0), core.engine.load(1)], [1, 1]);
        core.assert_settled();
    });
}

/// The store is used up while a snapshot is taken: a snapshot that lost a page says so, one that
/// did not is exact.
#[test]
fn store_used_up_and_commit() {
    model(2, || {
        let core = arena_with(1, 1, 0);
        let first = core.snapshot();
        let taker = spawn(&core, Core::snapshot);
        core.write(0, 1);
        let second = taker.join().unwrap();
        assert!(core.frozen(&first, 0).is_err());
        // Either the write was before the second snapshot, which then has it, or it took the page
        // from both.
        match core.frozen(&second, 0) {
            Ok(value) => assert_eq!(value, 1),
            Err(error) => assert!(matches!(error, Error::StoreExhausted { .. })),
        }
        core.assert_settled();
    });
}

/// The store is used up while the newest snapshot goes.
#[test]
fn store_used_up_and_drop() {
    model(3, || {
        let core = arena_with(2, 1, 1);
        let first = core.snapshot();
        let second = core.snapshot();
        let writer = spawn(&core, |core| {
            core.write(0, 1);
            core.write(1, 1);
        });
        core.release(&second);
        for at in [0, 1] {
            if let Ok(value) = core.frozen(&first, at) {
                assert_eq!(value, 0);
            }
        }
        writer.join().unwrap();
        let third = core.snapshot();
        assert!(core.has_failed(&first));
        assert!(!core.has_failed(&third));
        core.assert_settled();
    });
}
