//! The store is used up.

use super::*;

/// The store is used up: a reader gets the frozen bytes or the error, never what was written later.
#[test]
fn store_used_up_and_reader() {
    model(3, || {
        let shared = arena_with(2, 1, 1);
        let snapshot = shared.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&shared, move |shared| {
                for at in [1, 0] {
                    match shared.frozen(&snapshot, at) {
                        Ok(value) => assert_eq!(value, 0),
                        Err(error) => assert!(matches!(error, Error::StoreExhausted { .. })),
                    }
                }
            })
        };
        shared.write(0, 1);
        shared.write(1, 1);
        reader.join().unwrap();
        assert!(shared.has_failed(&snapshot));
        assert_eq!([shared.engine.load(0), shared.engine.load(1)], [1, 1]);
        shared.assert_settled();
    });
}

/// The store is used up while a snapshot is taken: who lost a page knows, who did not reads exactly.
#[test]
fn store_used_up_and_commit() {
    model(2, || {
        let shared = arena_with(1, 1, 0);
        let first = shared.snapshot();
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        let second = taker.join().unwrap();
        assert!(shared.frozen(&first, 0).is_err());
        // Either the write was before the second snapshot, which then has it, or it took the page from both.
        match shared.frozen(&second, 0) {
            Ok(value) => assert_eq!(value, 1),
            Err(error) => assert!(matches!(error, Error::StoreExhausted { .. })),
        }
        shared.assert_settled();
    });
}

/// The store is used up while the newest snapshot goes.
#[test]
fn store_used_up_and_drop() {
    model(3, || {
        let shared = arena_with(2, 1, 1);
        let first = shared.snapshot();
        let second = shared.snapshot();
        let writer = spawn(&shared, |shared| {
            shared.write(0, 1);
            shared.write(1, 1);
        });
        shared.release(&second);
        for at in [0, 1] {
            if let Ok(value) = shared.frozen(&first, at) {
                assert_eq!(value, 0);
            }
        }
        writer.join().unwrap();
        let third = shared.snapshot();
        assert!(shared.has_failed(&first));
        assert!(!shared.has_failed(&third));
        shared.assert_settled();
    });
}
