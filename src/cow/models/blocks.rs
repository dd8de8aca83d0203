//! userfaultfd: blocks that are protected as a whole until a store splits them.

use super::*;

/// userfaultfd: the first stores to a block that was protected as a whole, by two threads. Who splits it last must
/// not close the page that the other has opened: its store would be refused for ever.
#[test]
fn two_writers_split_an_untouched_block() {
    model(3, || {
        let shared = arena_of_blocks(2);
        let snapshot = shared.snapshot();
        let other = spawn(&shared, |shared| shared.write(1, 7));
        shared.write(0, 5);
        other.join().unwrap();
        assert_eq!([shared.engine.load(0), shared.engine.load(1)], [5, 7]);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&snapshot, 1).unwrap(), 0);
        shared.assert_settled();
    });
}

/// The same against a commit, which protects the other block as a whole.
#[test]
fn split_of_an_untouched_block_and_commit() {
    model(3, || {
        let shared = arena_of_blocks(3);
        let first = shared.snapshot();
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(1, 1);
        let second = taker.join().unwrap();
        let seen = shared.frozen(&second, 1).unwrap();
        shared.assert_settled();
        for at in [0, 1, 2] {
            shared.write(at, 2);
        }
        for at in [0, 1, 2] {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(shared.frozen(&second, 1).unwrap(), seen);
        assert_eq!(shared.frozen(&second, 2).unwrap(), 0);
        shared.assert_settled();
    });
}

/// No mapping is left to split an untouched block with: the whole arena is opened, by one of two writers.
#[test]
fn untouched_blocks_and_no_mappings() {
    model(2, || {
        let shared = arena_of_blocks(4);
        let snapshot = shared.snapshot();
        shared.engine.no_mappings.store(true, Relaxed);
        let other = spawn(&shared, |shared| shared.write(3, 7));
        shared.write(0, 5);
        other.join().unwrap();
        assert_eq!([shared.engine.load(0), shared.engine.load(3)], [5, 7]);
        for at in 0..4 {
            assert_eq!(shared.frozen(&snapshot, at).unwrap(), 0);
        }
        shared.assert_settled();
    });
}

/// Protecting untouched blocks fails half way for want of mappings, and some are read-only now: a later store
/// must find that out.
#[test]
fn untouched_blocks_armed_half_way() {
    model(2, || {
        let shared = arena_of_blocks(6);
        shared.write(0, 1);
        shared.engine.no_mappings.store(true, Relaxed);
        shared.engine.half_way.store(true, Relaxed);
        let snapshot = shared.snapshot();
        shared.engine.no_mappings.store(false, Relaxed);
        let other = spawn(&shared, |shared| shared.write(2, 7));
        shared.write(4, 5);
        other.join().unwrap();
        assert_eq!([shared.engine.load(2), shared.engine.load(4)], [7, 5]);
        assert_eq!(shared.frozen(&snapshot, 2).unwrap(), 0);
        assert_eq!(shared.frozen(&snapshot, 4).unwrap(), 0);
        shared.assert_settled();
    });
}

/// Protecting an untouched block fails in both ways. The next commit must not take it for
/// protected: a store after that would be in the snapshot.
#[test]
fn a_block_whose_protection_failed() {
    model(2, || {
        let shared = arena_of_blocks(4);
        let first = shared.snapshot();
        shared.make_writable(PageRange::new(page(2), page(3)));
        shared.engine.no_mappings.store(true, Relaxed);
        shared.engine.no_pages.store(true, Relaxed);
        assert!(shared.commit().is_err());
        shared.engine.no_mappings.store(false, Relaxed);
        shared.engine.no_pages.store(false, Relaxed);
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(2, 5);
        let second = taker.join().unwrap();
        let seen = shared.frozen(&second, 2).unwrap();
        shared.assert_settled();
        shared.write(2, 6);
        shared.write(3, 7);
        assert_eq!(shared.frozen(&second, 2).unwrap(), seen);
        assert_eq!(shared.frozen(&second, 3).unwrap(), 0);
        assert_eq!(shared.frozen(&first, 2).unwrap(), 0);
        shared.assert_settled();
    });
}

/// Slices are smaller than blocks, and a writer comes in between: no block that nothing was stored
/// to is armed page by page, which costs page tables.
#[test]
fn slices_smaller_than_untouched_blocks() {
    model(2, || {
        let shared = arena_of_blocks(4);
        let preparer = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            for _ in 0..2 {
                let armed = shared.arm_ahead(&mut preparation, Duration::ZERO);
                armed.expect("nothing is injected");
            }
        });
        shared.write(3, 7);
        preparer.join().unwrap();
        assert!(!shared.engine.is_marked(page(0)));
        for at in [0, 1] {
            assert!(!shared.dirty.contains(page(at)), "page {at} is not armed");
        }
        let snapshot = shared.snapshot();
        shared.write(0, 5);
        shared.write(3, 8);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&snapshot, 3).unwrap(), 7);
        shared.assert_settled();
    });
}
