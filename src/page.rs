//! Pages: their size, their numbers, ranges of them. Pure arithmetic.

use std::ops::{Bound, Range, RangeBounds};

use crate::error::{Error, Result};

/// Size of one page, a power of two, asked of the system at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageSize {
    shift: u32,
}

/// Number of a page within its arena, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageIndex(u32);

/// How many pages something has: an arena, a range, a segment of the store. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageCount(u32);

/// A run of neighbouring pages, never empty: from `start` up to but not including `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRange {
    start: u32,
    end: u32,
}

/// Most pages that one arena may have: page numbers fit `u32` with room for "one past the end".
pub(crate) const MAX_PAGES: usize = (u32::MAX - 1) as usize;

/// The bytes that a range means in an arena of `len` bytes.
pub(crate) fn bytes_within(range: &impl RangeBounds<usize>, len: usize) -> Result<Range<usize>> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    if start > end || end > len {
        return Err(Error::OutOfBounds { start, end, len });
    }
    Ok(start..end)
}

impl PageSize {
    /// A page size of `bytes`, or `None` when that is not a power of two.
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes.is_power_of_two() {
            Some(Self {
                shift: bytes.trailing_zeros(),
            })
        } else {
            None
        }
    }

    /// The system's page size.
    #[cfg(not(loom))]
    pub fn host() -> Self {
        Self::new(region::page::size()).expect("page sizes are powers of two")
    }

    pub const fn bytes(self) -> usize {
        1 << self.shift
    }

    /// Pages that one table of page-table entries covers, and that a huge page replaces. In models,
    /// whose pages hold a few bytes, two.
    pub const fn pages_of_table(self) -> usize {
        if cfg!(loom) {
            2
        } else {
            self.bytes() / size_of::<u64>()
        }
    }

    /// Pages that hold `len` bytes, or `None` when `len` is zero or the count is over
    /// [`MAX_PAGES`].
    pub const fn count_for(self, len: usize) -> Option<PageCount> {
        let pages = len.div_ceil(self.bytes());
        if pages == 0 || pages > MAX_PAGES {
            None
        } else {
            Some(PageCount(pages as u32))
        }
    }

    /// The page that the byte `offset` of an arena lies in.
    pub const fn page_of(self, offset: usize) -> PageIndex {
        PageIndex((offset >> self.shift) as u32)
    }

    /// The byte offset of the start of `page`.
    pub const fn offset_of(self, page: PageIndex) -> usize {
        (page.0 as usize) << self.shift
    }

    /// The pages that the non-empty byte range touches.
    pub fn pages_of(self, bytes: &Range<usize>) -> Option<PageRange> {
        if bytes.is_empty() {
            return None;
        }
        let end = self.page_of(bytes.end - 1).get() + 1;
        Some(PageRange::from(self.page_of(bytes.start).get()..end))
    }
}

impl PageCount {
    /// The caller knows that there are that many.
    pub const fn new(count: usize) -> Self {
        debug_assert!(count > 0 && count <= MAX_PAGES);
        Self(count as u32)
    }

    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl PageIndex {
    /// Page number `index` of an arena of `count` pages, or `None` beyond its end.
    pub const fn checked(index: usize, count: PageCount) -> Option<Self> {
        if index < count.get() {
            Some(Self(index as u32))
        } else {
            None
        }
    }

    /// Page number `index`; the caller knows that it exists.
    pub const fn new(index: usize) -> Self {
        debug_assert!(index < MAX_PAGES);
        Self(index as u32)
    }

    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// The neighbour below, if there is one.
    pub fn below(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
}

impl PageRange {
    /// All pages of an arena of `count` pages.
    pub const fn all(count: PageCount) -> Self {
        Self {
            start: 0,
            end: count.0,
        }
    }

    /// The first page.
    pub const fn first(self) -> PageIndex {
        PageIndex(self.start)
    }

    /// Number of the first page.
    pub const fn start(self) -> usize {
        self.start as usize
    }

    /// One more than the number of the last page.
    pub const fn end(self) -> usize {
        self.end as usize
    }

    pub const fn count(self) -> PageCount {
        PageCount(self.end - self.start)
    }

    pub fn iter(self) -> impl Iterator<Item = PageIndex> {
        (self.start..self.end).map(PageIndex)
    }

    /// Its parts that lie in one aligned block of `size` pages each, with the block's number.
    pub fn parts(self, size: usize) -> impl Iterator<Item = (usize, Self)> {
        (self.start() / size..self.end().div_ceil(size)).map(move |block| {
            let (start, end) = (block * size, block * size + size);
            (
                block,
                Self::from(self.start().max(start)..self.end().min(end)),
            )
        })
    }
}

/// Puts a page that comes after all of these runs at their end.
pub(crate) fn push_page(runs: &mut Vec<PageRange>, page: PageIndex) {
    match runs.last_mut() {
        Some(run) if run.end == page.0 => run.end += 1,
        _ => runs.push(page.into()),
    }
}

impl From<PageIndex> for PageRange {
    fn from(page: PageIndex) -> Self {
        Self::from(page.get()..page.get() + 1)
    }
}

impl From<Range<usize>> for PageRange {
    /// The caller knows that the pages exist.
    fn from(pages: Range<usize>) -> Self {
        debug_assert!(pages.start < pages.end && pages.end <= MAX_PAGES);
        Self {
            start: pages.start as u32,
            end: pages.end as u32,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_and_refuse_nothing_and_too_much() {
        for bytes in [4096, 16384, 65536] {
            let size = PageSize::new(bytes).unwrap();
            assert_eq!(size.count_for(0), None);
            assert_eq!(size.count_for(1), Some(PageCount::new(1)));
            assert_eq!(size.count_for(bytes), Some(PageCount::new(1)));
            assert_eq!(size.count_for(bytes + 1), Some(PageCount::new(2)));
            assert_eq!(
                size.count_for(bytes * MAX_PAGES),
                Some(PageCount::new(MAX_PAGES))
            );
            assert_eq!(size.count_for(bytes * MAX_PAGES + 1), None);
            assert_eq!(size.count_for(usize::MAX), None);
        }
        assert_eq!(PageSize::new(0), None);
        assert_eq!(PageSize::new(5000), None);
    }

    #[test]
    fn a_byte_range_touches_the_pages_of_its_first_and_last_byte() {
        let size = PageSize::new(4096).unwrap();
        let pages = |bytes: Range<usize>| {
            size.pages_of(&bytes)
                .map(|range| range.start()..range.end())
        };
        assert_eq!(pages(0..0), None);
        assert_eq!(pages(0..1), Some(0..1));
        assert_eq!(pages(4095..4096), Some(0..1));
        assert_eq!(pages(4095..4097), Some(0..2));
        assert_eq!(pages(4096..12288), Some(1..3));
    }

    #[test]
    fn parts_lie_in_one_block_each_and_leave_nothing_out() {
        let parts = |pages: Range<usize>| {
            let parts = PageRange::from(pages).parts(10);
            let parts = parts.map(|(block, part)| (block, part.start()..part.end()));
            parts.collect::<Vec<_>>()
        };
        assert_eq!(parts(0..10), [(0, 0..10)]);
        assert_eq!(parts(9..11), [(0, 9..10), (1, 10..11)]);
        assert_eq!(parts(13..31), [(1, 13..20), (2, 20..30), (3, 30..31)]);
    }

    #[test]
    fn neighbours_stop_at_both_ends() {
        assert_eq!(PageIndex::new(0).below(), None);
        assert_eq!(PageIndex::new(1).below(), Some(PageIndex::new(0)));
        assert_eq!(
            PageIndex::checked(1, PageCount::new(2)),
            Some(PageIndex::new(1))
        );
        assert_eq!(PageIndex::checked(2, PageCount::new(2)), None);
    }
}
