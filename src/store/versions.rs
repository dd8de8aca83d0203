//! Which saved copies a page has, and which snapshots each of them serves.
//!
//! A page's copies are on a chain, newest first. Each serves an interval of epochs, and the
//! intervals of one page do not overlap: a copy that is saved when the page has been dealt with up
//! to `after`, and the newest live snapshot is `upto`, serves `after < e <= upto`.
//!
//! Each copy is also on one list, that of the snapshot `upto`. The list of the newest live snapshot
//! is `saved` here; the others are in the ledger ([`crate::cow::commit`]).
//!
//! Who may do what: the thread that has claimed a page, or closed the gate, pushes its copy. One
//! thread at a time drops a snapshot, and only that thread unlinks copies, or moves them from list
//! to list; a thread that keeps others from dropping any may walk lists. Readers walk the chains
//! inside the `readers` gate, which the thread that drops closes for a moment between unlinking
//! copies and recycling their frames.

use crate::epoch::Epoch;
use crate::page::{PageCount, PageIndex};
use crate::store::frame::Link;
use crate::store::{Frame, Store};
use crate::sync::Ordering;
use crate::sync::gate::Gate;
use crate::sys::Zeroed;

pub(crate) struct Versions {
    /// For each page its newest copy.
    heads: Zeroed<Link>,
    /// The newest live snapshot's list.
    saved: Link,
    /// Readers of the chains are inside.
    readers: Gate,
}

impl Versions {
    pub fn new(pages: PageCount) -> std::io::Result<Self> {
        Ok(Self {
            heads: Zeroed::new(pages.get())?,
            saved: Link::default(),
            readers: Gate::new(),
        })
    }

    /// Makes a filled frame the copy of `page` for the epochs `after < e <= upto`, and puts it on
    /// the newest snapshot's list. The caller is inside the arena's gate
    /// and has claimed the page, or has closed the gate. Async-signal-safe.
    pub fn publish(&self, store: &Store, frame: Frame, page: PageIndex, after: Epoch, upto: Epoch) {
        let meta = store.meta(frame);
        meta.page.store(page.get() as u32, Ordering::Relaxed);
        meta.after.store(after.get(), Ordering::Relaxed);
        meta.upto.store(upto.get(), Ordering::Release);
        // Nobody else pushes to this page's chain; its head may be unlinked meanwhile.
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

    /// The first copy on the newest live snapshot's list, to which others may come meanwhile.
    pub fn saved(&self) -> Option<Frame> {
        self.saved.load(Ordering::Acquire)
    }

    /// Replaces the newest live snapshot's list by another. Only with the arena's gate closed.
    pub fn swap_saved(&self, list: Option<Frame>) -> Option<Frame> {
        self.saved.swap(list, Ordering::AcqRel)
    }

    /// Adds a chain of copies, linked from `first` to `last`, to the newest live snapshot's list.
    pub fn splice_saved(&self, store: &Store, first: Frame, last: Frame) {
        push_chain(&self.saved, &store.meta(last).listed, first);
    }

    /// Takes a copy off its page's chain. One caller at a time. Readers may still look at the frame
    /// until [`wait_for_readers`](Self::wait_for_readers) returns.
    pub fn unlink(&self, store: &Store, frame: Frame) {
        let meta = store.meta(frame);
        let head = &self.heads[meta.page().get()];
        let older = meta.older.load(Ordering::Relaxed);
        // Acquire here, since a failed exchange does not acquire: the chain is walked from this
        // head.
        while head.load(Ordering::Acquire) == Some(frame) {
            if head.replace(Some(frame), older).is_ok() {
                return;
            }
        }
        // It is not the head and never will be: new copies go in front.
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

/// Puts a chain of frames in front of what `head` holds. It begins with `first`, and `link` is its
/// last one's.
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
