//! Freezing, beside stores and other holders.

use super::*;

/// One instant: a snapshot that has the second of two stores has the first, and what it has stays.
#[test]
fn stores_and_freeze() {
    model(5, || {
        let scene = Scene::new(2);
        let taker = spawn(&scene, |scene| {
            assert!(scene.freeze());
            let seen = scene.frozen();
            assert!(seen[0] >= seen[1], "{seen:?}");
            seen
        });
        scene.write(0, 1);
        scene.write(1, 1);
        let seen = taker.join().unwrap();
        assert_eq!(scene.frozen(), seen);
        scene.remap.release();
        scene.assert_settled(&[1, 1]);
    });
}

/// The same of stores by two threads, of which the second sees the first.
#[test]
fn stores_of_two_threads_and_freeze() {
    model(5, || {
        let scene = Scene::new(2);
        let taker = spawn(&scene, |scene| {
            assert!(scene.freeze());
            let seen = scene.frozen();
            assert!(seen[0] >= seen[1], "{seen:?}");
        });
        let second = spawn(&scene, |scene| {
            if scene.views().load(page(0)) == 1 {
                scene.write(1, 1);
            }
        });
        scene.write(0, 1);
        taker.join().unwrap();
        second.join().unwrap();
    });
}

/// The system refuses to freeze: all stays shared, nothing is held, and no store is lost.
#[test]
fn stores_and_refused_freeze() {
    model(5, || {
        let scene = Scene::new(2);
        scene.views().no_freeze.store(true, Relaxed);
        let taker = spawn(&scene, |scene| {
            assert!(scene.remap.freeze(|| Ok(true), || false).is_err());
            assert_eq!(scene.remap.holders(), 0);
        });
        scene.write(0, 1);
        scene.write(1, 1);
        taker.join().unwrap();
        scene.views().no_freeze.store(false, Relaxed);
        scene.assert_settled(&[1, 1]);
    });
}

/// Two threads that freeze, each after a store of its own: each gets its store, or is refused.
#[test]
fn two_freezes() {
    model(5, || {
        let scene = Scene::new(2);
        let take = |scene: &Scene, at: usize| {
            scene.write(at, 1);
            let frozen = scene.freeze();
            let seen = scene.frozen();
            assert!(!frozen || seen[at] == 1, "its own store is missing");
            frozen.then_some(seen)
        };
        let other = spawn(&scene, move |scene| take(scene, 0));
        let mine = take(&scene, 1);
        let other = other.join().unwrap();
        let seen = scene.frozen();
        for taken in [mine, other].into_iter().flatten() {
            assert_eq!(taken, seen);
            scene.remap.release();
        }
        scene.assert_settled(&[1, 1]);
    });
}

/// A second holder of the same bytes, beside a writer: it is refused when anything was stored
/// before, and what it gets stays.
#[test]
fn second_holder_and_writer() {
    model(5, || {
        let scene = Scene::new(2);
        assert!(scene.freeze());
        let taker = spawn(&scene, |scene| {
            let before = scene.live();
            let frozen = scene.freeze();
            assert!(!frozen || before == [0, 0], "a store is missing");
            frozen
        });
        scene.write(0, 1);
        scene.write(1, 1);
        if taker.join().unwrap() {
            scene.remap.release();
        }
        assert_eq!(scene.frozen(), [0, 0]);
        scene.remap.release();
        scene.assert_settled(&[1, 1]);
    });
}
