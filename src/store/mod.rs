//! The store: frames, page-sized slots that hold the saved copies.
//!
//! Address space for frames is reserved in segments, outside the handler, before each commit: a page is
//! saved at most once between two commits, so as many free frames as the arena has pages are enough for
//! any writer. The handler takes a frame with one atomic, from the first of these that has one:
//!
//! 1. `ready`: frames used before and free again, whose memory is resident;
//! 2. those `fresh` frames whose memory is resident: pre-faulted before a snapshot, and refilled by
//!    a thread that reads one in order;
//! 3. `empty`: frames used before whose memory was given back to the system;
//! 4. the other `fresh` ones, in order.
//!
//! Where a frame's memory is not resident, the kernel zeroes a page as it is filled, which doubles what a
//! copy costs. When the last copy goes all frames are fresh again.
//!
//! Frames are made resident or given back while they are set *aside*, a few at a time: nobody can take
//! them then. So that no writer finds none because of that, frames are set aside only where as many as
//! the arena has pages remain, and a commit waits until none are aside. Setting aside and waiting are
//! ordered by the ledger's lock; the slow part needs no lock.
//!
//! With a limit, fewer frames than pages may be left, and [`Store::take`] may return `None`.
//! Frames are named by index, never by address.

pub(crate) mod versions;

use std::io;
use std::sync::OnceLock;

use crate::page::{PageIndex, PageRange, PageSize};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, sleep_u32, wait_until, wake_u32};
use crate::sys::{self, Memory, Populate, ZeroValid, Zeroed};

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

/// Frames that are set aside at one time, of those that writers may be waiting for, and of those that
/// nobody needs.
const SOME: usize = 64;
const SOME_UNUSED: u32 = 512;
/// How often a thread that found no frame, although there are some, looks again.
const RETRIES: usize = 8;

/// Free frames that nobody can take until they are given back or populated.
#[must_use = "a commit waits for them"]
pub(crate) struct Aside {
    /// Ascending.
    frames: Vec<Frame>,
    /// They are fresh, and will be so again.
    tail: bool,
}

/// Resident frames that a thread that reads a snapshot sees to, some at a time, while writers use
/// them up.
#[cfg(not(loom))]
const ENOUGH: usize = 512;

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
    empty: FreeStack,
    /// Frames that are set aside.
    aside: AtomicU32,
    /// Some frames below `resident` may not be resident.
    holes: AtomicBool,
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
            empty: FreeStack::new(),
            aside: AtomicU32::new(0),
            holes: AtomicBool::new(false),
            in_use: AtomicU32::new(0),
            in_use_peak: AtomicU32::new(0),
        }
    }

    /// Takes a frame, or `None` when the limit leaves none. Async-signal-safe.
    pub fn take(&self) -> Option<Frame> {
        let frame = self.take_any().or_else(|| {
            // A free frame may have gone from a stack that was not looked at yet to one that was.
            (0..RETRIES)
                .take_while(|_| self.free() > self.aside.load(Ordering::Relaxed) as usize)
                .find_map(|_| self.take_any())
        })?;
        let in_use = self.in_use.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_use_peak.fetch_max(in_use, Ordering::Relaxed);
        Some(frame)
    }

    fn take_any(&self) -> Option<Frame> {
        self.take_resident()
            .or_else(|| self.empty.pop(self))
            .or_else(|| self.take_fresh(u32::MAX))
    }

    fn take_resident(&self) -> Option<Frame> {
        self.ready
            .pop(self)
            .or_else(|| self.take_fresh(self.resident.load(Ordering::Relaxed)))
    }

    /// The next fresh frame, if its index is below this.
    fn take_fresh(&self, below: u32) -> Option<Frame> {
        let mut next = self.fresh.load(Ordering::Relaxed);
        // Acquire: a frame below `reserved` has its segment.
        while next < below.min(self.reserved.load(Ordering::Acquire)) {
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
        self.ready.push(self, frame);
        // Release: a thread that finds no copy left finds all frames on their stacks.
        self.in_use.fetch_sub(1, Ordering::Release);
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

    /// Makes sure that at least `free` frames can be taken, as far as the limit allows. Under the ledger's
    /// lock, never in the handler.
    pub fn reserve(&self, free: usize) -> io::Result<()> {
        self.wait_for_aside();
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
    /// that a writer finds them all. While another thread does the same it returns at once.
    pub fn prefault(&self, count: usize, by: Populate) {
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
                .populate(PageRange::new(slot, last), self.page_size, by);
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

    /// Free frames whose memory is resident.
    pub fn free_resident(&self) -> usize {
        let fresh = self.fresh.load(Ordering::Relaxed);
        let pre_faulted = self.resident.load(Ordering::Relaxed).saturating_sub(fresh);
        (self.ready.len.load(Ordering::Relaxed) + pre_faulted) as usize
    }

    /// Waits until no frame is set aside. Under the ledger's lock, so that none is afterwards.
    pub fn wait_for_aside(&self) {
        let none = || self.aside.load(Ordering::Acquire) == 0;
        wait_until(none, || match self.aside.load(Ordering::Relaxed) {
            0 => {}
            seen => sleep_u32(&self.aside, seen),
        });
    }

    /// Sets some free frames aside whose memory is resident, of those beyond `keep`, to be
    /// [given back](Self::give_back). Leaves `pages` that can be taken. Under the ledger's lock.
    pub fn set_aside_resident(&self, keep: usize, pages: usize) -> Option<Aside> {
        let count = self.free_resident().saturating_sub(keep);
        self.set_aside(count, pages, Self::take_resident)
    }

    /// Sets up to `count` free frames aside whose memory was given back, to be
    /// [populated](Self::populate). Leaves `pages` that can be taken. Under the ledger's lock.
    pub fn set_aside_empty(&self, count: usize, pages: usize) -> Option<Aside> {
        self.set_aside(count, pages, |this| this.empty.pop(this))
    }

    fn set_aside(
        &self,
        count: usize,
        pages: usize,
        take: impl Fn(&Self) -> Option<Frame>,
    ) -> Option<Aside> {
        let aside = self.aside.load(Ordering::Relaxed) as usize;
        let spare = self.free().saturating_sub(aside + pages);
        let mut frames: Vec<Frame> = (0..count.min(spare).min(SOME))
            .map_while(|_| take(self))
            .collect();
        if frames.is_empty() {
            return None;
        }
        self.aside.fetch_add(frames.len() as u32, Ordering::Relaxed);
        frames.sort_unstable();
        Some(Aside {
            frames,
            tail: false,
        })
    }

    /// With no copy left, begins again with the first frame, and sets the last of those aside whose memory is
    /// resident, of those beyond `keep`. While no snapshot lives, under the ledger's lock.
    pub fn set_aside_unused(&self, keep: usize) -> Option<Aside> {
        // Acquire: pairs with `put`.
        if self.in_use.load(Ordering::Acquire) > 0 || self.aside.load(Ordering::Acquire) > 0 {
            return None;
        }
        let used = self.fresh.swap(0, Ordering::Relaxed);
        let resident = self.resident.load(Ordering::Relaxed).max(used);
        self.ready.clear();
        self.empty.clear();
        let keep = if self.holes.load(Ordering::Relaxed) {
            0
        } else {
            keep.min(u32::MAX as usize) as u32
        };
        let count = resident.saturating_sub(keep).min(SOME_UNUSED);
        self.resident.store(resident - count, Ordering::Relaxed);
        if count == 0 {
            if resident == 0 {
                self.holes.store(false, Ordering::Relaxed);
            }
            return None;
        }
        self.aside.fetch_add(count, Ordering::Relaxed);
        let frames = (resident - count..resident).map(Frame).collect();
        Some(Aside { frames, tail: true })
    }

    /// Gives the memory of frames that are set aside back to the system.
    pub fn give_back(&self, aside: Aside) {
        if !aside.tail {
            self.holes.store(true, Ordering::Relaxed);
        }
        for (segment, range) in self.runs(&aside) {
            segment.memory.discard(range, self.page_size);
        }
        self.end_aside(aside, &self.empty);
    }

    /// Makes frames that are set aside resident.
    pub fn populate(&self, aside: Aside, by: Populate) {
        for (segment, range) in self.runs(&aside) {
            segment.memory.populate(range, self.page_size, by);
        }
        self.end_aside(aside, &self.ready);
    }

    fn end_aside(&self, aside: Aside, stack: &FreeStack) {
        let count = aside.frames.len() as u32;
        if !aside.tail {
            for frame in aside.frames {
                stack.push(self, frame);
            }
        }
        // Release: a commit that waits for this finds the frames.
        self.aside.fetch_sub(count, Ordering::Release);
        wake_u32(&self.aside);
    }

    /// The runs of neighbours, each within a segment.
    fn runs(&self, aside: &Aside) -> impl Iterator<Item = (&Segment, PageRange)> {
        let number = |frame: &Frame| self.place(frame.0).0;
        let runs = aside
            .frames
            .chunk_by(move |one, next| one.0 + 1 == next.0 && number(one) == number(next));
        runs.map(|run| {
            let (segment, first) = self.locate(run[0]);
            let last = PageIndex::new(first.get() + run.len() - 1);
            (segment, PageRange::new(first, last))
        })
    }

    /// Whether frames are taken and few resident ones are left.
    #[cfg(not(loom))]
    pub fn runs_short(&self) -> bool {
        self.fresh.load(Ordering::Relaxed) > 0 && self.free_resident() < ENOUGH
    }

    /// Frames in use now.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed) as usize
    }

    /// Frames whose memory is resident, in use or free.
    pub fn resident(&self) -> usize {
        self.in_use() + self.free_resident()
    }

    /// For checks while nobody is at work: whether each frame that was ever handed out is in use or free.
    #[cfg(not(loom))]
    pub fn is_complete(&self) -> bool {
        let free = |stack: &FreeStack| stack.len.load(Ordering::Relaxed) as usize;
        let known = self.in_use() + free(&self.ready) + free(&self.empty);
        known == self.fresh.load(Ordering::Relaxed) as usize
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
        store.prefault(1000, Populate::ByCall);
        let taken: Vec<Frame> = std::iter::from_fn(|| store.take()).collect();
        assert_eq!(taken.len(), 5);
        store.put(taken[0]);
        assert!(store.take().is_some());
        assert!(store.take().is_none());
        assert_eq!(store.limit_bytes(), 5 * region::page::size());
    }

    fn give_all_back(store: &Store, aside: impl Fn() -> Option<Aside>) -> usize {
        let mut times = 0;
        while let Some(aside) = aside() {
            store.give_back(aside);
            times += 1;
        }
        times
    }

    #[test]
    fn frames_that_were_given_back_are_usable_again() {
        let store = store(8, 1000);
        store.reserve(1000).unwrap();
        store.prefault(600, Populate::ByTouch);
        assert_eq!(store.free_resident(), 600);
        assert_eq!(give_all_back(&store, || store.set_aside_unused(10)), 2);
        assert_eq!(store.free_resident(), 10);
        let taken: HashSet<Frame> = (0..1000).map(|_| store.take().unwrap()).collect();
        assert_eq!(taken.len(), 1000);
    }

    #[test]
    fn free_frames_are_given_back_while_others_are_in_use() {
        let store = store(8, 500);
        store.reserve(500).unwrap();
        store.prefault(250, Populate::ByTouch);
        let taken: Vec<Frame> = (0..200).map(|_| store.take().unwrap()).collect();
        for frame in &taken[..150] {
            store.put(*frame);
        }
        assert_eq!((store.free_resident(), store.resident()), (200, 250));
        // As many as the arena has pages must remain for writers.
        assert!(store.set_aside_resident(0, 450).is_none());
        give_all_back(&store, || store.set_aside_resident(20, 8));
        assert_eq!((store.free_resident(), store.resident()), (20, 70));
        store.populate(store.set_aside_empty(30, 8).unwrap(), Populate::ByCall);
        assert_eq!(store.free_resident(), 50);
        let again: HashSet<Frame> = (0..450).map(|_| store.take().unwrap()).collect();
        assert_eq!(again.len(), 450);
        assert!(taken[150..].iter().all(|frame| !again.contains(frame)));
        assert!(store.is_complete());
    }

    #[test]
    fn a_reservation_waits_until_no_frame_is_aside() {
        let store = store(8, 40);
        store.reserve(40).unwrap();
        store.prefault(40, Populate::ByCall);
        let aside = store.set_aside_resident(0, 8).unwrap();
        assert_eq!(aside.frames.len(), 32);
        std::thread::scope(|scope| {
            scope.spawn(|| store.give_back(aside));
            store.reserve(40).unwrap();
            assert_eq!(std::iter::from_fn(|| store.take()).count(), 40);
        });
    }

    impl std::hash::Hash for Frame {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
}
