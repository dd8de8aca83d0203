//! Free frames: which of them is taken next, and which of them are resident.
//!
//! Frames are made resident, or their memory is given back, while they are set *aside*, a few at a
//! time: nobody can take them then. So that no writer finds none because of that, as many free
//! frames as the arena has pages are left, and a commit waits until none is aside. Setting aside
//! and waiting are ordered by the ledger's lock; the slow part, a system call, needs no lock.

use std::ops::Range;

use super::Store;
use super::frame::Frame;
use super::segments::Segments;
use crate::page::PageCount;
use crate::sync::{AtomicU32, AtomicU64, Ordering, sleep_u32, wait_until, wake_u32};
use crate::sys::Populate;

/// The most frames that are set aside at a time while writers may need them.
const BATCH: usize = 64;
/// The most frames that are set aside at a time while nobody needs any.
const UNUSED_BATCH: u32 = 512;
/// A thread that reads a snapshot makes more frames resident when fewer than this are.
#[cfg(not(loom))]
const REFILL_BELOW: usize = 512;

/// Free frames that nobody can take until they are given back or populated.
#[must_use = "a commit waits for them"]
pub(crate) struct Aside {
    /// Ascending.
    frames: Vec<Frame>,
    /// They are the last of the resident fresh frames, and become fresh again.
    tail: bool,
}

/// A lock-free stack of free frames, linked through `FrameMeta::older`.
pub(super) struct FreeStack {
    /// `{changes: 32, top: 32}`. The count of changes tells apart a frame that stayed on top from
    /// one that went and came back.
    head: AtomicU64,
    len: AtomicU32,
}

impl FreeStack {
    pub fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            len: AtomicU32::new(0),
        }
    }

    #[inline]
    fn top(head: u64) -> Option<Frame> {
        Frame::decode(head as u32)
    }

    #[inline]
    fn changed(head: u64, top: Option<Frame>) -> u64 {
        ((head >> 32).wrapping_add(1) << 32) | u64::from(Frame::encode(top))
    }

    fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    fn pop(&self, segments: &Segments) -> Option<Frame> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let frame = Self::top(head)?;
            let next = segments.meta(frame).older.load(Ordering::Relaxed);
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

    pub fn push(&self, segments: &Segments, frame: Frame) {
        self.len.fetch_add(1, Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let below = Self::top(head);
            segments.meta(frame).older.store(below, Ordering::Relaxed);
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

    /// Only while nobody pops or pushes.
    fn clear(&self) {
        let head = self.head.load(Ordering::Relaxed);
        self.head
            .store(Self::changed(head, None), Ordering::Relaxed);
        self.len.store(0, Ordering::Relaxed);
    }
}

impl Aside {
    /// The runs of neighbours among the frames, by their indexes.
    fn runs(&self) -> impl Iterator<Item = Range<u32>> {
        self.frames
            .chunk_by(|one, next| one.index() + 1 == next.index())
            .map(|run| run[0].index()..run[run.len() - 1].index() + 1)
    }
}

/// Taking a free frame, in the handler.
impl Store {
    /// The first free frame, in the order of the states (see [`crate::store`]).
    pub(super) fn take_any(&self) -> Option<Frame> {
        self.take_resident()
            .or_else(|| self.empty.pop(&self.segments))
            .or_else(|| self.take_fresh(u32::MAX))
    }

    fn take_resident(&self) -> Option<Frame> {
        self.ready
            .pop(&self.segments)
            .or_else(|| self.take_fresh(self.resident.load(Ordering::Relaxed)))
    }

    /// The next fresh frame, if its index is below this.
    fn take_fresh(&self, below: u32) -> Option<Frame> {
        let mut next = self.fresh.load(Ordering::Relaxed);
        // Acquire: a frame below `reserved` has its segment.
        while next < below.min(self.segments.reserved(Ordering::Acquire)) {
            match self.fresh.compare_exchange_weak(
                next,
                next + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Frame::new(next)),
                Err(now) => next = now,
            }
        }
        None
    }
}

/// Making free frames resident, and giving their memory back. Never in the handler.
impl Store {
    /// Makes fresh frames resident until about `count` free ones are. Takes none of them, so a
    /// writer finds them all. Returns at once while another thread does the same.
    pub fn prefault(&self, count: usize, by: Populate) {
        if self.prefaulting.swap(true, Ordering::Acquire) {
            return;
        }
        let ready = self.ready.len() as usize;
        let fresh = self.fresh.load(Ordering::Relaxed);
        let missing = count.saturating_sub(ready).min(u32::MAX as usize) as u32;
        let end = fresh
            .saturating_add(missing)
            .min(self.segments.reserved(Ordering::Acquire));
        let first = self.resident.load(Ordering::Relaxed).max(fresh);
        self.segments.populate(first..end, by);
        self.resident.fetch_max(end, Ordering::Relaxed);
        self.prefaulting.store(false, Ordering::Release);
    }

    /// In the child of a fork: the thread that was prefaulting is not there.
    #[cfg(not(loom))]
    pub fn forget_prefaulting(&self) {
        self.prefaulting.store(false, Ordering::Release);
    }

    /// Sets some resident free frames aside, of those beyond `keep`, so that they are
    /// [given back](Self::give_back). Leaves `pages` free frames. Under the ledger's lock.
    pub fn set_aside_resident(&self, keep: usize, pages: PageCount) -> Option<Aside> {
        let count = self.free_resident().saturating_sub(keep);
        self.set_aside(count, pages, Self::take_resident)
    }

    /// Sets up to `count` empty frames aside, so that they are [populated](Self::populate). Leaves
    /// `pages` free frames. Under the ledger's lock.
    pub fn set_aside_empty(&self, count: usize, pages: PageCount) -> Option<Aside> {
        self.set_aside(count, pages, |this| this.empty.pop(&this.segments))
    }

    fn set_aside(
        &self,
        count: usize,
        pages: PageCount,
        take: impl Fn(&Self) -> Option<Frame>,
    ) -> Option<Aside> {
        let aside = self.aside.load(Ordering::Relaxed) as usize;
        let spare = self.free().saturating_sub(aside + pages.get());
        let mut frames: Vec<Frame> = (0..count.min(spare).min(BATCH))
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

    /// When no copy is left: makes all frames fresh again, and sets the last resident ones aside,
    /// of those beyond `keep`. While no snapshot lives, under the ledger's lock.
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
        let count = resident.saturating_sub(keep).min(UNUSED_BATCH);
        self.resident.store(resident - count, Ordering::Relaxed);
        if count == 0 {
            if resident == 0 {
                self.holes.store(false, Ordering::Relaxed);
            }
            return None;
        }
        self.aside.fetch_add(count, Ordering::Relaxed);
        let frames = (resident - count..resident).map(Frame::new).collect();
        Some(Aside { frames, tail: true })
    }

    /// Gives the memory of frames that are set aside back to the system.
    pub fn give_back(&self, aside: Aside) {
        if !aside.tail {
            self.holes.store(true, Ordering::Relaxed);
        }
        for run in aside.runs() {
            self.segments.discard(run);
        }
        self.end_aside(aside, &self.empty);
    }

    /// Makes frames that are set aside resident.
    pub fn populate(&self, aside: Aside, by: Populate) {
        for run in aside.runs() {
            self.segments.populate(run, by);
        }
        self.end_aside(aside, &self.ready);
    }

    fn end_aside(&self, aside: Aside, stack: &FreeStack) {
        let count = aside.frames.len() as u32;
        if !aside.tail {
            for frame in aside.frames {
                stack.push(&self.segments, frame);
            }
        }
        // Release: a commit that waits for this finds the frames.
        self.aside.fetch_sub(count, Ordering::Release);
        wake_u32(&self.aside);
    }

    /// Waits until no frame is aside. Under the ledger's lock, so that none is afterwards.
    pub fn wait_for_aside(&self) {
        let none = || self.aside.load(Ordering::Acquire) == 0;
        wait_until(none, || match self.aside.load(Ordering::Relaxed) {
            0 => {}
            seen => sleep_u32(&self.aside, seen),
        });
    }
}

/// How many there are.
impl Store {
    /// Free frames, those that are aside included.
    #[inline]
    pub fn free(&self) -> usize {
        let reserved = self.segments.reserved(Ordering::Relaxed);
        reserved.saturating_sub(self.in_use.load(Ordering::Relaxed)) as usize
    }

    /// Free frames that are resident and not aside.
    pub fn free_resident(&self) -> usize {
        let fresh = self.fresh.load(Ordering::Relaxed);
        let prefaulted = self.resident.load(Ordering::Relaxed).saturating_sub(fresh);
        (self.ready.len() + prefaulted) as usize
    }

    /// Whether frames are being taken and few resident ones are left.
    #[cfg(not(loom))]
    pub fn runs_short(&self) -> bool {
        self.fresh.load(Ordering::Relaxed) > 0 && self.free_resident() < REFILL_BELOW
    }

    /// For checks while nobody is at work: whether each frame that was ever taken is in use or
    /// free.
    #[cfg(not(loom))]
    pub fn is_complete(&self) -> bool {
        let known = self.in_use() + self.ready.len() as usize + self.empty.len() as usize;
        known == self.fresh.load(Ordering::Relaxed) as usize
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;

    use super::super::tests::store;
    use super::*;

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
        assert!(store.set_aside_resident(0, PageCount::new(450)).is_none());
        give_all_back(&store, || store.set_aside_resident(20, PageCount::new(8)));
        assert_eq!((store.free_resident(), store.resident()), (20, 70));
        store.populate(
            store.set_aside_empty(30, PageCount::new(8)).unwrap(),
            Populate::ByCall,
        );
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
        let aside = store.set_aside_resident(0, PageCount::new(8)).unwrap();
        assert_eq!(aside.frames.len(), 32);
        std::thread::scope(|scope| {
            scope.spawn(|| store.give_back(aside));
            store.reserve(40).unwrap();
            assert_eq!(std::iter::from_fn(|| store.take()).count(), 40);
        });
    }
}
