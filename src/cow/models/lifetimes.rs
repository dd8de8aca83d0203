//! Snapshots that go: their copies, the chains these hang on, and the frames that they leave.

use super::*;

/// The handler publishes a copy for the newest snapshot while that one is being dropped: the copy
/// must neither be lost to the older snapshot that needs it nor stay for ever.
#[test]
fn drop_and_publish() {
    model(3, || {
        let core = arena(1);
        let older = core.snapshot();
        let newest = core.snapshot();
        let dropper = spawn(&core, move |core| core.release(&newest));
        core.write(0, 1);
        dropper.join().unwrap();
        assert_eq!(core.frozen(&older, 0).unwrap(), 0);
        assert_eq!(core.store.in_use(), 1);
        core.release(&older);
        assert_eq!(core.store.in_use(), 0);
        core.assert_settled();
    });
}

/// The same when nobody else needs the copy.
#[test]
fn drop_of_the_only_snapshot_and_publish() {
    model(3, || {
        let core = arena(1);
        let snapshot = core.snapshot();
        let dropper = spawn(&core, move |core| core.release(&snapshot));
        core.write(0, 1);
        dropper.join().unwrap();
        assert_eq!(core.store.in_use(), 0);
        core.assert_settled();
    });
}

/// A reader walks a page's chain while a newer copy is unlinked and its frame used again elsewhere.
#[test]
fn reader_and_recycled_frame() {
    model(2, || {
        let core = arena(2);
        let older = core.snapshot();
        core.write(0, 1);
        let newer = core.snapshot();
        core.write(0, 2);
        core.write(1, 8);
        let reader = spawn(&core, move |core| {
            assert_eq!(core.frozen(&older, 0).unwrap(), 0);
            assert_eq!(core.frozen(&older, 1).unwrap(), 0);
        });
        core.release(&newer);
        let third = core.snapshot();
        core.write(1, 9);
        reader.join().unwrap();
        assert_eq!(core.frozen(&third, 1).unwrap(), 8);
    });
}

/// Two snapshots go at once, on two threads, while a third needs what both hold.
#[test]
fn two_drops_at_once() {
    model(2, || {
        let core = arena(1);
        let first = core.snapshot();
        let second = core.snapshot();
        let third = core.snapshot();
        core.write(0, 1);
        let dropper = spawn(&core, move |core| core.release(&third));
        core.release(&second);
        dropper.join().unwrap();
        assert_eq!(core.frozen(&first, 0).unwrap(), 0);
        assert_eq!(core.store.in_use(), 1);
        core.release(&first);
        assert_eq!(core.store.in_use(), 0);
    });
}

/// The newest snapshot is dropped while the next one is taken.
#[test]
fn drop_and_commit() {
    model(2, || {
        let core = arena(1);
        let first = core.snapshot();
        core.write(0, 1);
        let taker = spawn(&core, Core::snapshot);
        core.release(&first);
        let second = taker.join().unwrap();
        core.write(0, 2);
        assert_eq!(core.frozen(&second, 0).unwrap(), 1);
        assert_eq!(core.store.in_use(), 1);
        core.assert_settled();
    });
}

/// What changed is looked up while a snapshot in between goes, whose copy the older one inherits:
/// nothing is missed, and nothing is there twice.
#[test]
fn changes_while_one_in_between_goes() {
    model(3, || {
        let core = arena(2);
        let older = core.snapshot();
        core.write(0, 1);
        let between = core.snapshot();
        core.write(1, 2);
        let newer = core.snapshot();
        let reader = spawn(&core, move |core| {
            let changed = core.changed_between(&older, &newer).unwrap();
            assert_eq!(changed, [page(0), page(1)]);
        });
        core.release(&between);
        reader.join().unwrap();
        core.assert_settled();
    });
}

/// The same up to now, while the newest goes and a thread writes.
#[test]
fn changes_up_to_now_while_the_newest_goes() {
    model(3, || {
        let core = arena(2);
        let older = core.snapshot();
        core.write(0, 1);
        let newest = core.snapshot();
        core.write(1, 2);
        let reader = spawn(&core, move |core| {
            let changed = core.changed_since(&older).unwrap();
            assert_eq!(changed, [page(0), page(1)]);
        });
        core.release(&newest);
        reader.join().unwrap();
        core.assert_settled();
    });
}

/// A frame is never handed out twice.
#[test]
fn frames_taken_and_put_back() {
    model(3, || {
        let core = arena_with(2, 1, 3);
        core.store.reserve(3).unwrap();
        let first = core.store.take().unwrap();
        let second = core.store.take().unwrap();
        core.store.put(first);
        core.store.put(second);
        let other = spawn(&core, |core| {
            let frame = core.store.take().unwrap();
            core.store.put(frame);
            core.store.take().unwrap()
        });
        let one = core.store.take().unwrap();
        let two = other.join().unwrap();
        let three = core.store.take().unwrap();
        assert!(one != two && two != three && three != one);
        assert!(core.store.take().is_none());
    });
}

/// The last snapshot goes and the store is trimmed, while the next one's writer needs the frame.
#[test]
fn trim_and_take() {
    model(2, || {
        let core = arena(2);
        let first = core.snapshot();
        core.write(0, 1);
        let dropper = spawn(&core, move |core| core.release(&first));
        let second = core.snapshot();
        dropper.join().unwrap();
        let trimmer = spawn(&core, |core| core.trim_beyond(|_| 0));
        core.write(0, 2);
        core.write(1, 3);
        assert_eq!(core.frozen(&second, 0).unwrap(), 1);
        assert_eq!(core.frozen(&second, 1).unwrap(), 0);
        trimmer.join().unwrap();
    });
}

/// An arena of two pages with a snapshot that has a copy of the first, and a frame that was used
/// and is free.
fn with_a_free_frame(limit: usize) -> (Arc<Core>, Arc<Live>) {
    let core = arena_with(2, 1, limit);
    let first = core.snapshot();
    core.write(0, 1);
    let second = core.snapshot();
    core.write(0, 2);
    core.release(&second);
    (core, first)
}

/// A free frame is set aside to give its memory back while a snapshot lives, and the next one is
/// taken: with a limit that leaves a frame for each page, none of its writers may find that one
/// missing.
#[test]
fn set_aside_and_commit() {
    model(2, || {
        let (core, first) = with_a_free_frame(4);
        let trimmer = spawn(&core, |core| core.trim_beyond(|_| 0));
        core.write(1, 1);
        let third = core.snapshot();
        core.write(0, 3);
        core.write(1, 3);
        for at in [0, 1] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(core.frozen(&third, 0).unwrap(), 2);
        assert_eq!(core.frozen(&third, 1).unwrap(), 1);
        trimmer.join().unwrap();
        assert_eq!(core.store.in_use(), 4);
    });
}

/// The last snapshot goes while frames are aside: they are handed out once each afterwards.
#[test]
fn set_aside_and_last_drop() {
    model(2, || {
        let (core, first) = with_a_free_frame(5);
        let trimmer = spawn(&core, |core| core.trim_beyond(|_| 0));
        core.release(&first);
        trimmer.join().unwrap();
        let _third = core.snapshot();
        let mut taken: Vec<_> = std::iter::from_fn(|| core.store.take()).collect();
        assert_eq!(taken.len(), 5);
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 5);
    });
}

/// The last snapshot's frames come back one by one, while another thread gives memory back, and the
/// next snapshot is taken: none of them is handed out twice.
#[test]
fn last_drop_and_trim_and_commit() {
    model(2, || {
        let core = arena(2);
        let first = core.snapshot();
        core.write(0, 1);
        let dropper = spawn(&core, move |core| core.release(&first));
        let trimmer = spawn(&core, |core| core.trim_beyond(|_| 0));
        let second = core.snapshot();
        core.write(0, 2);
        core.write(1, 2);
        assert_eq!(core.frozen(&second, 0).unwrap(), 1);
        assert_eq!(core.frozen(&second, 1).unwrap(), 0);
        dropper.join().unwrap();
        trimmer.join().unwrap();
        assert_eq!(core.store.in_use(), 2);
    });
}

/// A copy is taken off a page's chain while a newer one is put on it.
#[test]
fn unlink_and_push() {
    model(3, || {
        let core = arena(1);
        let older = core.snapshot();
        core.write(0, 1);
        let newer = core.snapshot();
        let writer = {
            let newer = newer.clone();
            spawn(&core, move |core| {
                core.write(0, 2);
                assert_eq!(core.frozen(&newer, 0).unwrap(), 1);
            })
        };
        core.release(&older);
        writer.join().unwrap();
        assert_eq!(core.frozen(&newer, 0).unwrap(), 1);
        assert_eq!(core.store.in_use(), 1);
        core.release(&newer);
        assert_eq!(core.store.in_use(), 0);
    });
}

/// A copy is inherited by an older snapshot, and a commit comes before it is on the heir's list.
#[test]
fn inheritance_and_commit() {
    model(3, || {
        let core = arena(1);
        let first = core.snapshot();
        let second = core.snapshot();
        core.write(0, 1);
        let taker = spawn(&core, |core| {
            let third = core.snapshot();
            core.write(0, 2);
            third
        });
        core.release(&second);
        let third = taker.join().unwrap();
        assert_eq!(core.frozen(&first, 0).unwrap(), 0);
        assert_eq!(core.frozen(&third, 0).unwrap(), 1);
        assert_eq!(core.store.in_use(), 2);
        core.release(&first);
        assert_eq!(core.store.in_use(), 1);
        core.release(&third);
        assert_eq!(core.store.in_use(), 0);
    });
}
