//! Loom models of the races of the fault protocol: the shipped gate, table, store, versions, fault,
//! commit, release, read and guard code, on a fake system.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test --release --lib`. Each model names the race and what would go
//! wrong; `docs/testing.md` lists the mutations that turn it red.

use loom::thread;

use crate::commit::Live;
use crate::error::Error;
use crate::page::{PageIndex, PageRange, PageSize};
use crate::shared::Shared;
use crate::sync::Arc;

/// All interleavings with at most this many involuntary switches.
fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(body);
}

fn page(index: usize) -> PageIndex {
    PageIndex::new(index)
}

/// An arena of `pages` pages of `bytes` bytes.
fn arena_with(pages: usize, bytes: usize, store_limit: usize) -> Arc<Shared> {
    let size = PageSize::new(bytes).expect("a power of two");
    Arc::new(Shared::new(size, pages, store_limit).expect("the fake has memory"))
}

fn arena(pages: usize) -> Arc<Shared> {
    arena_with(pages, 1, usize::MAX)
}

impl Shared {
    /// An ordinary store: retried by the "processor" until it is not refused.
    fn write(&self, at: usize, value: u8) {
        let page = self.page_size.page_of(at);
        while !self.engine.store(page, at, value) {
            self.first_write(page);
        }
    }

    /// An atomic addition.
    fn add(&self, at: usize, value: u8) {
        let page = self.page_size.page_of(at);
        while !self.engine.add(page, at, value) {
            self.first_write(page);
        }
    }

    fn snapshot(&self) -> Arc<Live> {
        self.commit().expect("nothing is injected")
    }

    fn frozen(&self, snapshot: &Live, at: usize) -> Result<u8, Error> {
        let page = self.page_size.page_of(at);
        let mut byte = [0];
        self.read(
            snapshot,
            page,
            at - self.page_size.offset_of(page),
            &mut byte,
        )?;
        Ok(byte[0])
    }

    fn frozen_page(&self, snapshot: &Live, index: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0xee; self.page_size.bytes()];
        self.read(snapshot, page(index), 0, &mut bytes)?;
        Ok(bytes)
    }

    /// What holds when nobody is at work: what is writable is in the dirty set, and no snapshot needs it.
    fn assert_settled(&self) {
        for page in self.all_pages().iter() {
            let word = self.table.load(page);
            assert!(!word.is_claimed());
            if self.engine.is_writable(page) {
                assert!(
                    self.dirty.contains(page),
                    "an open page that no commit would arm"
                );
                assert!(
                    word.epoch() >= self.newest(),
                    "an open page that a snapshot needs"
                );
            }
        }
    }
}

fn spawn<R: 'static>(
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) -> R + 'static,
) -> thread::JoinHandle<R> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

/// Without a claim, one writer opens the page while the other is still copying it.
#[test]
fn two_writers_on_one_page() {
    model(3, || {
        let shared = arena_with(1, 2, usize::MAX);
        let snapshot = shared.snapshot();
        let other = spawn(&shared, |shared| shared.write(1, 7));
        shared.write(0, 5);
        assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
        other.join().unwrap();
        assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
        assert_eq!([shared.engine.load(0), shared.engine.load(1)], [5, 7]);
        assert_eq!(shared.store.in_use(), 1);
        shared.assert_settled();
    });
}

/// Invariant 5: additions by two threads, with a snapshot taken in between, all land once.
#[test]
fn no_store_is_lost_or_repeated() {
    model(2, || {
        let shared = arena(1);
        let first = shared.snapshot();
        let adder = spawn(&shared, |shared| shared.add(0, 1));
        let taker = spawn(&shared, Shared::snapshot);
        shared.add(0, 2);
        let second = taker.join().unwrap();
        adder.join().unwrap();
        assert_eq!(shared.engine.load(0), 3);
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert!([0, 1, 2, 3].contains(&shared.frozen(&second, 0).unwrap()));
        shared.assert_settled();
    });
}

/// A handler that claimed a page for one epoch must not disarm it after the next snapshot armed it.
#[test]
fn late_handler_and_new_snapshot() {
    model(3, || {
        let shared = arena(1);
        let first = shared.snapshot();
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        let second = taker.join().unwrap();
        let seen = shared.frozen(&second, 0).unwrap();
        shared.assert_settled();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&second, 0).unwrap(), seen);
        shared.assert_settled();
    });
}

/// While a snapshot arms page by page, a thread stores to A (armed: faults) and then to B (not yet
/// armed): the snapshot must not have B's store without A's.
#[test]
fn arming_is_not_one_instant() {
    model(3, || {
        let shared = arena(2);
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        shared.write(1, 1);
        let snapshot = taker.join().unwrap();
        let first = shared.frozen(&snapshot, 0).unwrap();
        let second = shared.frozen(&snapshot, 1).unwrap();
        assert!(first >= second, "the later store without the earlier one");
        shared.assert_settled();
    });
}

/// The same over an arena that is armed in part, and across two threads.
#[test]
fn a_snapshot_has_what_happened_before_what_it_has() {
    model(2, || {
        let shared = arena(2);
        drop(shared.snapshot());
        shared.write(1, 9);
        let taker = spawn(&shared, Shared::snapshot);
        let writer = spawn(&shared, |shared| {
            shared.write(0, 1);
            shared.write(1, 1);
        });
        writer.join().unwrap();
        let snapshot = taker.join().unwrap();
        let first = shared.frozen(&snapshot, 0).unwrap();
        let second = shared.frozen(&snapshot, 1).unwrap();
        assert!(
            first == 1 || second == 9,
            "the later store without the earlier one"
        );
    });
}

/// A reader that copies live memory while the page's first write comes through.
#[test]
fn reader_and_first_writer() {
    model(3, || {
        let shared = arena_with(1, 2, usize::MAX);
        let snapshot = shared.snapshot();
        let writer = spawn(&shared, |shared| {
            shared.write(0, 1);
            shared.write(1, 1);
        });
        assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
        writer.join().unwrap();
        assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
    });
}

/// The handler publishes a copy for the newest snapshot while that one is being dropped: the copy must
/// neither be lost to the older snapshot that needs it nor stay for ever.
#[test]
fn drop_and_publish() {
    model(3, || {
        let shared = arena(1);
        let older = shared.snapshot();
        let newest = shared.snapshot();
        let dropper = spawn(&shared, move |shared| shared.release(&newest));
        shared.write(0, 1);
        dropper.join().unwrap();
        assert_eq!(shared.frozen(&older, 0).unwrap(), 0);
        assert_eq!(shared.store.in_use(), 1);
        shared.release(&older);
        assert_eq!(shared.store.in_use(), 0);
        shared.assert_settled();
    });
}

/// The same when nobody else needs the copy.
#[test]
fn drop_of_the_only_snapshot_and_publish() {
    model(3, || {
        let shared = arena(1);
        let snapshot = shared.snapshot();
        let dropper = spawn(&shared, move |shared| shared.release(&snapshot));
        shared.write(0, 1);
        dropper.join().unwrap();
        assert_eq!(shared.store.in_use(), 0);
        shared.assert_settled();
    });
}

/// A reader walks a page's chain while a newer copy is unlinked and its frame used again elsewhere.
#[test]
fn reader_and_recycled_frame() {
    model(2, || {
        let shared = arena(2);
        let older = shared.snapshot();
        shared.write(0, 1);
        let newer = shared.snapshot();
        shared.write(0, 2);
        shared.write(1, 8);
        let dropper = spawn(&shared, move |shared| {
            shared.release(&newer);
            let third = shared.snapshot();
            shared.write(1, 9);
            third
        });
        assert_eq!(shared.frozen(&older, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&older, 1).unwrap(), 0);
        let third = dropper.join().unwrap();
        assert_eq!(shared.frozen(&third, 1).unwrap(), 8);
    });
}

/// Two snapshots go at once, on two threads, while a third needs what both hold.
#[test]
fn two_drops_at_once() {
    model(2, || {
        let shared = arena(1);
        let first = shared.snapshot();
        let second = shared.snapshot();
        let third = shared.snapshot();
        shared.write(0, 1);
        let dropper = spawn(&shared, move |shared| shared.release(&third));
        shared.release(&second);
        dropper.join().unwrap();
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert_eq!(shared.store.in_use(), 1);
        shared.release(&first);
        assert_eq!(shared.store.in_use(), 0);
    });
}

/// The newest snapshot is dropped while the next one is taken.
#[test]
fn drop_and_commit() {
    model(2, || {
        let shared = arena(1);
        let first = shared.snapshot();
        shared.write(0, 1);
        let taker = spawn(&shared, Shared::snapshot);
        shared.release(&first);
        let second = taker.join().unwrap();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&second, 0).unwrap(), 1);
        assert_eq!(shared.store.in_use(), 1);
        shared.assert_settled();
    });
}

/// The store is used up: a reader gets the frozen bytes or the error, never what was written later.
#[test]
fn store_used_up_and_reader() {
    model(3, || {
        let shared = arena_with(2, 1, 1);
        let snapshot = shared.snapshot();
        let writer = spawn(&shared, |shared| {
            shared.write(0, 1);
            shared.write(1, 1);
        });
        for at in [1, 0] {
            match shared.frozen(&snapshot, at) {
                Ok(value) => assert_eq!(value, 0),
                Err(error) => assert!(matches!(error, Error::StoreExhausted { .. })),
            }
        }
        writer.join().unwrap();
        assert!(shared.has_failed(&snapshot));
        assert_eq!([shared.engine.load(0), shared.engine.load(1)], [1, 1]);
        shared.assert_settled();
    });
}

/// The store is used up while a snapshot is taken: who lost a page knows, who did not reads exactly.
#[test]
fn store_used_up_and_commit() {
    model(2, || {
        let shared = arena_with(1, 1, 0);
        let first = shared.snapshot();
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        let second = taker.join().unwrap();
        assert!(shared.frozen(&first, 0).is_err());
        // Either the write was before the second snapshot, which then has it, or it took the page from both.
        match shared.frozen(&second, 0) {
            Ok(value) => assert_eq!(value, 1),
            Err(error) => assert!(matches!(error, Error::StoreExhausted { .. })),
        }
        shared.assert_settled();
    });
}

/// Who holds a guard stores without a fault, and a commit waits for it.
#[test]
fn guard_and_commit() {
    model(2, || {
        let shared = arena(1);
        let first = shared.snapshot();
        let taker = spawn(&shared, Shared::snapshot);
        shared.begin_guard(PageRange::all(1));
        assert!(
            shared.engine.store(page(0), 0, 1),
            "a page under a guard was armed"
        );
        assert!(
            shared.engine.store(page(0), 0, 2),
            "a page under a guard was armed"
        );
        shared.end_guard();
        let second = taker.join().unwrap();
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert!([0, 2].contains(&shared.frozen(&second, 0).unwrap()));
        shared.assert_settled();
    });
}

/// Disarming pages that one has not claimed: a range is opened while another thread is in the middle of
/// copying one of its pages, and then stored to.
#[test]
fn opened_range_and_copy_in_progress() {
    model(3, || {
        let shared = arena_with(2, 2, usize::MAX);
        let snapshot = shared.snapshot();
        let writer = spawn(&shared, |shared| shared.write(2, 1));
        shared.begin_guard(PageRange::all(2));
        assert!(shared.engine.store(page(1), 2, 3));
        assert!(shared.engine.store(page(1), 3, 3));
        shared.end_guard();
        writer.join().unwrap();
        assert_eq!(shared.frozen_page(&snapshot, 1).unwrap(), [0, 0]);
        assert_eq!(shared.store.in_use(), 2);
        shared.assert_settled();
    });
}

/// No mappings left: two writers take the last way out at once, while a reader reads.
#[test]
fn last_way_out_of_the_mapping_wall() {
    model(2, || {
        let shared = arena(3);
        let snapshot = shared.snapshot();
        shared
            .engine
            .no_mappings
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let writer = spawn(&shared, |shared| shared.write(2, 1));
        shared.write(0, 1);
        for at in [2, 1, 0] {
            assert_eq!(shared.frozen(&snapshot, at).unwrap(), 0);
        }
        writer.join().unwrap();
        assert_eq!(shared.frozen(&snapshot, 2).unwrap(), 0);
        shared.assert_settled();
    });
}

/// The same against a commit, which closes the same gate.
#[test]
fn last_way_out_and_commit() {
    model(2, || {
        let shared = arena(2);
        let first = shared.snapshot();
        shared
            .engine
            .no_mappings
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        let second = taker.join().unwrap();
        let seen = shared.frozen(&second, 0).unwrap();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&second, 0).unwrap(), seen);
        shared.assert_settled();
    });
}

/// Arming fails half way: the snapshot is refused, writers go on, and the next one works.
#[test]
fn arming_fails_half_way() {
    model(3, || {
        let shared = arena(2);
        shared
            .engine
            .fail_arming
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let writer = spawn(&shared, |shared| shared.write(0, 1));
        assert!(matches!(shared.commit(), Err(Error::Protect { .. })));
        writer.join().unwrap();
        shared.write(0, 2);
        let snapshot = shared.snapshot();
        shared.write(0, 3);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), 2);
        shared.assert_settled();
    });
}

/// Nobody who waits at a gate or for a claim sleeps for ever.
#[test]
fn no_wake_up_is_forgotten() {
    model(2, || {
        let shared = arena(1);
        let snapshot = shared.snapshot();
        let writer = spawn(&shared, |shared| shared.write(0, 1));
        let closer = spawn(&shared, |shared| {
            shared.gate.close();
            shared.gate.open();
        });
        shared.write(0, 2);
        writer.join().unwrap();
        closer.join().unwrap();
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), 0);
    });
}
