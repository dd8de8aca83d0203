//! A frame, and what is known of it.

use crate::epoch::Epoch;
use crate::page::PageIndex;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::ZeroValid;

/// One page-sized slot of the store. Frames are named by index, never by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Frame(u32);

/// An atomic `Option<Frame>`. Zero bytes are `None`.
#[derive(Debug, Default)]
pub(super) struct Link(AtomicU32);

/// What is known of a frame. All zero while the frame was never used: it serves no epoch.
#[derive(Debug, Default)]
pub(crate) struct FrameMeta {
    /// The page whose copy this is.
    pub(super) page: AtomicU32,
    /// In use: the next older copy of the same page. Free: the next frame on the stack.
    pub(super) older: Link,
    /// The next copy on the same snapshot's list.
    pub(super) listed: Link,
    /// The copy serves the snapshots of epochs `after < e <= upto`. A free frame has `upto` 0.
    pub(super) after: AtomicU64,
    pub(super) upto: AtomicU64,
}

// SAFETY: atomics of plain integers, for which zero bytes are the value 0.
#[allow(unsafe_code, reason = "frame records live in lazily zeroed memory")]
unsafe impl ZeroValid for FrameMeta {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "chain heads live in lazily zeroed memory")]
unsafe impl ZeroValid for Link {}

impl Frame {
    /// The frame of this index. The caller knows that its segment exists.
    #[inline]
    pub(super) const fn new(index: u32) -> Self {
        Self(index)
    }

    #[inline]
    pub(super) const fn index(self) -> u32 {
        self.0
    }

    /// An optional frame as a number: 0 for none, else its index and one.
    #[inline]
    pub(super) fn encode(frame: Option<Self>) -> u32 {
        frame.map_or(0, |frame| frame.0 + 1)
    }

    #[inline]
    pub(super) fn decode(raw: u32) -> Option<Self> {
        raw.checked_sub(1).map(Self)
    }
}

impl Link {
    #[inline]
    pub fn load(&self, order: Ordering) -> Option<Frame> {
        Frame::decode(self.0.load(order))
    }

    #[inline]
    pub fn store(&self, frame: Option<Frame>, order: Ordering) {
        self.0.store(Frame::encode(frame), order);
    }

    #[inline]
    pub fn swap(&self, frame: Option<Frame>, order: Ordering) -> Option<Frame> {
        Frame::decode(self.0.swap(Frame::encode(frame), order))
    }

    /// Compares and exchanges: Release on success, Relaxed on failure.
    #[inline]
    pub fn replace(&self, seen: Option<Frame>, new: Option<Frame>) -> Result<(), Option<Frame>> {
        self.0
            .compare_exchange(
                Frame::encode(seen),
                Frame::encode(new),
                Ordering::Release,
                Ordering::Relaxed,
            )
            .map(drop)
            .map_err(Frame::decode)
    }
}

impl FrameMeta {
    /// The page whose copy this is.
    #[inline]
    pub fn page(&self) -> PageIndex {
        PageIndex::new(self.page.load(Ordering::Relaxed) as usize)
    }

    /// Whether the frame holds a copy.
    pub fn is_in_use(&self) -> bool {
        self.upto.load(Ordering::Relaxed) != 0
    }

    /// Whether this copy is what the snapshot of `epoch` reads.
    #[inline]
    pub fn serves(&self, epoch: u64) -> bool {
        // Looks at `upto` twice: a thread that walks all frames may meet one that is being
        // recycled, and must not put an answer together from its two lives.
        let serves = |upto: u64, after: u64| after < epoch && epoch <= upto;
        let upto = self.upto.load(Ordering::Acquire);
        let after = self.after.load(Ordering::Acquire);
        serves(upto, after) && serves(self.upto.load(Ordering::Relaxed), after)
    }

    /// The epoch after which the copy's interval begins.
    pub fn after(&self) -> Epoch {
        Epoch::new(self.after.load(Ordering::Relaxed))
    }

    /// Ends the copy's interval at an older snapshot, which inherits the copy.
    pub fn end_at(&self, heir: Epoch) {
        self.upto.store(heir.get(), Ordering::Release);
    }

    /// The next frame on the same list. For the owner of the list, and while it keeps its copies.
    pub fn next_listed(&self) -> Option<Frame> {
        self.listed.load(Ordering::Relaxed)
    }

    /// Puts this frame before `next` on a list. For the owner of the list.
    pub fn set_next_listed(&self, next: Option<Frame>) {
        self.listed.store(next, Ordering::Relaxed);
    }
}
