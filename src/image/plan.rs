//! Which pages of a snapshot go into an image, in order, some at a time.

use std::ops::Range;
use std::vec;

use crate::image::error::Result;
use crate::image::id::Id;
use crate::image::watch::Progress;
use crate::snapshot::chunks::Chunks;
use crate::snapshot::{Since, Snapshot};

/// How many bytes are read, summed and written at a time: they stay in the processor's cache
/// meanwhile.
const SOME: usize = 256 << 10;

/// Some pages, and how many have been dealt with once they are.
pub(super) struct Part {
    pub ranges: Vec<Range<usize>>,
    pub done: u64,
}

pub(super) struct Plan<'a> {
    chunks: Chunks<'a>,
    pages: Pages,
    /// Named by `pages`, and not part of anything yet.
    rest: Range<usize>,
    most: usize,
    done: u64,
    total: u64,
}

enum Pages {
    /// Those from this one on that may hold something.
    Touched(usize),
    Changed(vec::IntoIter<Range<usize>>),
}

/// The pages of a delta, and what it applies to. Since a snapshot they are those that differ; a
/// mark has no bytes to compare with.
fn changed_pages(snapshot: &Snapshot, since: Since<'_>) -> Result<(Vec<Range<usize>>, Id)> {
    let pages = match since {
        Since::Snapshot(older) => snapshot.pages_that_differ(older)?,
        since => snapshot.changed_since(since)?,
    };
    // They are of one arena.
    let parent = Id {
        snapshot: since.number(),
        ..Id::of(snapshot)?
    };
    Ok((pages, parent))
}

impl<'a> Plan<'a> {
    /// All pages that may hold something.
    pub fn full(snapshot: &'a Snapshot) -> Self {
        Self::new(
            snapshot.chunks(),
            Pages::Touched(0),
            snapshot.page_count() as u64,
        )
    }

    /// Those that changed, and since what.
    pub fn delta(snapshot: &'a Snapshot, since: Since<'_>) -> Result<(Self, Id)> {
        let (pages, parent) = changed_pages(snapshot, since)?;
        let total = pages.iter().map(|range| range.len() as u64).sum();
        let pages = Pages::Changed(pages.into_iter());
        let plan = Self::new(snapshot.few_chunks(), pages, total);
        Ok((plan, parent))
    }

    fn new(chunks: Chunks<'a>, pages: Pages, total: u64) -> Self {
        Self {
            most: (SOME / chunks.snapshot().page_size()).max(1),
            chunks,
            pages,
            rest: 0..0,
            done: 0,
            total,
        }
    }

    pub fn snapshot(&self) -> &'a Snapshot {
        self.chunks.snapshot()
    }

    /// The next pages, at most some; `None` when all were named.
    pub fn next_part(&mut self) -> Option<Part> {
        let mut ranges = Vec::new();
        let mut room = self.most;
        while room > 0 {
            if self.rest.is_empty() {
                let Some(next) = self.next_range() else { break };
                self.rest = next;
            }
            let end = self.rest.end.min(self.rest.start + room);
            ranges.push(self.rest.start..end);
            room -= end - self.rest.start;
            self.rest.start = end;
        }
        let last = ranges.last()?.end as u64;
        match self.pages {
            Pages::Touched(_) => self.done = last,
            Pages::Changed(_) => self.done += (self.most - room) as u64,
        }
        Some(Part {
            ranges,
            done: self.done,
        })
    }

    fn next_range(&mut self) -> Option<Range<usize>> {
        match &mut self.pages {
            Pages::Touched(next) => {
                let range = self.chunks.next_touched(*next)?;
                *next = range.end;
                Some(range)
            }
            Pages::Changed(ranges) => ranges.next(),
        }
    }

    /// The bytes of a part, one slice for each range.
    pub fn read<'b>(&mut self, part: &Part, buffer: &'b mut Vec<u8>) -> Result<Vec<&'b [u8]>>
    where
        'a: 'b,
    {
        Ok(self.chunks.read(&part.ranges, buffer)?)
    }

    /// `Err` when pages that were never touched can not be said to be zeros.
    pub fn check(&self) -> Result<()> {
        Ok(self.chunks.check()?)
    }

    /// How far it is when this many pages have been dealt with.
    pub fn progress(&self, pages_done: u64, bytes_written: u64) -> Progress {
        Progress {
            pages_done,
            pages_total: self.total,
            bytes_written,
        }
    }

    pub fn end(&self, bytes_written: u64) -> Progress {
        self.progress(self.total, bytes_written)
    }
}
