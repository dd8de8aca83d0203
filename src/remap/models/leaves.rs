//! Pages that leave, beside all that goes on.

use super::*;

/// No store to a page that leaves is lost, whether it was shared, private or a copy.
#[test]
fn stores_and_leave() {
    model(4, || {
        let scene = Scene::unused(3);
        scene.write(0, 1);
        drop(scene.fork_below(2));
        scene.child.store(false, Ordering::SeqCst);
        scene.write(1, 1);
        let leaver = spawn(&scene, |scene| {
            scene.leave(0, 3);
        });
        scene.add(0, 16);
        scene.add(1, 16);
        scene.add(2, 16);
        leaver.join().unwrap();
        assert_eq!(scene.live(), [17, 17, 16]);
        scene.merge();
        assert_eq!(scene.live(), [17, 17, 16]);
    });
}

/// A page leaves while its neighbours are merged, and a fork follows: the child has what was.
#[test]
fn leave_and_merge_and_fork() {
    model(4, || {
        let scene = Scene::to_be_merged(4, &[0, 1, 3]);
        let keeper = spawn(&scene, |scene| {
            scene.merge();
            let child = scene.fork_below(4);
            let seen = bytes_of(&child, 4);
            assert_eq!((seen[0], seen[2], seen[3]), (1, 0, 4));
            assert!(seen[1] == 2 || seen[1] == 2 + 16, "{seen:?}");
        });
        scene.leave(1, 2);
        scene.add(1, 16);
        keeper.join().unwrap();
        scene.child.store(false, Ordering::SeqCst);
        scene.merge();
        assert_eq!(scene.live(), [1, 18, 0, 4]);
        for at in [0, 2, 3] {
            assert!(scene.views().is_shared(page(at)));
        }
        assert!(!scene.views().is_shared(page(1)));
    });
}
