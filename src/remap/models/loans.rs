//! Memory on loan to another engine.

use super::*;

/// What is lent is private as a whole while a loan lives, and while a snapshot is taken there,
/// beside a writer and a thread that would merge.
#[test]
fn loan_and_merge() {
    model(4, || {
        let scene = Scene::to_be_merged(4, &[0]);
        let keeper = spawn(&scene, Scene::merge);
        let borrower = spawn(&scene, borrow);
        scene.write(0, 7);
        scene.write(2, 8);
        borrower.join().unwrap();
        keeper.join().unwrap();
        scene.assert_settled(&[7, 0, 8, 0]);
    });
}

/// The same beside a thread that would freeze.
#[test]
fn loan_and_freeze() {
    model(5, || {
        let scene = Scene::new(2);
        let taker = spawn(&scene, |scene| {
            scene.write(1, 8);
            if scene.freeze() {
                assert!(!scene.remap.is_lent());
                let seen = scene.frozen();
                assert_eq!(seen[1], 8);
                thread::yield_now();
                assert_eq!(scene.frozen(), seen);
                scene.remap.release();
            }
        });
        let borrower = spawn(&scene, borrow);
        scene.write(0, 7);
        borrower.join().unwrap();
        taker.join().unwrap();
        scene.assert_settled(&[7, 8]);
    });
}

/// Borrows the memory, and takes a snapshot there which lives for longer than the loan.
fn borrow(scene: &Scene) {
    let assert_private = || {
        for at in 0..scene.pages {
            let shared = scene.views().is_shared(page(at));
            assert!(!shared, "page {at} is lent, and shared");
        }
    };
    scene.remap.lend().unwrap();
    assert_private();
    scene.is_needed.store(true, Ordering::SeqCst);
    scene.remap.end_loan();
    assert_private();
    scene.is_needed.store(false, Ordering::SeqCst);
}
