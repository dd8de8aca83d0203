//! Frozen pages on their way out of the process: by system calls, straight from their copies and
//! from live memory.
//!
//! As [reading](crate::cow::read), with the bytes leaving through the kernel: what left from live
//! memory counts if the page words did not change meanwhile. Pages whose words did are written once
//! more, in the same place. So the output must be one that can be overwritten.

use std::io;
use std::ops::Range;

use crate::cow::core::Core;
use crate::cow::read::Place;
use crate::cow::state::ledger::Live;
use crate::cow::state::table::Word;
use crate::page::PageIndex;
use crate::sync::{Ordering, fence};
use crate::sys::Piece;

/// Where frozen bytes go.
pub(crate) trait Output {
    /// Puts the pieces, one after the other, where the snapshot's bytes from `at` on belong, all of
    /// them, and over what was put there before. When it returns, the pieces are not looked at any
    /// more.
    fn put(&mut self, at: usize, pieces: &[Piece<'_>]) -> io::Result<()>;
}

impl Core {
    /// Puts bytes as they were at the snapshot. They count when this has returned `Ok`: until then,
    /// and after an error, any of them may be newer.
    pub fn write_out(
        &self,
        snapshot: &Live,
        bytes: &Range<usize>,
        output: &mut impl Output,
    ) -> io::Result<()> {
        let Some(pages) = self.page_size.pages_of(bytes) else {
            return Ok(());
        };
        let mut left: Vec<PageIndex> = pages.iter().collect();
        let mut all_saved = true;
        while !left.is_empty() {
            let mut live = Vec::new();
            for run in left.chunk_by(|a, b| a.get() + 1 == b.get()) {
                self.put_run(snapshot, run, bytes, output, &mut live)?;
            }
            all_saved &= live.is_empty();
            // Orders the kernel's loads above before the loads below (a sequence lock's reader).
            fence(Ordering::Acquire);
            live.retain(|(page, word)| self.table.load(*page) != *word);
            self.counters.reader_retries(live.len());
            left = live.into_iter().map(|(page, _)| page).collect();
        }
        if !all_saved {
            self.confirm()?;
        }
        Ok(())
    }

    /// Puts those of the bytes that lie in these pages, which lie side by side. Adds to `live` the
    /// pages whose bytes came from live memory, with the words that they had before.
    fn put_run(
        &self,
        snapshot: &Live,
        run: &[PageIndex],
        bytes: &Range<usize>,
        output: &mut impl Output,
        live: &mut Vec<(PageIndex, Word)>,
    ) -> io::Result<()> {
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        let within = |page: PageIndex| {
            let start = self.page_size.offset_of(page);
            bytes.start.max(start)..bytes.end.min(start + self.page_size.bytes())
        };
        for page in run {
            let part = within(*page);
            let piece = match self.find(snapshot, *page)? {
                Place::Copy(frame) => {
                    let start = self.page_size.offset_of(*page);
                    self.store
                        .piece(frame, part.start - start..part.end - start)
                }
                Place::Live(word) => {
                    live.push((*page, word));
                    Piece {
                        memory: self.engine.memory(),
                        start: part.start,
                        len: part.len(),
                    }
                }
            };
            if !pieces.last_mut().is_some_and(|last| last.join(&piece)) {
                pieces.push(piece);
            }
        }
        output.put(within(run[0]).start, &pieces)
    }
}
