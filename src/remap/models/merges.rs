//! Merging, beside stores, freezes and holders.

use super::*;

/// No store is lost that is made while its page is merged, whether or not the page had a copy; the
/// thread that is refused is woken.
#[test]
fn stores_and_merge() {
    model(5, || {
        let scene = Scene::to_be_merged(2, &[0]);
        let keeper = spawn(&scene, Scene::merge);
        scene.write(0, 7);
        scene.write(1, 8);
        keeper.join().unwrap();
        scene.assert_settled(&[7, 8]);
    });
}

/// Two threads add to one page while it is merged.
#[test]
fn additions_and_merge() {
    model(5, || {
        let scene = Scene::to_be_merged(2, &[0]);
        let keeper = spawn(&scene, Scene::merge);
        let other = spawn(&scene, |scene| scene.add(0, 16));
        scene.add(0, 32);
        other.join().unwrap();
        keeper.join().unwrap();
        scene.assert_settled(&[1 + 16 + 32, 0]);
    });
}

/// The system refuses to share a slice: stores that waited go through, and the next try succeeds.
#[test]
fn stores_and_refused_merge() {
    model(5, || {
        let scene = Scene::to_be_merged(2, &[0]);
        scene.refuses.store(true, Relaxed);
        scene.views().no_share.store(true, Relaxed);
        let keeper = spawn(&scene, Scene::merge);
        scene.write(0, 7);
        scene.write(1, 8);
        keeper.join().unwrap();
        scene.views().no_share.store(false, Relaxed);
        scene.refuses.store(false, Relaxed);
        scene.assert_settled(&[7, 8]);
    });
}

/// A freeze that has to finish a merge, beside a keeper that merges and a writer: the snapshot has
/// what was private before, and stores that happened before it.
#[test]
fn freeze_and_unfinished_merge() {
    model(4, || {
        let scene = Scene::to_be_merged(4, &[0, 3]);
        let keeper = spawn(&scene, Scene::merge);
        let taker = spawn(&scene, |scene| {
            scene.write(0, 9);
            assert!(scene.freeze());
            let seen = scene.frozen();
            assert_eq!((seen[0], seen[1]), (9, 0));
            assert!(seen[2] == 0 || seen[3] == 5, "{seen:?}");
            seen
        });
        scene.write(3, 5);
        scene.write(2, 6);
        let seen = taker.join().unwrap();
        keeper.join().unwrap();
        assert_eq!(scene.frozen(), seen);
        scene.remap.release();
        scene.assert_settled(&[9, 0, 6, 5]);
    });
}

/// The last holder goes while another thread freezes and the keeper merges: what is held stays.
#[test]
fn release_and_freeze_and_merge() {
    model(5, || {
        let scene = Scene::new(2);
        assert!(scene.freeze());
        scene.write(0, 1);
        let taker = spawn(&scene, |scene| {
            if !scene.freeze() {
                return;
            }
            // The first holder is gone, since its file lacks a store.
            let seen = scene.frozen();
            assert_eq!(seen[0], 1);
            scene.write(1, 3);
            assert_eq!(scene.frozen(), seen);
            scene.remap.release();
        });
        let keeper = spawn(&scene, Scene::merge);
        assert_eq!(scene.frozen(), [0, 0]);
        scene.remap.release();
        keeper.join().unwrap();
        taker.join().unwrap();
        let live = scene.live();
        scene.assert_settled(&live);
    });
}

/// One more holder comes as the other goes, as when a view is made of a snapshot that is dropped
/// then: nothing is merged in between. A branch has the same bytes until it goes.
#[test]
fn hold_and_release_and_merge() {
    model(5, || {
        let scene = Scene::new(2);
        assert!(scene.freeze());
        scene.write(0, 1);
        let keeper = spawn(&scene, Scene::merge);
        scene.remap.hold();
        scene.remap.release();
        let branch = scene.remap.branch().unwrap();
        scene.write(1, 1);
        assert_eq!(bytes_of(&branch, 2), [0, 0]);
        scene.remap.forget(&branch);
        assert!(scene.remap.release());
        keeper.join().unwrap();
        scene.assert_settled(&[1, 1]);
    });
}
