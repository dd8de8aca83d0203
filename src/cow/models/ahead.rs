//! Arming ahead of a commit.

use super::*;

/// Two stores, one after the other, while `take` takes a snapshot: it has the later one only with
/// the earlier one. Older snapshots that live, and those of what comes later, are as they were.
fn ordered_stores_while(core: &Arc<Core>, take: fn(&Core) -> Arc<Live>) {
    let taker = spawn(core, take);
    core.write(2, 1);
    core.write(0, 1);
    let snapshot = taker.join().unwrap();
    let first = core.frozen(&snapshot, 2).unwrap();
    let second = core.frozen(&snapshot, 0).unwrap();
    assert!(first >= second, "the later store without the earlier one");
    core.assert_settled();
    core.write(0, 2);
    assert_eq!(core.frozen(&snapshot, 0).unwrap(), second);
    core.assert_settled();
}

/// All of a snapshot in one call: in slices, between which waiting writers are let through.
fn taken(core: &Core) -> Arc<Live> {
    core.take().unwrap().1.snapshot
}

/// Pages are armed ahead while a writer opens them again, then committed.
#[test]
fn armed_ahead_and_writer() {
    model(2, || {
        ordered_stores_while(&arena(3), |core| {
            let mut preparation = Preparation::new();
            core.arm_ahead(&mut preparation, Duration::MAX).unwrap();
            core.snapshot()
        });
    });
}

/// The same with an older snapshot alive, which must not see what soft faults let through.
#[test]
fn armed_ahead_with_a_live_snapshot() {
    model(2, || {
        let core = arena(2);
        let first = core.snapshot();
        core.write(0, 1);
        let armer = spawn(&core, |core| {
            let mut preparation = Preparation::new();
            core.arm_ahead(&mut preparation, Duration::MAX).unwrap();
        });
        core.write(1, 1);
        core.write(0, 2);
        armer.join().unwrap();
        for at in [0, 1] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(core.store.in_use(), 2);
        core.assert_settled();
    });
}

/// Arming ahead keeps off the pages of a guard.
#[test]
fn armed_ahead_and_guard() {
    model(3, || {
        let core = arena(2);
        let armer = spawn(&core, |core| {
            let mut preparation = Preparation::new();
            core.arm_ahead(&mut preparation, Duration::MAX).unwrap();
        });
        let guard = core.begin_guard(PageRange::from(0..2));
        assert!(
            core.memory().store(page(1), 1, 1),
            "a page under a guard was armed"
        );
        assert!(
            core.memory().store(page(0), 0, 1),
            "a page under a guard was armed"
        );
        drop(guard);
        armer.join().unwrap();
        core.assert_settled();
    });
}

/// The same with two guards, one of which ends first.
#[test]
fn armed_ahead_and_two_guards() {
    model(2, || {
        let core = arena(3);
        let armer = spawn(&core, |core| {
            let mut preparation = Preparation::new();
            core.arm_ahead(&mut preparation, Duration::MAX).unwrap();
        });
        let (low, high) = (
            core.begin_guard(page(0).into()),
            core.begin_guard(page(2).into()),
        );
        for at in [2, 0] {
            let stored = core.memory().store(page(at), at, 1);
            assert!(stored, "a page under a guard was armed");
        }
        drop(low);
        assert!(
            core.memory().store(page(2), 2, 2),
            "a page under a guard was armed"
        );
        drop(high);
        armer.join().unwrap();
        core.assert_settled();
    });
}

/// The last way out opens everything while slices are being armed.
#[test]
fn armed_ahead_and_last_way_out() {
    model(2, || {
        let core = arena(3);
        let first = core.snapshot();
        core.write(1, 1);
        let armer = spawn(&core, |core| {
            let mut preparation = Preparation::new();
            core.arm_ahead(&mut preparation, Duration::MAX).unwrap();
            core.snapshot()
        });
        core.memory().no_mappings.store(true, Relaxed);
        core.write(2, 1);
        let second = armer.join().unwrap();
        let seen = core.frozen(&second, 2).unwrap();
        core.write(2, 2);
        for at in 0..3 {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(core.frozen(&second, 2).unwrap(), seen);
        core.assert_settled();
    });
}

/// The same in one call.
#[test]
fn taken_in_slices_and_writer() {
    model(2, || ordered_stores_while(&arena(3), taken));
}

/// The same with an older snapshot alive, which must not see what soft faults let through. Only
/// some pages are dirty, so that writers wait between two slices.
#[test]
fn taken_in_slices_with_a_live_snapshot() {
    model(2, || {
        let core = arena(3);
        let older = core.snapshot();
        core.write(1, 1);
        ordered_stores_while(&core, taken);
        for at in 0..3 {
            assert_eq!(core.frozen(&older, at).unwrap(), 0);
        }
    });
}

/// The same with two writers.
#[test]
fn taken_in_slices_and_two_writers() {
    model(2, || {
        let core = arena(2);
        let first = core.snapshot();
        core.write(0, 1);
        core.write(1, 1);
        let taker = spawn(&core, taken);
        let writer = spawn(&core, |core| core.write(1, 2));
        core.write(0, 2);
        writer.join().unwrap();
        let second = taker.join().unwrap();
        for at in [0, 1] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        let seen = core.frozen(&second, 0).unwrap();
        core.write(0, 3);
        assert_eq!(core.frozen(&second, 0).unwrap(), seen);
        core.assert_settled();
    });
}

/// While a gate is ajar those enter that waited, and nobody is inside once it is shut. No thread
/// sleeps for ever.
#[test]
fn a_gate_that_is_ajar() {
    model(2, || {
        let core = arena(1);
        let inside = std::sync::Arc::new(AtomicUsize::new(0));
        let enter = || {
            let inside = inside.clone();
            spawn(&core, move |core| {
                core.gate.enter();
                inside.fetch_add(1, Relaxed);
                inside.fetch_sub(1, Relaxed);
                core.gate.leave();
            })
        };
        let threads = [enter(), enter()];
        core.gate.close();
        assert_eq!(inside.load(Relaxed), 0);
        for _ in 0..2 {
            if core.gate.admit(1) != Admitted::Nobody {
                core.gate.shut();
            }
            assert_eq!(inside.load(Relaxed), 0);
        }
        core.gate.open();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
