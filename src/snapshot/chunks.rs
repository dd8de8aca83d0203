//! A snapshot's bytes for whoever saves all of them: what is touched, in pieces, each confirmed.

use std::ops::Range;

use crate::cow::supply::Refill;
use crate::error::Result;
use crate::snapshot::Snapshot;
use crate::snapshot::touched::Touched;

/// What one thread that goes through a snapshot once keeps meanwhile.
pub(crate) struct Chunks<'a> {
    snapshot: &'a Snapshot,
    touched: Touched,
    /// Of all pages in order: see there.
    refill: Option<Refill>,
}

impl Snapshot {
    pub(crate) fn chunks(&self) -> Chunks<'_> {
        Chunks {
            snapshot: self,
            touched: Touched::default(),
            refill: Some(Refill::default()),
        }
    }

    /// The same for some pages: that takes too short a time to help writers meanwhile.
    pub(crate) fn few_chunks(&self) -> Chunks<'_> {
        Chunks {
            refill: None,
            ..self.chunks()
        }
    }
}

impl<'a> Chunks<'a> {
    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// The first pages from `page` on, in a row, that may hold something other than zeros; a long
    /// row comes in pieces. `None` when there are none.
    pub fn next_touched(&mut self, page: usize) -> Option<Range<usize>> {
        self.touched.next_from(self.snapshot, page)
    }

    /// The bytes of these pages, one slice for each range: where they are frozen, or else read into
    /// the buffer, whose old contents go.
    pub fn read<'b>(
        &mut self,
        ranges: &[Range<usize>],
        buffer: &'b mut Vec<u8>,
    ) -> Result<Vec<&'b [u8]>>
    where
        'a: 'b,
    {
        let page_size = self.snapshot.page_size();
        let bytes_of = |pages: &Range<usize>| pages.start * page_size..pages.end * page_size;
        if let Some(frozen) = self.snapshot.frozen() {
            let bytes = ranges.iter().map(|pages| &frozen[bytes_of(pages)]);
            return Ok(bytes.collect());
        }
        buffer.resize(ranges.iter().map(|pages| pages.len() * page_size).sum(), 0);
        let mut rest = &mut buffer[..];
        let mut all_saved = true;
        for pages in ranges {
            let (now, later) = rest.split_at_mut(pages.len() * page_size);
            all_saved &= self
                .snapshot
                .read_unconfirmed(pages.start * page_size, now)?;
            if let Some(refill) = &mut self.refill {
                refill.after(pages.len(), self.snapshot.core());
            }
            rest = later;
        }
        if !all_saved {
            self.snapshot.confirm()?;
        }
        let mut rest = &buffer[..];
        let bytes = ranges.iter().map(|pages| {
            let (now, later) = rest.split_at(pages.len() * page_size);
            rest = later;
            now
        });
        Ok(bytes.collect())
    }

    /// `Err` when the snapshot can not be read any more, as zeros neither.
    pub fn check(&self) -> Result<()> {
        self.snapshot.check()
    }
}
