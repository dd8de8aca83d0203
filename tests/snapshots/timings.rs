//! What `Snapshot::timings` says is of that snapshot.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::common::{by_faults, for_each_fault_engine, in_child, on, page_size};
use pagecow::{Arena, Engine, Pending, Snapshot};

const PAGES: usize = 4096;

fn filled(engine: Engine) -> Arena {
    let mut arena = on(engine).build(PAGES * page_size()).unwrap();
    arena.fill(1);
    arena
}

fn step_until_ready(pending: &mut Pending) {
    while !pending.is_ready() {
        pending.step(Duration::ZERO).unwrap();
    }
}

#[test]
fn a_snapshot_has_what_its_own_steps_took() {
    for_each_fault_engine(|engine| {
        let mut arena = filled(engine);
        let mut stepped = arena.prepare().unwrap();
        let stepped = std::thread::spawn(move || {
            step_until_ready(&mut stepped);
            stepped
        });
        let stepped = stepped.join().unwrap();

        // Taken meanwhile, with little to do.
        let other = arena.prepare().unwrap().commit().unwrap().timings();
        assert_eq!(other.passes, 0);
        assert_eq!(other.wait_for_guards, Duration::ZERO);
        assert!(other.stop >= other.arm);

        // Nothing is left for the commit, so that all was armed ahead.
        let calls = arena.stats().protect_calls;
        let snapshot = stepped.commit().unwrap();
        assert_eq!(arena.stats().protect_calls, calls);
        let timings = snapshot.timings();
        assert!(timings.passes > 0);
        assert!(timings.arm > Duration::ZERO);
        assert_eq!(snapshot.clone().timings(), timings);

        // And nothing was armed at all.
        let idle = arena.snapshot().unwrap().timings();
        assert_eq!((idle.passes, idle.arm), (0, Duration::ZERO));
        assert!(idle.stop > Duration::ZERO);
        arena[0] = 2;
        let one_page = arena.snapshot().unwrap().timings();
        assert_eq!(one_page.passes, 0);
        assert!(one_page.arm > Duration::ZERO && one_page.stop >= one_page.arm);
        assert_eq!(snapshot.timings(), timings);
    });
}

/// What one call takes, the snapshot's own figures included.
fn timed(take: impl FnOnce() -> Snapshot) {
    let begin = Instant::now();
    let snapshot = take();
    let took = begin.elapsed();
    let timings = snapshot.timings();
    assert!(timings.stop <= took, "{timings:?} in {took:?}");
    assert!(timings.arm <= took, "{timings:?} in {took:?}");
    assert_eq!(timings.wait_for_guards, Duration::ZERO);
}

#[test]
fn several_threads_that_take_snapshots_at_once_have_each_its_own() {
    let ended = in_child(|engine| {
        let mut arena = filled(engine);
        let snapshotter = arena.snapshotter();
        let words = arena.atomic_u64();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 0;
                while !done.load(Relaxed) {
                    at = (at + 37 * page_size() / 8) % words.len();
                    words[at].fetch_add(1, Relaxed);
                }
            });
            let takers = [0, 1, 2].map(|_| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        timed(|| snapshotter.snapshot().unwrap());
                        timed(|| snapshotter.snapshot_with(|| ()).unwrap());
                        timed(|| {
                            let snapshot = snapshotter.prepare().unwrap().commit().unwrap();
                            assert_eq!(snapshot.timings().passes, 0);
                            snapshot
                        });
                    }
                })
            });
            for taker in takers {
                taker.join().unwrap();
            }
            done.store(true, Relaxed);
        });
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

#[test]
fn waiting_for_a_guard_is_counted_in_steps_and_in_the_commit() {
    let ended = in_child(|engine| {
        let mut arena = filled(engine);
        let snapshotter = arena.snapshotter();
        let part = arena.writable(..).unwrap();
        let stepper = std::thread::spawn(move || {
            let mut pending = snapshotter.prepare().unwrap();
            pending.step(Duration::from_millis(1)).unwrap();
            pending
        });
        let pending = stepper.join().unwrap();
        drop(part);
        let timings = pending.commit().unwrap().timings();
        // Where there is nothing to arm, a step waits for no guard.
        assert!(timings.wait_for_guards > Duration::ZERO || !by_faults(engine));
        // The guard kept all pages, so nothing was armed ahead.
        assert_eq!(timings.passes, 0);

        // Until the commit is seen to wait.
        loop {
            let pending = arena.prepare().unwrap();
            let part = arena.writable(..1).unwrap();
            let committer = std::thread::spawn(|| pending.commit().unwrap().timings());
            std::thread::sleep(Duration::from_millis(1));
            drop(part);
            let timings = committer.join().unwrap();
            if timings.wait_for_guards > Duration::ZERO {
                assert_eq!(timings.passes, 0);
                break;
            }
        }
    });
    ended.expect_finished();
}
