//! Arenas that stand ready for snapshots while others are at work.

use super::tended::tend;
use super::*;

fn standing_ready(pages: usize, engine: Engine) -> Arc<Core> {
    let options = Options {
        engine,
        window: Window::Page,
        stand_ready: true,
        // The clock stands still.
        cold: Duration::ZERO,
        ..Options::default()
    };
    arena_of(pages, 1, &options)
}

/// Pages are armed while a writer opens them again and a snapshot is taken: it has the later of two
/// stores only with the earlier one.
#[test]
fn standing_ready_and_writer_and_commit() {
    model(2, || {
        let core = standing_ready(3, Engine::Mprotect);
        let keeper = spawn(&core, tend);
        let taker = spawn(&core, Core::snapshot);
        core.write(2, 1);
        core.write(0, 1);
        let snapshot = taker.join().unwrap();
        let first = core.frozen(&snapshot, 2).unwrap();
        let second = core.frozen(&snapshot, 0).unwrap();
        assert!(first >= second, "the later store without the earlier one");
        keeper.join().unwrap();
        core.write(0, 2);
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), second);
        core.assert_settled();
    });
}

/// The same pages are armed and opened again while a snapshot lives, which sees none of it. A fault
/// that needs no copy opens its neighbours, but not one that a snapshot needs.
#[test]
fn standing_ready_with_a_live_snapshot() {
    model(2, || {
        let core = standing_ready(3, Engine::Mprotect);
        let snapshot = core.snapshot();
        core.write(0, 1);
        core.write(1, 1);
        let keeper = spawn(&core, tend);
        core.write(0, 2);
        core.write(1, 2);
        core.write(0, 3);
        assert_eq!(core.store.in_use(), 2);
        core.write(2, 1);
        for at in 0..3 {
            assert_eq!(core.frozen(&snapshot, at).unwrap(), 0);
        }
        keeper.join().unwrap();
        core.assert_settled();
    });
}

/// The newest snapshot goes meanwhile: an older one needs the copies that are made, and no others.
#[test]
fn standing_ready_and_drop() {
    model(2, || {
        let core = standing_ready(2, Engine::Mprotect);
        let first = core.snapshot();
        core.write(0, 1);
        let second = core.snapshot();
        core.write(0, 2);
        let keeper = spawn(&core, tend);
        let dropper = spawn(&core, move |core| core.release(&second));
        core.write(0, 3);
        core.write(1, 3);
        dropper.join().unwrap();
        for at in [0, 1] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        keeper.join().unwrap();
        assert_eq!(core.store.in_use(), 2);
        core.assert_settled();
    });
}

/// The pages of a guard stay open.
#[test]
fn standing_ready_and_guard() {
    model(3, || {
        let core = standing_ready(2, Engine::Mprotect);
        let keeper = spawn(&core, tend);
        let guard = core.begin_guard(page(1).into());
        for value in [1, 2] {
            let stored = core.memory().store(page(1), 1, value);
            assert!(stored, "a page under a guard was armed");
        }
        drop(guard);
        core.write(0, 1);
        keeper.join().unwrap();
        core.assert_settled();
    });
}

/// All pages stay open once they were opened on request.
#[test]
fn standing_ready_and_open_all() {
    model(3, || {
        let core = standing_ready(3, Engine::Mprotect);
        let keeper = spawn(&core, tend);
        core.write(1, 1);
        assert!(core.open_all().unwrap());
        for at in 0..3 {
            let stored = core.memory().store(page(at), at, 2);
            assert!(stored, "a page was armed after all were opened");
        }
        keeper.join().unwrap();
        for at in 0..3 {
            assert!(core.memory().store(page(at), at, 3));
        }
        core.assert_settled();
    });
}

/// Untouched blocks are protected as a whole, and split by a writer meanwhile.
#[test]
fn standing_ready_and_untouched_blocks() {
    model(2, || {
        let core = standing_ready(2, Engine::Userfaultfd);
        let keeper = spawn(&core, tend);
        core.write(1, 1);
        let snapshot = core.snapshot();
        core.write(1, 2);
        core.write(0, 1);
        keeper.join().unwrap();
        assert_eq!(core.frozen(&snapshot, 1).unwrap(), 1);
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), 0);
        core.assert_settled();
    });
}
