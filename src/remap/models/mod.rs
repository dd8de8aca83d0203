//! Loom models of the races of freezing and merging, on a fake system.

mod forks;
mod freezes;
mod leaves;
mod loans;
mod merges;

use std::sync::atomic::AtomicBool as Plain;
use std::sync::atomic::Ordering::Relaxed;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::cow::models::model;
use crate::error::Result;
use crate::page::{PageCount, PageIndex, PageSize};
use crate::remap::Remap;
use crate::remap::merge::Merged;
use crate::sync::Arc;
use crate::sys::{Branch, Views};

/// Memory, what is armed in it, and a child that may look at its file.
struct Scene {
    remap: Remap,
    /// Where it is lent, a snapshot needs pages armed.
    is_needed: AtomicBool,
    /// A child that was forked lives.
    child: AtomicBool,
    pages: usize,
    /// Whether a merge may be refused.
    refuses: Plain,
}

fn page(index: usize) -> PageIndex {
    PageIndex::new(index)
}

impl Scene {
    /// All shared.
    fn new(pages: usize) -> Arc<Self> {
        let count = PageCount::new(pages);
        let size = PageSize::new(1).expect("a power of two");
        Arc::new(Self {
            remap: Remap::new(Arc::new(Views::new(count)), count, size),
            is_needed: AtomicBool::new(false),
            child: AtomicBool::new(false),
            pages,
            refuses: Plain::new(false),
        })
    }

    /// Shared, and none of them in use yet.
    fn unused(pages: usize) -> Arc<Self> {
        let scene = Self::new(pages);
        let mut scene = Arc::try_unwrap(scene).ok().expect("nobody else has it");
        scene.remap = scene.remap.unused();
        Arc::new(scene)
    }

    /// Nobody looks at the file, and these pages were stored to since: each has its number and one.
    fn to_be_merged(pages: usize, stored: &[usize]) -> Arc<Self> {
        let scene = Self::new(pages);
        assert!(scene.freeze());
        for at in stored {
            scene.write(*at, *at as u8 + 1);
        }
        scene.remap.release();
        scene
    }

    fn views(&self) -> &Views {
        self.remap.views()
    }

    /// Has the "processor" retry until it is not refused, as a handler that waits does.
    fn retry(&self, at: usize, store: impl Fn() -> bool) {
        // A call that merges refuses it once, and the next slice is another page's.
        for _ in 0..4 {
            if store() {
                return;
            }
            self.remap.refused(page(at));
        }
        panic!("a store is refused for ever");
    }

    fn write(&self, at: usize, value: u8) {
        self.retry(at, || self.views().store(page(at), value));
    }

    fn add(&self, at: usize, value: u8) {
        self.retry(at, || self.views().add(page(at), value));
    }

    fn live(&self) -> Vec<u8> {
        let pages = 0..self.pages;
        pages.map(|at| self.views().load(page(at))).collect()
    }

    /// What the file holds, from the last page to the first.
    fn frozen(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..self.pages)
            .rev()
            .map(|at| self.views().frozen(page(at)))
            .collect();
        bytes.reverse();
        bytes
    }

    fn freeze(&self) -> bool {
        let frozen = self.remap.freeze(
            || Ok(!self.is_needed.load(Ordering::SeqCst)),
            || self.child.load(Ordering::SeqCst),
        );
        frozen.expect("nothing is injected")
    }

    fn merge_some(&self) -> Result<Merged> {
        self.remap.merge_some(
            || Ok(!self.is_needed.load(Ordering::SeqCst)),
            || self.child.load(Ordering::SeqCst),
        )
    }

    /// As the keeper: until nothing is left, or somebody is in the way.
    fn merge(&self) {
        loop {
            match self.merge_some() {
                Ok(Merged::Some) => {}
                Ok(_) => return,
                Err(_) => {
                    assert!(self.refuses.load(Relaxed), "nothing is injected");
                    return;
                }
            }
        }
    }

    /// Forks: what the child sees. It lives until `child` is false again.
    fn fork(&self) -> Branch {
        let mut still = self.remap.hold_still();
        still.before();
        self.child.store(true, Ordering::SeqCst);
        for at in 0..self.pages {
            let shared = self.views().is_shared(page(at));
            assert!(!shared, "page {at} is shared with the child");
        }
        let child = self.views().fork();
        still.in_parent();
        child
    }

    fn leave(&self, start: usize, end: usize) {
        let left = self.remap.leave((start..end).into());
        left.expect("nothing is injected");
    }

    /// The same where only the first `used` pages are in use: the child gets no others.
    fn fork_below(&self, used: usize) -> Branch {
        self.child.store(true, Ordering::SeqCst);
        let mut state = self.remap.state();
        let frozen = self.remap.make_private_below(&mut state, used);
        frozen.expect("nothing is injected");
        drop(state);
        for at in 0..used {
            let shared = self.views().is_shared(page(at));
            assert!(!shared, "page {at} is shared with the child");
        }
        self.views().fork()
    }

    /// What holds when nobody is at work: all can be merged, and nothing changes by it.
    fn assert_settled(&self, live: &[u8]) {
        assert_eq!(self.live(), live);
        self.merge();
        assert_eq!(self.live(), live);
        assert_eq!(self.frozen(), live);
        for at in 0..self.pages {
            assert!(self.views().is_shared(page(at)));
        }
        assert!(self.remap.is_ready());
    }
}

fn bytes_of(branch: &Branch, pages: usize) -> Vec<u8> {
    (0..pages).map(|at| branch.load(page(at))).collect()
}

fn spawn<R: 'static>(
    scene: &Arc<Scene>,
    body: impl FnOnce(&Scene) -> R + 'static,
) -> thread::JoinHandle<R> {
    let scene = scene.clone();
    thread::spawn(move || body(&scene))
}
