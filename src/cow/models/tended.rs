//! Arenas that are tended while others are at work.

use super::*;

/// Tends until there is nothing to do now.
pub(super) fn tend(core: &Core) {
    while core.tend_once(true) == Tended::More {}
}

/// An arena of two pages whose free frames' memory is given back at once.
fn decaying(store_limit: usize) -> Arc<Core> {
    let options = Options {
        store_limit,
        window: Window::Page,
        decay: Duration::ZERO,
        ..Options::default()
    };
    arena_of(2, 1, &options)
}

/// Frames are made ready while writers take them and another snapshot is taken. With a limit that
/// leaves a frame for each copy, no writer finds that one missing.
#[test]
fn frames_made_ready_and_writers_and_commit() {
    model(2, || {
        let core = arena_with(2, 1, 4);
        let first = core.snapshot();
        let keeper = spawn(&core, tend);
        core.write(0, 1);
        let second = core.snapshot();
        core.write(0, 2);
        core.write(1, 2);
        for at in [0, 1] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(core.frozen(&second, 0).unwrap(), 1);
        assert_eq!(core.frozen(&second, 1).unwrap(), 0);
        keeper.join().unwrap();
        core.assert_settled();
    });
}

/// Memory is given back while the last snapshot goes, and the next one's writers take frames.
#[test]
fn decay_and_last_drop_and_commit() {
    model(2, || {
        let core = decaying(usize::MAX);
        let first = core.snapshot();
        core.write(0, 1);
        let keeper = spawn(&core, tend);
        core.release(&first);
        let second = core.snapshot();
        core.write(0, 2);
        core.write(1, 3);
        assert_eq!(core.frozen(&second, 0).unwrap(), 1);
        assert_eq!(core.frozen(&second, 1).unwrap(), 0);
        keeper.join().unwrap();
        assert_eq!(core.store.in_use(), 2);
        core.assert_settled();
    });
}

/// The same while an older snapshot lives on, with a limit that leaves a frame for each copy.
#[test]
fn decay_and_writers_and_commit() {
    model(2, || {
        let core = decaying(4);
        let first = core.snapshot();
        core.write(0, 1);
        let second = core.snapshot();
        core.write(0, 2);
        core.release(&second);
        let keeper = spawn(&core, tend);
        core.write(1, 1);
        let third = core.snapshot();
        core.write(0, 3);
        core.write(1, 3);
        for at in [0, 1] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(core.frozen(&third, 0).unwrap(), 2);
        assert_eq!(core.frozen(&third, 1).unwrap(), 1);
        keeper.join().unwrap();
    });
}
