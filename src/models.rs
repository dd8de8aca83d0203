//! Loom models of the races of the fault protocol: the shipped gate, table, store, versions, fault,
//! commit, release, read and guard code, on a fake system.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test --release --lib`. Each model names the race and what would go
//! wrong; `docs/testing.md` lists the mutations that turn it red.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use loom::thread;

use crate::commit::Live;
use crate::dirty::DirtySet;
use crate::error::Error;
use crate::options::{Engine, Options, Window};
use crate::page::{PageIndex, PageRange, PageSize};
use crate::prepare::Preparation;
use crate::shared::Shared;
use crate::sync::Arc;

/// All interleavings with at most this many involuntary switches.
///
/// Loom looks for another schedule only where two threads' *latest* accesses to an object collide, so a
/// thread that loads before it changes can hide a race; hence the count, and hence readers are
/// spawned and writers are not: the other way round there was a model of a single schedule.
fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let runs = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        body();
    });
    let runs = runs.load(Relaxed);
    println!("{runs} schedules");
    assert!(runs > 4, "{runs} schedules are no model");
}

fn page(index: usize) -> PageIndex {
    PageIndex::new(index)
}

/// An arena of `pages` pages of `bytes` bytes.
fn arena_with(pages: usize, bytes: usize, store_limit: usize) -> Arc<Shared> {
    let options = Options {
        store_limit,
        window: Window::Page,
        ..Options::default()
    };
    arena_of(pages, bytes, &options)
}

/// An arena in which each fault deals with two pages.
fn arena_of_pairs(pages: usize, bytes: usize) -> Arc<Shared> {
    let options = Options {
        window: Window::Fixed(2),
        ..Options::default()
    };
    arena_of(pages, bytes, &options)
}

/// An arena as userfaultfd protects it, with blocks of two pages, none of them touched.
fn arena_of_blocks(pages: usize) -> Arc<Shared> {
    let options = Options {
        engine: Engine::Userfaultfd,
        window: Window::Page,
        ..Options::default()
    };
    arena_of(pages, 1, &options)
}

fn arena_of(pages: usize, bytes: usize, options: &Options) -> Arc<Shared> {
    let size = PageSize::new(bytes).expect("a power of two");
    Arc::new(Shared::new(size, pages, options).expect("the fake has memory"))
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
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&shared, move |shared| {
                assert_eq!(shared.frozen_page(&snapshot, 0).unwrap(), [0, 0]);
            })
        };
        shared.write(0, 1);
        shared.write(1, 1);
        reader.join().unwrap();
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
        let reader = spawn(&shared, move |shared| {
            assert_eq!(shared.frozen(&older, 0).unwrap(), 0);
            assert_eq!(shared.frozen(&older, 1).unwrap(), 0);
        });
        shared.release(&newer);
        let third = shared.snapshot();
        shared.write(1, 9);
        reader.join().unwrap();
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

/// Pages are armed ahead while a writer opens them again, then committed.
#[test]
fn armed_ahead_and_writer() {
    model(2, || {
        let shared = arena(3);
        let taker = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            shared.arm_ahead(&mut preparation, Duration::MAX).unwrap();
            shared.snapshot()
        });
        shared.write(2, 1);
        shared.write(0, 1);
        let snapshot = taker.join().unwrap();
        let first = shared.frozen(&snapshot, 2).unwrap();
        let second = shared.frozen(&snapshot, 0).unwrap();
        assert!(first >= second, "the later store without the earlier one");
        shared.assert_settled();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), second);
        shared.assert_settled();
    });
}

/// The same with an older snapshot alive, which must not see what soft faults let through.
#[test]
fn armed_ahead_with_a_live_snapshot() {
    model(2, || {
        let shared = arena(2);
        let first = shared.snapshot();
        shared.write(0, 1);
        let armer = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            shared.arm_ahead(&mut preparation, Duration::MAX).unwrap();
        });
        shared.write(1, 1);
        shared.write(0, 2);
        armer.join().unwrap();
        for at in [0, 1] {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(shared.store.in_use(), 2);
        shared.assert_settled();
    });
}

/// Arming ahead keeps off the pages of a guard.
#[test]
fn armed_ahead_and_guard() {
    model(3, || {
        let shared = arena(2);
        let armer = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            shared.arm_ahead(&mut preparation, Duration::MAX).unwrap();
        });
        shared.begin_guard(PageRange::all(2));
        assert!(
            shared.engine.store(page(1), 1, 1),
            "a page under a guard was armed"
        );
        assert!(
            shared.engine.store(page(0), 0, 1),
            "a page under a guard was armed"
        );
        shared.end_guard();
        armer.join().unwrap();
        shared.assert_settled();
    });
}

/// The last way out opens everything while slices are being armed.
#[test]
fn armed_ahead_and_last_way_out() {
    model(2, || {
        let shared = arena(3);
        let first = shared.snapshot();
        shared.write(1, 1);
        let armer = spawn(&shared, |shared| {
            let mut preparation = Preparation::new();
            shared.arm_ahead(&mut preparation, Duration::MAX).unwrap();
            shared.snapshot()
        });
        shared.engine.no_mappings.store(true, Relaxed);
        shared.write(2, 1);
        let second = armer.join().unwrap();
        let seen = shared.frozen(&second, 2).unwrap();
        shared.write(2, 2);
        for at in 0..3 {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(shared.frozen(&second, 2).unwrap(), seen);
        shared.assert_settled();
    });
}

/// The store is used up: a reader gets the frozen bytes or the error, never what was written later.
#[test]
fn store_used_up_and_reader() {
    model(3, || {
        let shared = arena_with(2, 1, 1);
        let snapshot = shared.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&shared, move |shared| {
                for at in [1, 0] {
                    match shared.frozen(&snapshot, at) {
                        Ok(value) => assert_eq!(value, 0),
                        Err(error) => assert!(matches!(error, Error::StoreExhausted { .. })),
                    }
                }
            })
        };
        shared.write(0, 1);
        shared.write(1, 1);
        reader.join().unwrap();
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

/// Claims over a whole disarmed run: a fault deals with its neighbour, which another thread has claimed and is
/// copying, or is about to.
#[test]
fn window_and_copy_in_progress() {
    model(3, || {
        let shared = arena_of_pairs(2, 2);
        let snapshot = shared.snapshot();
        let other = spawn(&shared, |shared| {
            shared.write(2, 1);
            shared.write(3, 2);
        });
        shared.write(0, 3);
        assert_eq!(shared.frozen_page(&snapshot, 1).unwrap(), [0, 0]);
        other.join().unwrap();
        for index in [0, 1] {
            assert_eq!(shared.frozen_page(&snapshot, index).unwrap(), [0, 0]);
        }
        assert_eq!([0, 2, 3].map(|at| shared.engine.load(at)), [3, 1, 2]);
        assert_eq!(shared.store.in_use(), 2);
        shared.assert_settled();
    });
}

/// A fault that deals with two pages, and a commit: neither is open afterwards unless it is known.
#[test]
fn window_and_commit() {
    model(3, || {
        let shared = arena_of_pairs(2, 1);
        let first = shared.snapshot();
        let taker = spawn(&shared, Shared::snapshot);
        shared.write(0, 1);
        let second = taker.join().unwrap();
        let seen = shared.frozen(&second, 0).unwrap();
        shared.assert_settled();
        shared.write(1, 2);
        shared.write(0, 2);
        assert_eq!(shared.frozen(&second, 0).unwrap(), seen);
        assert_eq!(shared.frozen(&second, 1).unwrap(), 0);
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        shared.assert_settled();
    });
}

/// Pages copied ahead of any write, and a reader that is in the middle of one of them.
#[test]
fn window_and_reader() {
    model(2, || {
        let shared = arena_of_pairs(2, 2);
        let snapshot = shared.snapshot();
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&shared, move |shared| {
                assert_eq!(shared.frozen_page(&snapshot, 1).unwrap(), [0, 0]);
            })
        };
        shared.write(0, 1);
        shared.write(2, 2);
        shared.write(3, 3);
        reader.join().unwrap();
    });
}

/// No mappings left: two writers take the last way out at once, while a reader reads.
#[test]
fn last_way_out_of_the_mapping_wall() {
    model(2, || {
        let shared = arena(3);
        let snapshot = shared.snapshot();
        shared.engine.no_mappings.store(true, Relaxed);
        let reader = {
            let snapshot = snapshot.clone();
            spawn(&shared, move |shared| {
                assert_eq!(shared.frozen(&snapshot, 1).unwrap(), 0);
            })
        };
        let writer = spawn(&shared, |shared| shared.write(2, 1));
        shared.write(1, 1);
        reader.join().unwrap();
        writer.join().unwrap();
        for at in [2, 1, 0] {
            assert_eq!(shared.frozen(&snapshot, at).unwrap(), 0);
        }
        shared.assert_settled();
    });
}

/// The same against a commit, which closes the same gate.
#[test]
fn last_way_out_and_commit() {
    model(2, || {
        let shared = arena(2);
        let first = shared.snapshot();
        shared.engine.no_mappings.store(true, Relaxed);
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
        shared.engine.fail_arming.store(true, Relaxed);
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

/// Arming fails half way while a snapshot lives.
#[test]
fn arming_fails_half_way_with_a_live_snapshot() {
    model(2, || {
        let shared = arena(2);
        let first = shared.snapshot();
        shared.write(0, 1);
        shared.write(1, 1);
        shared.engine.fail_arming.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(0, 2));
        assert!(shared.commit().is_err());
        writer.join().unwrap();
        shared.write(1, 2);
        let second = shared.snapshot();
        shared.write(0, 3);
        for at in [0, 1] {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
            assert_eq!(shared.frozen(&second, at).unwrap(), 2);
        }
        shared.assert_settled();
    });
}

/// A call that disarms several pages fails after the first of them, and a commit comes before the last
/// way out: it must arm that page again.
#[test]
fn disarming_fails_half_way_and_commit() {
    model(3, || {
        let shared = arena(3);
        let _first = shared.snapshot();
        shared.write(0, 1);
        shared.engine.no_mappings.store(true, Relaxed);
        shared.engine.half_way.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(2, 1));
        let second = shared.snapshot();
        let seen = shared.frozen(&second, 1).unwrap();
        shared.write(1, 9);
        assert_eq!(shared.frozen(&second, 1).unwrap(), seen);
        writer.join().unwrap();
        shared.assert_settled();
    });
}

/// Near the wall two runs grow towards each other, and each ends where the other has claimed.
#[test]
fn growing_runs_meet() {
    model(2, || {
        let shared = arena(4);
        let snapshot = shared.snapshot();
        shared.write(0, 1);
        shared.write(3, 1);
        shared.engine.no_splits.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(2, 6));
        shared.write(1, 5);
        writer.join().unwrap();
        for at in 0..4 {
            assert_eq!(shared.frozen(&snapshot, at).unwrap(), 0);
        }
        assert_eq!(shared.store.in_use(), 4);
        shared.assert_settled();
    });
}

/// A run that grows over pages that nobody wrote, and a commit.
#[test]
fn growing_run_and_commit() {
    model(2, || {
        let shared = arena(3);
        let first = shared.snapshot();
        shared.write(0, 1);
        shared.engine.no_splits.store(true, Relaxed);
        let writer = spawn(&shared, |shared| shared.write(2, 6));
        let second = shared.snapshot();
        assert_eq!(shared.frozen(&second, 1).unwrap(), 0);
        shared.write(1, 5);
        writer.join().unwrap();
        for at in 0..3 {
            assert_eq!(shared.frozen(&first, at).unwrap(), 0);
        }
        assert_eq!(shared.frozen(&second, 1).unwrap(), 0);
        shared.assert_settled();
    });
}

/// Blocks that are opened while no snapshot lives, and a commit.
#[test]
fn free_blocks_and_commit() {
    model(2, || {
        let shared = arena(4);
        shared.release(&shared.snapshot());
        shared.free_faults.store(1, crate::sync::Ordering::Relaxed);
        let writer = spawn(&shared, |shared| shared.write(0, 1));
        let snapshot = shared.snapshot();
        let seen = shared.frozen(&snapshot, 0).unwrap();
        shared.write(1, 1);
        writer.join().unwrap();
        shared.write(0, 2);
        assert_eq!(shared.frozen(&snapshot, 0).unwrap(), seen);
        assert_eq!(shared.frozen(&snapshot, 1).unwrap(), 0);
        shared.assert_settled();
    });
}

/// The nearest open page is an open page, while another is being added.
#[test]
fn nearest_open_page_and_add() {
    for (at, other) in [(10, 150), (150, 10)] {
        model(3, move || {
            let set = Arc::new(DirtySet::new(200).expect("the fake has memory"));
            set.remove(PageRange::all(200));
            let looker = {
                let set = set.clone();
                thread::spawn(move || set.nearest(PageRange::new(page(at), page(at)), usize::MAX))
            };
            set.add(PageRange::new(page(other), page(other)));
            let found = looker.join().unwrap();
            assert!(found.is_none_or(|found| found == page(other)), "{found:?}");
        });
    }
}

/// A frame is never handed out twice.
#[test]
fn frames_taken_and_put_back() {
    model(3, || {
        let shared = arena_with(2, 1, 3);
        shared.store.reserve(3).unwrap();
        let first = shared.store.take().unwrap();
        let second = shared.store.take().unwrap();
        shared.store.put(first);
        shared.store.put(second);
        let other = spawn(&shared, |shared| {
            let frame = shared.store.take().unwrap();
            shared.store.put(frame);
            shared.store.take().unwrap()
        });
        let one = shared.store.take().unwrap();
        let two = other.join().unwrap();
        let three = shared.store.take().unwrap();
        assert!(one != two && two != three && three != one);
        assert!(shared.store.take().is_none());
    });
}

/// The last snapshot goes and the store is trimmed, while the next one's writer needs the frame.
#[test]
fn trim_and_take() {
    model(2, || {
        let shared = arena(2);
        let first = shared.snapshot();
        shared.write(0, 1);
        let dropper = spawn(&shared, move |shared| shared.release(&first));
        let second = shared.snapshot();
        dropper.join().unwrap();
        let trimmer = spawn(&shared, |shared| shared.trim(0));
        shared.write(0, 2);
        shared.write(1, 3);
        assert_eq!(shared.frozen(&second, 0).unwrap(), 1);
        assert_eq!(shared.frozen(&second, 1).unwrap(), 0);
        trimmer.join().unwrap();
    });
}

/// A copy is taken off a page's chain while a newer one is put on it.
#[test]
fn unlink_and_push() {
    model(3, || {
        let shared = arena(1);
        let older = shared.snapshot();
        shared.write(0, 1);
        let newer = shared.snapshot();
        let writer = {
            let newer = newer.clone();
            spawn(&shared, move |shared| {
                shared.write(0, 2);
                assert_eq!(shared.frozen(&newer, 0).unwrap(), 1);
            })
        };
        shared.release(&older);
        writer.join().unwrap();
        assert_eq!(shared.frozen(&newer, 0).unwrap(), 1);
        assert_eq!(shared.store.in_use(), 1);
        shared.release(&newer);
        assert_eq!(shared.store.in_use(), 0);
    });
}

/// A copy is inherited by an older snapshot, and a commit comes before it is on the heir's list.
#[test]
fn inheritance_and_commit() {
    model(3, || {
        let shared = arena(1);
        let first = shared.snapshot();
        let second = shared.snapshot();
        shared.write(0, 1);
        let taker = spawn(&shared, |shared| {
            let third = shared.snapshot();
            shared.write(0, 2);
            third
        });
        shared.release(&second);
        let third = taker.join().unwrap();
        assert_eq!(shared.frozen(&first, 0).unwrap(), 0);
        assert_eq!(shared.frozen(&third, 0).unwrap(), 1);
        assert_eq!(shared.store.in_use(), 2);
        shared.release(&first);
        assert_eq!(shared.store.in_use(), 1);
        shared.release(&third);
        assert_eq!(shared.store.in_use(), 0);
    });
}

/// The store is used up while the newest snapshot goes.
#[test]
fn store_used_up_and_drop() {
    model(3, || {
        let shared = arena_with(2, 1, 1);
        let first = shared.snapshot();
        let second = shared.snapshot();
        let writer = spawn(&shared, |shared| {
            shared.write(0, 1);
            shared.write(1, 1);
        });
        shared.release(&second);
        for at in [0, 1] {
            if let Ok(value) = shared.frozen(&first, at) {
                assert_eq!(value, 0);
            }
        }
        writer.join().unwrap();
        let third = shared.snapshot();
        assert!(shared.has_failed(&first));
        assert!(!shared.has_failed(&third));
        shared.assert_settled();
    });
}

/// Two threads hold a guard each and begin one on the other's arena, while both arenas commit.
#[test]
fn guards_of_two_arenas_and_commits() {
    model(1, || {
        let arenas = [arena(1), arena(1)];
        let takers: Vec<_> = arenas
            .iter()
            .map(|shared| spawn(shared, Shared::snapshot))
            .collect();
        let nested = |outer: &Arc<Shared>, inner: &Arc<Shared>| {
            outer.begin_guard(PageRange::all(1));
            inner.begin_guard(PageRange::all(1));
            assert!(inner.engine.store(page(0), 0, 1));
            inner.end_guard();
            outer.end_guard();
        };
        nested(&arenas[0], &arenas[1]);
        nested(&arenas[1], &arenas[0]);
        for taker in takers {
            taker.join().unwrap();
        }
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
