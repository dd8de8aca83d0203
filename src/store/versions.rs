//! Which saved copies a page has, and which snapshots each of them serves.
//!
//! A page's copies hang on a chain, newest first. Each serves an interval of epochs, and the intervals
//! of one page do not overlap: a copy saved when the page had been dealt with up to `after` and the
//! newest live snapshot was `upto` serves `after < e <= upto`.
//!
//! Each copy is also on one list, that of the snapshot `upto`: the list of the newest live snapshot is
//! `saved` here, the others are in the ledger ([`crate::cow::commit`]).
//!
//! Who may do what: a copy is pushed by who has claimed its page; it is unlinked by the one reclaimer;
//! readers walk the chains inside the `readers` gate, which the reclaimer closes for a moment between
//! unlinking copies and recycling their frames.

use crate::epoch::Epoch;
use crate::page::PageIndex;
use crate::store::frame::Link;
use crate::store::{Frame, Store};
use crate::sync::Ordering;
use crate::sync::gate::Gate;
use crate::sys::Zeroed;

pub(crate) struct Versions {
    heads: Zeroed<Link>,
    saved: Link,
    /// Readers of the chains are inside.
    readers: Gate,
}

impl Versions {
    pub fn new(pages: usize) -> std::io::Result<Self> {
        Ok(Self {
            heads: Zeroed::new(pages)?,
            saved: Link::default(),
            readers: Gate::new(),
        })
    }

    /// Makes a filled frame the copy of `page` for the epochs `after < e <= upto`, and puts it on the
    /// newest snapshot's list. The caller has claimed the page and is inside the arena's gate.
    /// Async-signal-safe.
    pub fn publish(&self, store: &Store, frame: Frame, page: PageIndex, after: Epoch, upto: Epoch) {
        let meta = store.meta(frame);
        meta.page.store(page.get() as u32, Ordering::Relaxed);
        meta.after.store(after.get(), Ordering::Relaxed);
        meta.upto.store(upto.get(), Ordering::Release);
        // Nobody else pushes to this page's chain; the reclaimer may take its head off meanwhile.
        push(&self.heads[page.get()], &meta.older, frame);
        push(&self.saved, &meta.listed, frame);
    }

    /// The copy that the snapshot of `epoch` reads of `page`. It stays while that snapshot lives.
    pub fn find(&self, store: &Store, page: PageIndex, epoch: Epoch) -> Option<Frame> {
        self.readers.enter();
        let mut next = self.heads[page.get()].load(Ordering::Acquire);
        let found = loop {
            let Some(frame) = next else { break None };
            let meta = store.meta(frame);
            if meta.serves(epoch.get()) {
                break Some(frame);
            }
            next = meta.older.load(Ordering::Acquire);
        };
        self.readers.leave();
        found
    }

    /// Keeps readers off the chains, and waits for those that are there. Around a fork.
    pub fn close_to_readers(&self) {
        self.readers.close();
    }

    /// Lets readers in again.
    pub fn open_to_readers(&self) {
        self.readers.open();
    }

    /// Waits until no reader looks at copies that were [unlinked](Self::unlink) before the call.
    pub fn wait_for_readers(&self) {
        self.readers.close();
        self.readers.open();
    }

    /// The newest live snapshot's list, replaced by another. Only with the arena's gate closed.
    pub fn swap_saved(&self, list: Option<Frame>) -> Option<Frame> {
        self.saved.swap(list, Ordering::AcqRel)
    }

    /// Adds a chain of copies, linked from `first` to `last`, to the newest live snapshot's list.
    pub fn splice_saved(&self, store: &Store, first: Frame, last: Frame) {
        push_chain(&self.saved, &store.meta(last).listed, first);
    }

    /// Takes a copy off its page's chain. One caller at a time; the frame may still be looked at by
    /// readers until the `readers` gate was drained.
    pub fn unlink(&self, store: &Store, frame: Frame) {
        let meta = store.meta(frame);
        let head = &self.heads[meta.page().get()];
        let older = meta.older.load(Ordering::Relaxed);
        // Acquire, also for what a failed exchange would have seen: the chain is walked from here.
        while head.load(Ordering::Acquire) == Some(frame) {
            if head.replace(Some(frame), older).is_ok() {
                return;
            }
        }
        // Not the head, and so never again: new copies go in front.
        let mut next = head.load(Ordering::Acquire);
        while let Some(newer) = next {
            let link = &store.meta(newer).older;
            next = link.load(Ordering::Acquire);
            if next == Some(frame) {
                link.store(older, Ordering::Release);
                return;
            }
        }
        debug_assert!(false, "a listed copy was not on its page's chain");
    }
}

fn push(head: &Link, link: &Link, frame: Frame) {
    push_chain(head, link, frame);
}

/// Puts a chain of frames, whose first is `first` and whose last one's link is `link`, before `head`.
fn push_chain(head: &Link, link: &Link, first: Frame) {
    let mut seen = head.load(Ordering::Relaxed);
    loop {
        link.store(seen, Ordering::Relaxed);
        match head.replace(seen, Some(first)) {
            Ok(()) => return,
            Err(now) => seen = now,
        }
    }
}
