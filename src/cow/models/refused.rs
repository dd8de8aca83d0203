//! Protect calls that the kernel refuses, wholly or half way, and the last way out.

use super::*;

/// No mappings left: two writers take the last way out at once, while a reader reads.
#[test]
fn last_way_out_of_the_mapping_wall() {
    model(2, || {
        let shared = arena(3);
        let snapshot = shared.snapshot();
        shared.engine.no_mappings.store(true, Relaxed);
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&shared, move |shared| {
                assert_eq!(shared.frozen(&snapshot, 1).unwrap(), 0);
            })
        };
        let writer = spawn(&shared, |shared| shared.write(2, 1));
        shared.write(1, 1);
        reader.join().unwrap();
        writer.join().unwrap();
        for at in [2, 1, 0] {
            assert_eq!(shared.frozen(&snapshot, at).unwrap(), 0);
        }
        shared.assert_settled();
    });
}

/// The same against a commit, which closes the same gate.
#[test]
fn last_way_out_and_commit() {
    model(2, || {
        let shared = arena(2);
        let first = shared.snapshot();
        shared.engine.no_mappings.store(true, Relaxed);
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        let second = taker.join().unwrap();
        let seen = shared.frozen(&second, 0).unwrap();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&second, 0).unwrap(), seen);
        shared.assert_settled();
    });
}

/// Arming fails half way: the snapshot is refused, writers go on, and the next one works.
#[test]
fn arming_fails_half_way() {
    model(3, || {
        let shared = arena(2);
        shared.engine.fail_arming.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(0, 1));
        assert!(matches!(shared.commit(), Err(Error::Protect { .. })));
        writer.join().unwrap();
        shared.write(0, 2);
        let snapshot = shared.snapshot();
        shared.write(0, 3);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), 2);
        shared.assert_settled();
    });
}

/// Arming fails half way while a snapshot lives.
#[test]
fn arming_fails_half_way_with_a_live_snapshot() {
    model(2, || {
        let shared = arena(2);
        let first = shared.snapshot();
        shared.write(0, 1);
        shared.write(1, 1);
        shared.engine.fail_arming.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(0, 2));
        assert!(shared.commit().is_err());
        writer.join().unwrap();
        shared.write(1, 2);
        let second = shared.snapshot();
        shared.write(0, 3);
        for at in [0, 1] {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
            assert_eq!(shared.frozen(&second, at).unwrap(), 2);
        }
        shared.assert_settled();
    });
}

/// A call that disarms several pages fails after the first of them, and a commit comes before the last
/// way out: it must arm that page again.
#[test]
fn disarming_fails_half_way_and_commit() {
    model(3, || {
        let shared = arena(3);
        let _first = shared.snapshot();
        shared.write(0, 1);
        shared.engine.no_mappings.store(true, Relaxed);
        shared.engine.half_way.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(2, 1));
        let second = shared.snapshot();
        let seen = shared.frozen(&second, 1).unwrap();
        shared.write(1, 9);
        assert_eq!(shared.frozen(&second, 1).unwrap(), seen);
        writer.join().unwrap();
        shared.assert_settled();
    });
}
