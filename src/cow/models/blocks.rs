//! userfaultfd: blocks that are protected as a whole until a store splits them.

use super::*;

/// userfaultfd: the first stores to a block that was protected as a whole, by two threads. The
/// one that splits it last must not close the page that the other has opened: its store would be
/// refused for ever.
#[test]
fn two_writers_split_an_untouched_block() {
    model(3, || {
        let core = arena_of_blocks(2);
        let snapshot = core.snapshot();
        let other = spawn(&core, |core| core.write(1, 7));
        core.write(0, 5);
        other.join().unwrap();
        assert_eq!([core.engine.load(0), core.engine.load(1)], [5, 7]);
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), 0);
        assert_eq!(core.frozen(&snapshot, 1).unwrap(), 0);
        core.assert_settled();
    });
}

/// The same against a commit, which protects the other block as a whole.
#[test]
fn split_of_an_untouched_block_and_commit() {
    model(3, || {
        let core = arena_of_blocks(3);
        let first = core.snapshot();
        let taker = spawn(&core, Core::snapshot);
        core.write(1, 1);
        let second = taker.join().unwrap();
        let seen = core.frozen(&second, 1).unwrap();
        core.assert_settled();
        for at in [0, 1, 2] {
            core.write(at, 2);
        }
        for at in [0, 1, 2] {
            assert_eq!(core.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(core.frozen(&second, 1).unwrap(), seen);
        assert_eq!(core.frozen(&second, 2).unwrap(), 0);
        core.assert_settled();
    });
}

/// No mapping is left to split an untouched block with: the whole arena is opened, by one of two
/// writers.
#[test]
fn untouched_blocks_and_no_mappings() {
    model(2, || {
        let core = arena_of_blocks(4);
        let snapshot = core.snapshot();
        core.engine.no_mappings.store(true, Relaxed);
        let other = spawn(&core, |core| core.write(3, 7));
        core.write(0, 5);
        other.join().unwrap();
        assert_eq!([core.engine.load(0), core.engine.load(3)], [5, 7]);
        for at in 0..4 {
            assert_eq!(core.frozen(&snapshot, at).unwrap(), 0);
        }
        core.assert_settled();
    });
}

/// Protecting untouched blocks fails half way for want of mappings, and some are read-only now: a
/// later store must find that out.
#[test]
fn untouched_blocks_armed_half_way() {
    model(2, || {
        let core = arena_of_blocks(6);
        core.write(0, 1);
        core.engine.no_mappings.store(true, Relaxed);
        core.engine.half_way.store(true, Relaxed);
        let snapshot = core.snapshot();
        core.engine.no_mappings.store(false, Relaxed);
        let other = spawn(&core, |core| core.write(2, 7));
        core.write(4, 5);
        other.join().unwrap();
        assert_eq!([core.engine.load(2), core.engine.load(4)], [7, 5]);
        assert_eq!(core.frozen(&snapshot, 2).unwrap(), 0);
        assert_eq!(core.frozen(&snapshot, 4).unwrap(), 0);
        core.assert_settled();
    });
}

/// Protecting an untouched block fails in both ways. The next commit must not take it for
/// protected: a store after that would be in the snapshot.
#[test]
fn a_block_whose_protection_failed() {
    model(2, || {
        let core = arena_of_blocks(4);
        let first = core.snapshot();
        core.make_writable(PageRange::from(2..4));
        core.engine.no_mappings.store(true, Relaxed);
        core.engine.no_pages.store(true, Relaxed);
        assert!(core.commit().is_err());
        core.engine.no_mappings.store(false, Relaxed);
        core.engine.no_pages.store(false, Relaxed);
        let taker = spawn(&core, Core::snapshot);
        core.write(2, 5);
        let second = taker.join().unwrap();
        let seen = core.frozen(&second, 2).unwrap();
        core.assert_settled();
        core.write(2, 6);
        core.write(3, 7);
        assert_eq!(core.frozen(&second, 2).unwrap(), seen);
        assert_eq!(core.frozen(&second, 3).unwrap(), 0);
        assert_eq!(core.frozen(&first, 2).unwrap(), 0);
        core.assert_settled();
    });
}

/// Slices are smaller than blocks, and a writer comes in between: no block that nothing was stored
/// to is armed page by page, which costs page tables.
#[test]
fn slices_smaller_than_untouched_blocks() {
    model(2, || {
        let core = arena_of_blocks(4);
        let preparer = spawn(&core, |core| {
            let mut preparation = Preparation::new();
            for _ in 0..2 {
                let armed = core.arm_ahead(&mut preparation, Duration::ZERO);
                armed.expect("nothing is injected");
            }
        });
        core.write(3, 7);
        preparer.join().unwrap();
        assert!(!core.engine.is_marked(page(0)));
        for at in [0, 1] {
            assert!(!core.dirty.contains(page(at)), "page {at} is not armed");
        }
        let snapshot = core.snapshot();
        core.write(0, 5);
        core.write(3, 8);
        assert_eq!(core.frozen(&snapshot, 0).unwrap(), 0);
        assert_eq!(core.frozen(&snapshot, 3).unwrap(), 7);
        core.assert_settled();
    });
}
