//! Guards that were leaked end with what they kept, and no thread is the worse for it.

use std::mem::forget;

use crate::common::{expect_bytes, in_child, on, page_size, patterned};
use pagecow::Error;

const PAGES: usize = 8;

#[test]
fn a_leaked_guard_ends_with_its_arena() {
    let ended = in_child(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        let (other, bytes) = patterned(on(engine), PAGES);
        forget(arena.writable(..));
        assert!(matches!(other.snapshot(), Err(Error::GuardHeld)));
        drop(arena);
        expect_bytes(&other.snapshot().unwrap(), &bytes);
        assert!(other.prepare().unwrap().commit().is_ok());
    });
    ended.expect_finished();
}

#[test]
fn a_leaked_guard_that_another_thread_ends() {
    let ended = in_child(|engine| {
        let (mut arena, bytes) = patterned(on(engine), PAGES);
        let (other, _) = patterned(on(engine), PAGES);
        forget(arena.writable(page_size()..));
        assert!(matches!(other.snapshot(), Err(Error::GuardHeld)));
        let snapshot =
            std::thread::scope(|scope| scope.spawn(|| arena.snapshot()).join().unwrap().unwrap());
        expect_bytes(&snapshot, &bytes);
        assert!(other.snapshot().is_ok());
        assert!(arena.snapshotter().snapshot().is_ok());
    });
    ended.expect_finished();
}

/// Leaked again and again: each ends when the next begins.
#[test]
fn many_leaked_guards_are_one() {
    let ended = in_child(|engine| {
        let (mut arena, bytes) = patterned(on(engine), PAGES);
        for _ in 0..3 {
            forget(arena.writable(..1));
        }
        drop(arena.writable(..1));
        let snapshot = arena.snapshotter().snapshot().unwrap();
        arena.fill(0);
        expect_bytes(&snapshot, &bytes);
    });
    ended.expect_finished();
}

/// A guard that is leaked keeps a thread waiting; the arena's end lets it go.
#[test]
fn a_thread_that_waits_for_a_leaked_guard_goes_on_when_the_arena_goes() {
    let ended = in_child(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        let snapshotter = arena.snapshotter();
        forget(arena.writable(..));
        let waiting = std::thread::spawn(move || snapshotter.snapshot());
        std::thread::yield_now();
        drop(arena);
        if let Err(error) = waiting.join().unwrap() {
            assert!(matches!(error, Error::ArenaDropped), "{error}");
        }
    });
    ended.expect_finished();
}
