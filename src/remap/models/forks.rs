//! Forks beside all that goes on.

use super::*;

/// A fork beside a writer: the child sees what was at one instant, and that does not change.
#[test]
fn fork_and_writer() {
    model(5, || {
        let scene = Scene::new(2);
        let forker = spawn(&scene, |scene| {
            let child = scene.fork();
            let seen = bytes_of(&child, 2);
            assert!(seen[0] >= seen[1], "{seen:?}");
            scene.merge();
            (child, seen)
        });
        scene.write(0, 1);
        scene.write(1, 1);
        let (child, seen) = forker.join().unwrap();
        assert_eq!(bytes_of(&child, 2), seen);
        scene.child.store(false, Ordering::SeqCst);
        scene.assert_settled(&[1, 1]);
    });
}

/// A fork beside a merge that is under way and a writer.
#[test]
fn fork_and_merge() {
    model(4, || {
        let scene = Scene::to_be_merged(4, &[0, 3]);
        let keeper = spawn(&scene, Scene::merge);
        let forker = spawn(&scene, |scene| {
            let child = scene.fork();
            let seen = bytes_of(&child, 4);
            assert_eq!((seen[0], seen[1]), (1, 0));
            (child, seen)
        });
        scene.write(2, 6);
        scene.write(3, 5);
        let (child, seen) = forker.join().unwrap();
        keeper.join().unwrap();
        assert!(seen[2] == 6 || seen[3] == 4, "{seen:?}");
        scene.merge();
        assert_eq!(bytes_of(&child, 4), seen);
        scene.child.store(false, Ordering::SeqCst);
        scene.assert_settled(&[1, 0, 6, 5]);
    });
}

/// A fork beside a freeze: whoever comes second, the bytes of both stay.
#[test]
fn fork_and_freeze() {
    model(5, || {
        let scene = Scene::to_be_merged(2, &[0]);
        let taker = spawn(&scene, |scene| {
            if !scene.freeze() {
                return;
            }
            let seen = scene.frozen();
            scene.write(1, 3);
            assert_eq!(scene.frozen(), seen);
            scene.remap.release();
            scene.merge();
        });
        let child = scene.fork();
        let seen = bytes_of(&child, 2);
        // Its page is the file's, where the child looks at it.
        scene.write(1, 4);
        assert_eq!(bytes_of(&child, 2), seen);
        taker.join().unwrap();
        assert_eq!(bytes_of(&child, 2), seen);
        scene.child.store(false, Ordering::SeqCst);
        let live = scene.live();
        scene.assert_settled(&live);
    });
}

/// A fork beside the release of the last holder: the keeper, which it wakes, merges nothing while
/// the child looks at the file, also when that exits meanwhile.
#[test]
fn fork_and_release() {
    model(5, || {
        let scene = Scene::new(2);
        assert!(scene.freeze());
        scene.write(0, 1);
        let holder = spawn(&scene, |scene| {
            assert_eq!(scene.frozen(), [0, 0]);
            assert!(scene.remap.release());
            scene.merge();
        });
        let child = scene.fork();
        scene.write(1, 2);
        assert_eq!(bytes_of(&child, 2), [1, 0]);
        scene.child.store(false, Ordering::SeqCst);
        holder.join().unwrap();
        scene.assert_settled(&[1, 2]);
    });
}

/// Memory of which more comes into use between two forks, while what the first one left is partly
/// merged: each child sees what was, of all that was in use, and the rest stays shared.
#[test]
fn fork_of_memory_that_grows() {
    model(4, || {
        let scene = Scene::unused(6);
        scene.write(0, 1);
        drop(scene.fork_below(4));
        scene.child.store(false, Ordering::SeqCst);
        scene.write(3, 2);
        // Two pages of the four.
        let merged = scene.merge_some();
        assert_eq!(merged.expect("nothing is injected"), Merged::Some);
        assert!(scene.views().is_shared(page(4)));
        let writer = spawn(&scene, |scene| {
            scene.write(0, 5);
            scene.write(4, 6);
            scene.write(5, 7);
        });
        let child = scene.fork_below(5);
        let seen = bytes_of(&child, 5);
        assert!(seen[3] == 2 && (seen[4] == 0 || seen[0] == 5), "{seen:?}");
        scene.merge();
        writer.join().unwrap();
        assert_eq!(bytes_of(&child, 5), seen);
        assert!(scene.views().is_shared(page(5)));
        scene.child.store(false, Ordering::SeqCst);
        scene.assert_settled(&[5, 0, 0, 2, 6, 7]);
    });
}
