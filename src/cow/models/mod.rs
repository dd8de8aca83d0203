//! Loom models of the races of the fault protocol: the shipped gate, table, store, versions, fault,
//! commit, release, read, guard and engine code, on a fake system.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test --release --lib`. Each model names the race and what
//! would go wrong; `docs/testing.md` lists the mutations that turn it red.

mod ahead;
mod blocks;
mod guards;
mod lifetimes;
mod lost;
mod opened;
mod outputs;
mod readied;
mod refused;
mod restored;
mod runs;
mod tended;
mod used_up;
mod writers;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use loom::thread;

use crate::cow::core::Core;
use crate::cow::prepare::Preparation;
use crate::cow::state::dirty::DirtySet;
use crate::cow::state::ledger::Live;
use crate::cow::tend::Tended;
use crate::error::Error;
use crate::options::{Engine, Options, Window};
use crate::page::{PageCount, PageIndex, PageRange, PageSize};
use crate::sync::Arc;
use crate::sync::gate::Admitted;

/// All interleavings with at most this many involuntary switches.
///
/// Loom looks for another schedule only where two threads' *latest* accesses to an object collide,
/// so a thread that loads before it changes can hide a race; hence the count, and hence readers are
/// spawned and writers are not: the other way round there was a model of a single schedule.
pub(crate) fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
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
fn arena_with(pages: usize, bytes: usize, store_limit: usize) -> Arc<Core> {
    let options = Options {
        store_limit,
        window: Window::Page,
        ..Options::default()
    };
    arena_of(pages, bytes, &options)
}

/// An arena in which each fault deals with two pages.
fn arena_of_pairs(pages: usize, bytes: usize) -> Arc<Core> {
    let options = Options {
        window: Window::Fixed(2),
        ..Options::default()
    };
    arena_of(pages, bytes, &options)
}

/// An arena as userfaultfd protects it, with blocks of two pages, none of them touched.
fn arena_of_blocks(pages: usize) -> Arc<Core> {
    let options = Options {
        engine: Engine::Userfaultfd,
        window: Window::Page,
        ..Options::default()
    };
    arena_of(pages, 1, &options)
}

fn arena_of(pages: usize, bytes: usize, options: &Options) -> Arc<Core> {
    let size = PageSize::new(bytes).expect("a power of two");
    Arc::new(Core::new(size, PageCount::new(pages), options).expect("the fake has memory"))
}

fn arena(pages: usize) -> Arc<Core> {
    arena_with(pages, 1, usize::MAX)
}

impl Core {
    /// An ordinary store: retried by the "processor" until it is not refused.
    fn write(&self, at: usize, value: u8) {
        let page = self.page_size.page_of(at);
        while !self.memory().store(page, at, value) {
            self.first_write(page);
        }
    }

    /// An atomic addition.
    fn add(&self, at: usize, value: u8) {
        let page = self.page_size.page_of(at);
        while !self.memory().add(page, at, value) {
            self.first_write(page);
        }
    }

    fn snapshot(&self) -> Arc<Live> {
        self.commit().expect("nothing is injected").snapshot
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

    /// What holds when nobody is at work: what is writable is in the dirty set, and no snapshot
    /// needs it.
    fn assert_settled(&self) {
        assert!(
            !self.ledger_is_wanted(),
            "a thread counts as waiting that has gone"
        );
        for page in self.all_pages().iter() {
            let word = self.table.load(page);
            assert!(!word.is_claimed());
            if self.memory().is_writable(page) {
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
    core: &Arc<Core>,
    body: impl FnOnce(&Core) -> R + 'static,
) -> thread::JoinHandle<R> {
    let core = core.clone();
    thread::spawn(move || body(&core))
}
