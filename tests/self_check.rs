//! Taking a snapshot fails, before anything is armed, when a write would not reach the handler.

mod common;

use common::mappings::is_writable;
use common::signals;
use common::{expect_bytes, in_child, patterned};
use pagecow::Error;

extern "C" fn theirs(_: i32) {}

#[test]
fn a_handler_installed_later_is_noticed_before_anything_is_armed() {
    let test = "a_handler_installed_later_is_noticed_before_anything_is_armed";
    let ended = in_child(test, || {
        let (mut arena, before) = patterned(8);
        let theirs = signals::action(theirs as *const () as usize, 0, &[]);
        let ours = signals::install(libc::SIGSEGV, &theirs);
        let calls = arena.stats().protect_calls;
        for _ in 0..3 {
            let result = arena.snapshot();
            assert!(matches!(result, Err(Error::HandlerReplaced)), "{result:?}");
            let result = arena.snapshotter().snapshot();
            assert!(matches!(result, Err(Error::HandlerReplaced)), "{result:?}");
        }
        assert_eq!(arena.stats().protect_calls, calls);
        assert_eq!(arena.stats().snapshots, 0);
        assert!(is_writable(arena.as_ptr(), arena.len()));
        arena[0] = before[0];

        signals::install(libc::SIGSEGV, &ours);
        let snapshot = arena.snapshot().unwrap();
        arena.fill(3);
        expect_bytes(&snapshot, &before);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

#[test]
fn a_masked_signal_is_noticed_before_anything_is_armed() {
    let ended = in_child(
        "a_masked_signal_is_noticed_before_anything_is_armed",
        || {
            let (mut arena, before) = patterned(8);
            signals::mask(libc::SIG_BLOCK, &[libc::SIGSEGV]);
            let result = arena.snapshot();
            assert!(matches!(result, Err(Error::SignalMasked)), "{result:?}");
            assert_eq!(arena.stats().protect_calls, 0);
            assert!(is_writable(arena.as_ptr(), arena.len()));
            arena[0] = before[0];

            signals::mask(libc::SIG_UNBLOCK, &[libc::SIGSEGV]);
            let snapshot = arena.snapshot().unwrap();
            arena.fill(3);
            expect_bytes(&snapshot, &before);
        },
    );
    ended.expect_finished();
}
