//! Protect calls that the kernel refuses, wholly or half way, and the last way out.

use super::*;

/// No mappings left: two writers take the last way out at once, while a reader reads.
#[test]
fn last_way_out_of_the_mapping_wall() {
    model(2, || {
        let core = arena(3);
        let snapshot = core.snapshot();
        core.engine.no_mappings.store(true, Relaxed);
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| {
                assert_eq!(core.frozen(&snapshot, 1).unwrap(), 0);
            })
        };
        let writer = spawn(&core, |core| core.write(2, 1));
        core.write(1, 1);
        reader.join().unwrap();
        writer.join().unwrap();
        for at in [2, 1, 0] {
            assert_eq!(core.frozen(&snapshot, at).unwrap(), 0);
        }
        core.assert_settled();
    });
}

/// The same against a commit, which closes the same gate.
#[test]
fn last_way_out_and_commit() {
    model(2, || {
        let core = arena(2);
        let first = core.snapshot();
        core.engine.no_mappings.store(true, Relaxed);
        let taker = spawn(&core, Core::snapshot);
        core.write(0, 1);
        let second = taker.join().unwrap();
        let seen = core.frozen(&second, 0).unwrap();
        core.write(0, 2);
        assert_eq!(core.frozen(&first, 0).unwrap(), 0);
        assert_eq!(core.frozen(&second, 0).unwrap(), seen);
        core.assert_settled();
    });
}

/// Arming fails half way: the snapshot is refused, writers go on, and the next one works.
#[test]
fn arming_fails_half_way() {
    model(3, || {
        let core = arena(2);
        core.engine.fail_arming.store(true, Relaxed);
        let writer = spawn(&core, |core| core.write(0, 1));
        assert!(matches!(core.commit(), Err(Error::Protect { .. })));
        writer.join().unwrap();
        core.write(0, 2);
        let snapshot = core.snapshot();
        core.write(0, 3);
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), 2);
        core.assert_settled();
    });
}

/// Arming fails half way while a snapshot lives.
#[test]
fn arming_fails_half_way_with_a_live_snapshot() {
    model(2, || {
        let core = arena(2);
        let first = core.snapshot();
        core.write(0, 1);
        core.write(1, 1);
        core.engine.fail_arming.store(true, Relaxed);
        let writer = spawn(&core, |core| core.write(0, 2));
        assert!(core.commit().is_err());
        writer.join().unwrap();
        core.write(1, 2);
        let second = core.snapshot();
        core.write(0, 3);
        for at in [0, 1] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
            assert_eq!(core.frozen(&second, at).unwrap(), 2);
        }
        core.assert_settled();
    });
}

/// A call that disarms several pages fails after the first of them, and a commit comes before the
/// last way out: it must arm that page again.
#[test]
fn disarming_fails_half_way_and_commit() {
    model(3, || {
        let core = arena(3);
        let _first = core.snapshot();
        core.write(0, 1);
        core.engine.no_mappings.store(true, Relaxed);
        core.engine.half_way.store(true, Relaxed);
        let writer = spawn(&core, |core| core.write(2, 1));
        let second = core.snapshot();
        let seen = core.frozen(&second, 1).unwrap();
        core.write(1, 9);
        assert_eq!(core.frozen(&second, 1).unwrap(), seen);
        writer.join().unwrap();
        core.assert_settled();
    });
}
