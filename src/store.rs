//! The store: frames, page-sized slots that hold the saved copies.
//!
//! Address space for frames is reserved in segments, outside the handler, before each commit: a page is
//! saved at most once between two commits, so as many free frames as the arena has pages are enough for
//! any writer. The handler takes a frame with one atomic, from the first of these that has one:
//!
//! 1. `ready`: frames used before and free again;
//! 2. `fresh`: the others, handed out in order. The memory of the first of them is resident: pre-faulted before
//!    a snapshot, as many as were used after the last one, and refilled by who reads one. Beyond those the
//!    kernel zeroes a page as a frame is filled, which doubles what a copy costs.
//!
//! When the last copy goes all frames are fresh again.
//!
//! With a limit, fewer frames than pages may be left, and [`Store::take`] may return `None`.
//! Frames are named by index, never by address.

use std::io;
use std::sync::OnceLock;

use crate::page::{PageIndex, PageRange, PageSize};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sys::{self, Memory, ZeroValid, Zeroed};

/// One slot of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame(u32);

/// An atomic `Option<Frame>`; zero bytes are `None`.
#[derive(Debug, Default)]
pub(crate) struct Link(AtomicU32);

/// What is known of a frame. All zero for one that is free: its interval is empty.
#[derive(Debug, Default)]
pub(crate) struct FrameMeta {
    /// The page whose copy this is.
    pub page: AtomicU32,
    /// The next older copy of the same page; or the next free frame.
    pub older: Link,
    /// The next copy on the same snapshot's list.
    pub listed: Link,
    /// The copy serves the snapshots of epochs `after < e <= upto`.
    pub after: AtomicU64,
    pub upto: AtomicU64,
}

// SAFETY: atomics of plain integers, for which zero bytes are the value 0.
#[allow(unsafe_code, reason = "frame records live in lazily zeroed memory")]
unsafe impl ZeroValid for FrameMeta {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "chain heads live in lazily zeroed memory")]
unsafe impl ZeroValid for Link {}

impl Link {
    fn encode(frame: Option<Frame>) -> u32 {
        frame.map_or(0, |frame| frame.0 + 1)
    }

    fn decode(raw: u32) -> Option<Frame> {
        raw.checked_sub(1).map(Frame)
    }

    pub fn load(&self, order: Ordering) -> Option<Frame> {
        Self::decode(self.0.load(order))
    }

    pub fn store(&self, frame: Option<Frame>, order: Ordering) {
        self.0.store(Self::encode(frame), order);
    }

    pub fn swap(&self, frame: Option<Frame>, order: Ordering) -> Option<Frame> {
        Self::decode(self.0.swap(Self::encode(frame), order))
    }

    /// Release on success, Relaxed on failure.
    pub fn replace(&self, seen: Option<Frame>, new: Option<Frame>) -> Result<(), Option<Frame>> {
        self.0
            .compare_exchange(
                Self::encode(seen),
                Self::encode(new),
                Ordering::Release,
                Ordering::Relaxed,
            )
            .map(drop)
            .map_err(Self::decode)
    }
}

impl FrameMeta {
    pub fn page(&self) -> PageIndex {
        PageIndex::new(self.page.load(Ordering::Relaxed) as usize)
    }

    /// Whether this copy is what the snapshot of `epoch` reads.
    pub fn serves(&self, epoch: u64) -> bool {
        // Looked at twice: who walks all frames may meet one that is being used again, and must not
        // put an answer together from its two lives.
        let serves = |upto: u64, after: u64| after < epoch && epoch <= upto;
        let upto = self.upto.load(Ordering::Acquire);
        let after = self.after.load(Ordering::Acquire);
        serves(upto, after) && serves(self.upto.load(Ordering::Relaxed), after)
    }
}

/// Resident frames that who reads a snapshot sees to while writers use them up.
pub(crate) const REFILL: u32 = 1024;

struct Segment {
    memory: Memory,
    metas: Zeroed<FrameMeta>,
}

/// A lock-free stack of free frames, linked through `FrameMeta::older`. The upper half of the head
/// counts changes, so that a frame that went and came back is noticed.
struct FreeStack {
    head: AtomicU64,
    len: AtomicU32,
}

pub(crate) struct Store {
    page_size: PageSize,
    /// Most frames that may ever be reserved.
    limit: u32,
    /// Frames of the first segment, a power of two, twice the arena's pages or more; each further segment has
    /// twice as many. The limit cuts off the last one.
    first_segment: u32,
    segments: [OnceLock<Segment>; 32],
    /// Frames that may be handed out.
    reserved: AtomicU32,
    /// Frames handed out since there was no copy: the first of the fresh ones.
    fresh: AtomicU32,
    /// The fresh frames below this one are resident.
    resident: AtomicU32,
    prefaulting: AtomicBool,
    ready: FreeStack,
    in_use: AtomicU32,
    in_use_peak: AtomicU32,
}

impl FreeStack {
    fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            len: AtomicU32::new(0),
        }
    }

    fn top(head: u64) -> Option<Frame> {
        Link::decode(head as u32)
    }

    fn changed(head: u64, top: Option<Frame>) -> u64 {
        ((head >> 32).wrapping_add(1) << 32) | u64::from(Link::encode(top))
    }

    fn pop(&self, store: &Store) -> Option<Frame> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let frame = Self::top(head)?;
            let next = store.meta(frame).older.load(Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                head,
                Self::changed(head, next),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    self.len.fetch_sub(1, Ordering::Relaxed);
                    return Some(frame);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Only while nobody pops or pushes.
    fn clear(&self) {
        let head = self.head.load(Ordering::Relaxed);
        self.head
            .store(Self::changed(head, None), Ordering::Relaxed);
        self.len.store(0, Ordering::Relaxed);
    }

    fn push(&self, store: &Store, frame: Frame) {
        self.len.fetch_add(1, Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let below = Self::top(head);
            store.meta(frame).older.store(below, Ordering::Relaxed);
            match self.head.compare_exchange_weak(
                head,
                Self::changed(head, Some(frame)),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

impl Store {
    /// A store for an arena of `pages` pages that never holds more than `limit` bytes.
    pub fn new(page_size: PageSize, pages: usize, limit: usize) -> Self {
        let limit = (limit / page_size.bytes()).min(u32::MAX as usize - 1);
        Self {
            page_size,
            limit: limit as u32,
            first_segment: (pages.saturating_mul(2).min(1 << 31) as u32).next_power_of_two(),
            segments: [const { OnceLock::new() }; 32],
            reserved: AtomicU32::new(0),
            fresh: AtomicU32::new(0),
            resident: AtomicU32::new(0),
            prefaulting: AtomicBool::new(false),
            ready: FreeStack::new(),
            in_use: AtomicU32::new(0),
            in_use_peak: AtomicU32::new(0),
        }
    }

    /// Takes a frame, or `None` when the limit leaves none. Async-signal-safe.
    pub fn take(&self) -> Option<Frame> {
        let frame = self.ready.pop(self).or_else(|| self.take_fresh())?;
        let in_use = self.in_use.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_use_peak.fetch_max(in_use, Ordering::Relaxed);
        Some(frame)
    }

    fn take_fresh(&self) -> Option<Frame> {
        let mut next = self.fresh.load(Ordering::Relaxed);
        // Acquire: a frame below `reserved` has its segment.
        while next < self.reserved.load(Ordering::Acquire) {
            match self.fresh.compare_exchange_weak(
                next,
                next + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Frame(next)),
                Err(now) => next = now,
            }
        }
        None
    }

    /// Copies a page that the caller has claimed, or that nobody can disarm, into a frame of the
    /// caller's. Async-signal-safe.
    pub fn fill(&self, frame: Frame, arena: &Memory, page: PageIndex) {
        let (segment, slot) = self.locate(frame);
        segment.memory.copy_page(slot, arena, page, self.page_size);
    }

    /// One of the copies, any, that serves the snapshot of `epoch` and no newer one; `None` when the frame
    /// that `random` means is no such copy. Async-signal-safe.
    pub fn sample(&self, random: u64, epoch: u64) -> Option<Frame> {
        // Acquire: a frame that was handed out has its segment.
        let used = u64::from(self.fresh.load(Ordering::Acquire));
        let frame = Frame(random.checked_rem(used)? as u32);
        (self.meta(frame).upto.load(Ordering::Relaxed) == epoch).then_some(frame)
    }

    /// Whether a copy differs from the live page. A guess while either changes.
    pub fn differs(&self, frame: Frame, arena: &Memory) -> bool {
        let (segment, slot) = self.locate(frame);
        let page = segment.metas[slot.get()].page();
        segment.memory.differs(slot, arena, page, self.page_size)
    }

    /// Free frames that may still be taken.
    pub fn free(&self) -> usize {
        let reserved = self.reserved.load(Ordering::Relaxed);
        reserved.saturating_sub(self.in_use.load(Ordering::Relaxed)) as usize
    }

    /// Gives back a frame that nobody can reach any more.
    pub fn put(&self, frame: Frame) {
        let meta = self.meta(frame);
        meta.upto.store(0, Ordering::Relaxed);
        meta.after.store(0, Ordering::Relaxed);
        self.in_use.fetch_sub(1, Ordering::Relaxed);
        self.ready.push(self, frame);
    }

    pub fn meta(&self, frame: Frame) -> &FrameMeta {
        let (segment, slot) = self.locate(frame);
        &segment.metas[slot.get()]
    }

    /// Copies bytes of a frame, from `offset` within it, that a live snapshot pins.
    pub fn read(&self, frame: Frame, offset: usize, into: &mut [u8]) {
        let (segment, slot) = self.locate(frame);
        let start = self.page_size.offset_of(slot) + offset;
        segment.memory.read(start, into);
    }

    /// The bytes of a frame, which do not change while a live snapshot pins it.
    #[cfg(not(loom))]
    pub fn bytes(&self, frame: Frame) -> *const u8 {
        let (segment, slot) = self.locate(frame);
        segment
            .memory
            .as_ptr()
            .wrapping_add(self.page_size.offset_of(slot))
    }

    /// Makes sure that at least `free` frames can be taken, as far as the limit allows. One caller at a
    /// time, never in the handler.
    pub fn reserve(&self, free: usize) -> io::Result<()> {
        let wanted = self
            .in_use
            .load(Ordering::Relaxed)
            .saturating_add(free.min(u32::MAX as usize) as u32)
            .min(self.limit);
        let mut reserved = self.reserved.load(Ordering::Relaxed);
        while reserved < wanted {
            let (number, _) = self.place(reserved);
            let count = u64::from(self.first_segment) << number;
            let frames = count.min(u64::from(self.limit - reserved)) as u32;
            let segment = Segment {
                memory: Memory::new(frames as usize, self.page_size)?.in_small_pages(),
                metas: Zeroed::new(frames as usize)?,
            };
            if self.segments[number].set(segment).is_err() {
                unreachable!("one caller at a time reserves frames");
            }
            reserved += frames;
            self.reserved.store(reserved, Ordering::Release);
        }
        Ok(())
    }

    /// Sees to it that about `count` free frames are resident, outside the handler. Takes none of them, so
    /// that a writer finds them all. While another thread does the same it returns at once. `by_call`: see
    /// [`Memory::populate`].
    pub fn prefault(&self, count: usize, by_call: bool) {
        if self.prefaulting.swap(true, Ordering::Acquire) {
            return;
        }
        let ready = self.ready.len.load(Ordering::Relaxed) as usize;
        let fresh = self.fresh.load(Ordering::Relaxed);
        let missing = count.saturating_sub(ready).min(u32::MAX as usize) as u32;
        let end = fresh
            .saturating_add(missing)
            .min(self.reserved.load(Ordering::Acquire));
        let mut first = self.resident.load(Ordering::Relaxed).max(fresh);
        while first < end {
            let count = (end - first).min(self.left_in_segment(first));
            let (segment, slot) = self.locate(Frame(first));
            let last = PageIndex::new(slot.get() + count as usize - 1);
            segment
                .memory
                .populate(PageRange::new(slot, last), self.page_size, by_call);
            first += count;
        }
        self.resident.fetch_max(end, Ordering::Relaxed);
        self.prefaulting.store(false, Ordering::Release);
    }

    /// In the child of a fork: who was at it in another thread is not there.
    #[cfg(not(loom))]
    pub fn forget_prefaulting(&self) {
        self.prefaulting.store(false, Ordering::Release);
    }

    /// Whether frames are taken and few resident ones are left.
    pub fn runs_short(&self) -> bool {
        let fresh = self.fresh.load(Ordering::Relaxed);
        fresh > 0
            && self.ready.len.load(Ordering::Relaxed) < REFILL / 2
            && self.resident.load(Ordering::Relaxed) < fresh.saturating_add(REFILL / 2)
    }

    /// With no copy left: begins anew with the first frame, and gives some of the memory of those beyond `keep`
    /// back to the system; returns whether there is more to give. While no snapshot lives, since frames
    /// must not be taken meanwhile.
    pub fn trim(&self, keep: usize) -> bool {
        const SOME: u32 = 8192;
        if self.in_use() > 0 {
            return false;
        }
        let used = self.fresh.swap(0, Ordering::Relaxed);
        self.ready.clear();
        let resident = self.resident.load(Ordering::Relaxed).max(used);
        let keep = keep.min(u32::MAX as usize) as u32;
        if resident <= keep {
            self.resident.store(resident, Ordering::Relaxed);
            return false;
        }
        let (_, slot) = self.place(resident - 1);
        let some = SOME.min(slot as u32 + 1);
        let first = resident.saturating_sub(some).max(keep);
        let (segment, slot) = self.locate(Frame(first));
        let last = PageIndex::new(slot.get() + (resident - first) as usize - 1);
        segment
            .memory
            .discard(PageRange::new(slot, last), self.page_size);
        self.resident.store(first, Ordering::Relaxed);
        true
    }

    /// Frames in use now.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed) as usize
    }

    /// Most frames in use at one time so far.
    pub fn in_use_peak(&self) -> usize {
        self.in_use_peak.load(Ordering::Relaxed) as usize
    }

    /// The limit, in bytes.
    pub fn limit_bytes(&self) -> usize {
        (self.limit as usize).saturating_mul(self.page_size.bytes())
    }

    /// All frames that were ever handed out, free ones included.
    pub fn frames(&self) -> impl Iterator<Item = Frame> {
        (0..self.fresh.load(Ordering::Acquire)).map(Frame)
    }

    /// Segment number and slot in it: segment `k` holds `first_segment << k` frames.
    fn place(&self, index: u32) -> (usize, usize) {
        let shifted = u64::from(index) + u64::from(self.first_segment);
        let number = shifted.ilog2() - self.first_segment.ilog2();
        let start = u64::from(self.first_segment) << number;
        (number as usize, (shifted - start) as usize)
    }

    /// Frames from `index` on in its segment, those that the limit has cut off included.
    fn left_in_segment(&self, index: u32) -> u32 {
        let (number, slot) = self.place(index);
        let count = u64::from(self.first_segment) << number;
        (count - slot as u64).min(u64::from(u32::MAX)) as u32
    }

    fn locate(&self, frame: Frame) -> (&Segment, PageIndex) {
        let (number, slot) = self.place(frame.0);
        match self.segments[number].get() {
            Some(segment) => (segment, PageIndex::new(slot)),
            // A frame is made from an index below `reserved` only.
            None => sys::die("pagecow: a frame outside the store; this is a bug\n"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn store(pages: usize, limit_pages: usize) -> Store {
        let size = PageSize::new(region::page::size()).unwrap();
        Store::new(size, pages, limit_pages * size.bytes())
    }

    #[test]
    fn frames_are_distinct_over_segments_and_come_back() {
        let store = store(3, usize::MAX / (1 << 20));
        store.reserve(50).unwrap();
        let taken: Vec<Frame> = (0..50).map(|_| store.take().unwrap()).collect();
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 50);
        let places: HashSet<_> = taken.iter().map(|frame| store.place(frame.0)).collect();
        assert_eq!(places.len(), 50);
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
        store.prefault(1000, true);
        let taken: Vec<Frame> = std::iter::from_fn(|| store.take()).collect();
        assert_eq!(taken.len(), 5);
        store.put(taken[0]);
        assert!(store.take().is_some());
        assert!(store.take().is_none());
        assert_eq!(store.limit_bytes(), 5 * region::page::size());
    }

    #[test]
    fn trimmed_frames_are_usable_again() {
        let store = store(8, 1000);
        store.reserve(100).unwrap();
        store.prefault(40, false);
        while store.trim(10) {}
        let taken: HashSet<Frame> = (0..100).map(|_| store.take().unwrap()).collect();
        assert_eq!(taken.len(), 100);
    }

    impl std::hash::Hash for Frame {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
}
