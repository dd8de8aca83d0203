//! Arena and snapshot, one thread.

use pagecow::{Arena, Error};

fn page_size() -> usize {
    region::page::size()
}

#[test]
fn a_snapshot_keeps_what_was_and_the_arena_what_is() {
    let mut arena = Arena::new(10 * page_size()).unwrap();
    arena[..5].copy_from_slice(b"hello");
    let before = arena.snapshot().unwrap();
    arena[..5].copy_from_slice(b"HELLO");
    let mut buf = [0; 5];
    before.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"hello");
    assert_eq!(&arena[..5], b"HELLO");
    let stats = arena.stats();
    assert_eq!((stats.faults, stats.pages_saved), (1, 1));
    arena.check_invariants().unwrap();
    drop(before);
    arena.check_invariants().unwrap();
    assert_eq!(arena.stats().store_bytes, 0);
}

#[test]
fn lengths_round_up_and_absurd_ones_are_refused() {
    assert_eq!(Arena::new(1).unwrap().len(), page_size());
    assert!(matches!(Arena::new(0), Err(Error::Size { .. })));
    assert!(matches!(Arena::new(usize::MAX), Err(Error::Size { .. })));
}
