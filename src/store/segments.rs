//! Where frames live: segments of address space, each twice as long as the one before.
//!
//! Segments are added outside the handler, before each commit, and stay until the arena goes. Their
//! memory is resident only where it is touched. Segment `k` holds `first << k` frames, so a frame's
//! place follows from its index; the limit cuts off the last segment.

use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use super::frame::{Frame, FrameMeta};
use crate::page::{PageCount, PageIndex, PageRange, PageSize};
use crate::sync::{AtomicU32, Ordering};
use crate::sys::{self, Memory, Populate, Zeroed};

pub(super) struct Segment {
    pub(super) memory: Memory,
    metas: Zeroed<FrameMeta>,
}

pub(super) struct Segments {
    page_size: PageSize,
    /// The most frames that may ever be reserved.
    limit: u32,
    /// Frames of the first segment: a power of two, at least twice the arena's pages.
    first: u32,
    segments: [OnceLock<Segment>; 32],
    /// Frames that have a segment: those of a lower index.
    reserved: AtomicU32,
}

impl Segment {
    #[inline]
    pub fn meta(&self, slot: PageIndex) -> &FrameMeta {
        &self.metas[slot.get()]
    }
}

impl Segments {
    /// For an arena of `pages` pages; never more than `limit` bytes.
    pub fn new(page_size: PageSize, pages: PageCount, limit: usize) -> Self {
        let limit = (limit / page_size.bytes()).min(u32::MAX as usize - 1);
        Self {
            page_size,
            limit: limit as u32,
            first: (pages.get().saturating_mul(2).min(1 << 31) as u32).next_power_of_two(),
            segments: [const { OnceLock::new() }; 32],
            reserved: AtomicU32::new(0),
        }
    }

    #[inline]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The limit, in frames.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// How many frames have a segment. With Acquire the caller may use each of them.
    #[inline]
    pub fn reserved(&self, order: Ordering) -> u32 {
        self.reserved.load(order)
    }

    /// Adds segments until at least `wanted` frames, or as many as the limit allows, are reserved.
    /// One caller at a time.
    pub fn reserve(&self, wanted: u32) -> io::Result<()> {
        let wanted = wanted.min(self.limit);
        let mut reserved = self.reserved.load(Ordering::Relaxed);
        while reserved < wanted {
            let (number, _) = self.place(reserved);
            let count = u64::from(self.first) << number;
            let frames = count.min(u64::from(self.limit - reserved)) as u32;
            let segment = Segment {
                memory: Memory::new(PageCount::new(frames as usize), self.page_size)?
                    .in_small_pages(),
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

    /// The segment of a frame, and the frame's slot in it.
    #[inline]
    pub fn locate(&self, frame: Frame) -> (&Segment, PageIndex) {
        let (number, slot) = self.place(frame.index());
        match self.segments[number].get() {
            Some(segment) => (segment, PageIndex::new(slot)),
            // A frame is made from an index below `reserved` only.
            None => sys::die("pagecow: a frame outside the store; this is a bug\n"),
        }
    }

    #[inline]
    pub fn meta(&self, frame: Frame) -> &FrameMeta {
        let (segment, slot) = self.locate(frame);
        segment.meta(slot)
    }

    /// Makes the frames of these indexes resident.
    pub fn populate(&self, indexes: Range<u32>, by: Populate) {
        for (segment, slots) in self.pieces(indexes) {
            segment.memory.populate(slots, self.page_size, by);
        }
    }

    /// Gives the memory of the frames of these indexes back to the system.
    pub fn discard(&self, indexes: Range<u32>) {
        for (segment, slots) in self.pieces(indexes) {
            segment.memory.discard(slots, self.page_size);
        }
    }

    /// What is known of the frames of these indexes.
    pub fn metas(&self, indexes: Range<u32>) -> impl Iterator<Item = &FrameMeta> {
        let pieces = self.pieces(indexes);
        pieces.flat_map(|(segment, slots)| &segment.metas[slots.start()..slots.end()])
    }

    /// The parts of a run of frames, each within one segment.
    fn pieces(&self, indexes: Range<u32>) -> impl Iterator<Item = (&Segment, PageRange)> {
        let mut next = indexes.start;
        std::iter::from_fn(move || {
            if next >= indexes.end {
                return None;
            }
            let count = (indexes.end - next).min(self.left_in_segment(next));
            let (segment, first) = self.locate(Frame::new(next));
            let slots = first.get()..first.get() + count as usize;
            next += count;
            Some((segment, PageRange::from(slots)))
        })
    }

    /// Number of the segment and slot in it.
    #[inline]
    fn place(&self, index: u32) -> (usize, usize) {
        let shifted = u64::from(index) + u64::from(self.first);
        let number = shifted.ilog2() - self.first.ilog2();
        let start = u64::from(self.first) << number;
        (number as usize, (shifted - start) as usize)
    }

    /// Frames from `index` on in its segment, those that the limit has cut off included.
    fn left_in_segment(&self, index: u32) -> u32 {
        let (number, slot) = self.place(index);
        let count = u64::from(self.first) << number;
        (count - slot as u64).min(u64::from(u32::MAX)) as u32
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_frame_has_a_place_of_its_own() {
        let segments = Segments::new(PageSize::host(), PageCount::new(3), usize::MAX);
        segments.reserve(50).unwrap();
        let places: HashSet<_> = (0..50).map(|index| segments.place(index)).collect();
        assert_eq!(places.len(), 50);
        let slots = |indexes| -> Vec<usize> {
            let pieces = segments.pieces(indexes);
            pieces.map(|(_, slots)| slots.count().get()).collect()
        };
        // Segments of 8, 16, 32 frames.
        assert_eq!(slots(0..8), [8]);
        assert_eq!(slots(5..25), [3, 16, 1]);
        assert_eq!(slots(7..7), []);
    }
}
