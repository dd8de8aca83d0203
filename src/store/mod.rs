//! The store: frames, page-sized slots that hold the saved copies.
//!
//! ```text
//!   reserve           take                put
//!  ---------> FRESH --------> IN USE ------------> READY
//!               |             ^   ^                |   |  ^
//!               |             |   |      take      |   |  |
//!               |        take |   +----------------+   |  |
//!               |             |                        |  |
//!               |           EMPTY                      |  |
//!               |           |   ^                      |  |
//!           set |       set |   | give             set |  | populate
//!         aside |     aside |   | back           aside |  |
//!               v           v   |                      v  |
//!             +---------------------------------------------+
//!             |                    ASIDE                    |
//!             +---------------------------------------------+
//! ```
//!
//! | state | what holds | resident |
//! |---|---|---|
//! | fresh | not taken since there was no copy: index `fresh` or above | below index `resident` |
//! | ready | free again, on the stack `ready` | yes |
//! | empty | free, on the stack `empty`; its memory was given back | no |
//! | aside | free, but nobody can take it; in an [`Aside`](free::Aside) | changes |
//! | in use | holds a copy, on the chain of its page ([`versions`]) | yes |
//!
//! [`Store::take`] runs in the handler. It takes a resident frame if there is one, and costs one
//! atomic exchange: a ready one, else a fresh one that is resident, else an empty one, else the
//! next fresh one. The kernel zeroes the page of a frame that is not resident while it is filled,
//! which doubles what a copy costs; so fresh frames are made resident ([`Store::prefault`]) before
//! a snapshot is taken, and by threads that read one in order.
//!
//! When no copy is left, all frames become fresh again ([`Store::set_aside_unused`]). The last of
//! the resident ones go aside, have their memory given back, and are fresh again too.
//!
//! Address space for frames is reserved before each commit. A page is saved at most once between
//! two commits, so as many free frames as the arena has pages suffice for all writers. With a limit
//! there may be fewer, and `take` may return `None`.

mod frame;
mod free;
mod segments;
pub(crate) mod versions;

use std::io;
use std::ops::Range;

pub(crate) use frame::{Frame, FrameMeta};
use free::FreeStack;
use segments::Segments;

use crate::page::{PageCount, PageIndex, PageSize};
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use crate::sys::{Memory, Piece};

/// How often a thread that found no frame, although there are some, looks again.
const RETRIES: usize = 8;

pub(crate) struct Store {
    segments: Segments,
    /// Frames taken since there was no copy. The fresh ones are those from this index on.
    fresh: AtomicU32,
    /// The fresh frames below this index are resident, but for holes.
    resident: AtomicU32,
    /// Some frames below `resident` may not be resident.
    holes: AtomicBool,
    /// A thread makes fresh frames resident.
    prefaulting: AtomicBool,
    ready: FreeStack,
    empty: FreeStack,
    /// How many frames are aside. A commit sleeps on it.
    aside: AtomicU32,
    in_use: AtomicU32,
    in_use_peak: AtomicU32,
}

impl Store {
    /// A store for an arena of `pages` pages that never holds more than `limit` bytes.
    pub fn new(page_size: PageSize, pages: PageCount, limit: usize) -> Self {
        Self {
            segments: Segments::new(page_size, pages, limit),
            fresh: AtomicU32::new(0),
            resident: AtomicU32::new(0),
            holes: AtomicBool::new(false),
            prefaulting: AtomicBool::new(false),
            ready: FreeStack::new(),
            empty: FreeStack::new(),
            aside: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            in_use_peak: AtomicU32::new(0),
        }
    }

    /// Makes sure that at least `free` frames can be taken, as far as the limit allows. Under the
    /// ledger's lock, never in the handler.
    pub fn reserve(&self, free: usize) -> io::Result<()> {
        self.wait_for_aside();
        let in_use = self.in_use.load(Ordering::Relaxed);
        let free = free.min(u32::MAX as usize) as u32;
        self.segments.reserve(in_use.saturating_add(free))
    }

    /// Takes a frame, or `None` when the limit leaves none. Async-signal-safe.
    pub fn take(&self) -> Option<Frame> {
        let frame = self.take_any().or_else(|| {
            // A frame may have moved from a stack that was not yet looked at to one that was.
            (0..RETRIES)
                .take_while(|_| self.free() > self.aside.load(Ordering::Relaxed) as usize)
                .find_map(|_| self.take_any())
        })?;
        let in_use = self.in_use.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_use_peak.fetch_max(in_use, Ordering::Relaxed);
        Some(frame)
    }

    /// Frees a frame that nobody can reach any more.
    pub fn put(&self, frame: Frame) {
        let meta = self.meta(frame);
        meta.upto.store(0, Ordering::Relaxed);
        meta.after.store(0, Ordering::Relaxed);
        self.ready.push(&self.segments, frame);
        // Release: a thread that finds no copy left finds all frames on their stacks.
        self.in_use.fetch_sub(1, Ordering::Release);
    }

    /// Copies a page into a frame that the caller took. The caller has claimed the page, or nobody
    /// can disarm it. Async-signal-safe.
    pub fn fill(&self, frame: Frame, arena: &Memory, page: PageIndex) {
        let (segment, slot) = self.segments.locate(frame);
        let page_size = self.segments.page_size();
        segment.memory.copy_page(slot, arena, page, page_size);
    }

    /// Copies a frame that a live snapshot pins into a page that stays writable meanwhile.
    pub fn put_back(&self, frame: Frame, arena: &Memory, page: PageIndex) {
        let (segment, slot) = self.segments.locate(frame);
        arena.put_page(page, &segment.memory, slot, self.segments.page_size());
    }

    /// Copies bytes of a frame, from `offset` within it, that a live snapshot pins.
    pub fn read(&self, frame: Frame, offset: usize, into: &mut [u8]) {
        let piece = self.piece(frame, offset..offset + into.len());
        piece.memory.read(piece.start, into);
    }

    /// Bytes of a frame, which do not change while a live snapshot pins it.
    pub fn piece(&self, frame: Frame, within: Range<usize>) -> Piece<'_> {
        let (segment, slot) = self.segments.locate(frame);
        Piece {
            memory: &segment.memory,
            start: self.segments.page_size().offset_of(slot) + within.start,
            len: within.len(),
        }
    }

    /// The bytes of a frame, which do not change while a live snapshot pins it.
    #[cfg(not(loom))]
    pub fn bytes(&self, frame: Frame) -> *const u8 {
        let piece = self.piece(frame, 0..self.segments.page_size().bytes());
        piece.memory.as_ptr().wrapping_add(piece.start)
    }

    /// A copy that serves the snapshot of `epoch` and no newer one, picked by the number `random`;
    /// `None` when the frame that it picks is no such copy. Async-signal-safe.
    pub fn sample(&self, random: u64, epoch: u64) -> Option<Frame> {
        // Acquire: a frame that was taken has its segment.
        let used = u64::from(self.fresh.load(Ordering::Acquire));
        let frame = Frame::new(random.checked_rem(used)? as u32);
        (self.meta(frame).upto.load(Ordering::Relaxed) == epoch).then_some(frame)
    }

    /// Whether a copy differs from the live page. A guess while either changes. Async-signal-safe.
    pub fn differs(&self, frame: Frame, arena: &Memory) -> bool {
        let (segment, slot) = self.segments.locate(frame);
        let page = segment.meta(slot).page();
        let page_size = self.segments.page_size();
        segment.memory.differs(slot, arena, page, page_size)
    }

    /// Whether two copies differ, which live snapshots pin.
    #[cfg(not(loom))]
    pub fn copies_differ(&self, one: Frame, other: Frame) -> bool {
        let (segment, slot) = self.segments.locate(one);
        let (other, other_slot) = self.segments.locate(other);
        let page_size = self.segments.page_size();
        segment
            .memory
            .differs(slot, &other.memory, other_slot, page_size)
    }

    #[inline]
    pub fn meta(&self, frame: Frame) -> &FrameMeta {
        self.segments.meta(frame)
    }

    /// What is known of [all frames](Self::frames).
    pub fn metas(&self) -> impl Iterator<Item = &FrameMeta> {
        self.segments.metas(0..self.fresh.load(Ordering::Acquire))
    }

    /// All frames that were taken since there was no copy, free ones included.
    pub fn frames(&self) -> impl Iterator<Item = Frame> {
        (0..self.fresh.load(Ordering::Acquire)).map(Frame::new)
    }

    /// Frames in use now.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed) as usize
    }

    /// The most frames in use at one time so far.
    pub fn in_use_peak(&self) -> usize {
        self.in_use_peak.load(Ordering::Relaxed) as usize
    }

    /// Resident frames, in use or free.
    pub fn resident(&self) -> usize {
        self.in_use() + self.free_resident()
    }

    /// The limit, in bytes.
    pub fn limit_bytes(&self) -> usize {
        let frames = self.segments.limit() as usize;
        frames.saturating_mul(self.segments.page_size().bytes())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;

    use super::*;

    pub(super) fn store(pages: usize, limit_pages: usize) -> Store {
        let size = PageSize::host();
        Store::new(size, PageCount::new(pages), limit_pages * size.bytes())
    }

    #[test]
    fn frames_are_distinct_over_segments_and_come_back() {
        let store = store(3, usize::MAX / (1 << 20));
        store.reserve(50).unwrap();
        let taken: Vec<Frame> = (0..50).map(|_| store.take().unwrap()).collect();
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 50);
        assert_eq!(store.in_use(), 50);
        for frame in &taken {
            store.put(*frame);
        }
        assert_eq!(store.in_use(), 0);
        assert_eq!(store.in_use_peak(), 50);
        let again: HashSet<Frame> = (0..50).map(|_| store.take().unwrap()).collect();
        assert_eq!(again, taken.into_iter().collect());
    }

    #[test]
    fn the_limit_holds_whatever_is_reserved_or_prefaulted() {
        let store = store(16, 5);
        store.reserve(1000).unwrap();
        store.prefault(1000, crate::sys::Populate::ByCall);
        let taken: Vec<Frame> = std::iter::from_fn(|| store.take()).collect();
        assert_eq!(taken.len(), 5);
        store.put(taken[0]);
        assert!(store.take().is_some());
        assert!(store.take().is_none());
        assert_eq!(store.limit_bytes(), 5 * region::page::size());
    }
}
