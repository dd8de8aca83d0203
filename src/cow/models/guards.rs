//! Guards, which hold pages outside the handler.

use super::*;

/// A thread that holds a guard stores without a fault, and a commit waits for it.
#[test]
fn guard_and_commit() {
    model(2, || {
        let core = arena(1);
        let first = core.snapshot();
        let taker = spawn(&core, Core::snapshot);
        let guard = core.begin_guard(PageRange::from(0..1));
        assert!(
            core.memory().store(page(0), 0, 1),
            "a page under a guard was armed"
        );
        assert!(
            core.memory().store(page(0), 0, 2),
            "a page under a guard was armed"
        );
        drop(guard);
        let second = taker.join().unwrap();
        assert_eq!(core.frozen(&first, 0).unwrap(), 0);
        assert!([0, 2].contains(&core.frozen(&second, 0).unwrap()));
        core.assert_settled();
    });
}

/// Two guards of one arena: a commit waits for both.
#[test]
fn two_guards_and_commit() {
    model(2, || {
        let core = arena(2);
        let first = core.snapshot();
        let taker = spawn(&core, Core::snapshot);
        let (low, high) = (
            core.begin_guard(page(0).into()),
            core.begin_guard(page(1).into()),
        );
        assert!(
            core.memory().store(page(0), 0, 1),
            "a page under a guard was armed"
        );
        drop(low);
        assert!(
            core.memory().store(page(1), 1, 1),
            "a page under a guard was armed"
        );
        drop(high);
        let second = taker.join().unwrap();
        for at in [0, 1] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        let (earlier, later) = (core.frozen(&second, 0), core.frozen(&second, 1));
        assert_eq!(earlier.unwrap(), later.unwrap());
        core.assert_settled();
    });
}

/// Disarming pages that one has not claimed: a range is opened while another thread is in the
/// middle of copying one of its pages, and then stored to.
#[test]
fn opened_range_and_copy_in_progress() {
    model(3, || {
        let core = arena_with(2, 2, usize::MAX);
        let snapshot = core.snapshot();
        let writer = spawn(&core, |core| core.write(2, 1));
        let guard = core.begin_guard(PageRange::from(0..2));
        assert!(core.memory().store(page(1), 2, 3));
        assert!(core.memory().store(page(1), 3, 3));
        drop(guard);
        writer.join().unwrap();
        assert_eq!(core.frozen_page(&snapshot, 1).unwrap(), [0, 0]);
        assert_eq!(core.store.in_use(), 2);
        core.assert_settled();
    });
}

/// Two threads hold a guard each and begin one on the other's arena, while both arenas commit.
#[test]
fn guards_of_two_arenas_and_commits() {
    model(1, || {
        let arenas = [arena(1), arena(1)];
        let takers: Vec<_> = arenas
            .iter()
            .map(|core| spawn(core, Core::snapshot))
            .collect();
        let nested = |outer: &Arc<Core>, inner: &Arc<Core>| {
            let first = outer.begin_guard(PageRange::from(0..1));
            let second = inner.begin_guard(PageRange::from(0..1));
            assert!(inner.memory().store(page(0), 0, 1));
            drop(second);
            drop(first);
        };
        nested(&arenas[0], &arenas[1]);
        nested(&arenas[1], &arenas[0]);
        for taker in takers {
            taker.join().unwrap();
        }
    });
}
