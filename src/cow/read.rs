//! Reading a frozen page: from its copy when it has one, else from live memory.
//!
//! Live memory is copied without a claim, so that readers never hold up writers, and what was
//! copied counts only if the page word did not change meanwhile: a thread that opens a page claims
//! it first, and gives it a newer epoch before the claim ends.

use crate::cow::core::Core;
use crate::cow::state::ledger::Live;
use crate::cow::state::table::Word;
use crate::error::{Error, Result};
use crate::page::PageIndex;
use crate::store::Frame;
use crate::sync::{Ordering, fence};

/// Where a snapshot finds a page.
pub(super) enum Place {
    Copy(Frame),
    /// In live memory, for as long as the page word stays this one.
    Live(Word),
}

impl Core {
    /// Reads bytes of a page, from `offset` within it, as they were at the snapshot. Returns
    /// whether they came from a copy. If not, they count once [`confirm`](Self::confirm) has said
    /// so.
    pub fn read(
        &self,
        snapshot: &Live,
        page: PageIndex,
        offset: usize,
        into: &mut [u8],
    ) -> Result<bool> {
        debug_assert!(offset + into.len() <= self.page_size.bytes());
        loop {
            match self.find(snapshot, page)? {
                Place::Copy(frame) => {
                    self.store.read(frame, offset, into);
                    return Ok(true);
                }
                Place::Live(word) => {
                    let start = self.page_size.offset_of(page) + offset;
                    self.engine.memory().read(start, into);
                    if self.is_still(page, word) {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Whether what was loaded from a page of live memory counts: its word is the one that was
    /// found before.
    pub(super) fn is_still(&self, page: PageIndex, word: Word) -> bool {
        // Orders the loads before the load below (a sequence lock's reader).
        fence(Ordering::Acquire);
        let is_still = self.table.load(page) == word;
        if !is_still {
            self.counters.reader_retry();
        }
        is_still
    }

    /// The frame that holds a page's bytes, pinned while the snapshot lives; `None` while the page
    /// is unwritten and the bytes are in live memory only.
    pub fn saved_frame(&self, snapshot: &Live, page: PageIndex) -> Result<Option<Frame>> {
        match self.find(snapshot, page)? {
            Place::Copy(frame) => Ok(Some(frame)),
            Place::Live(_) => Ok(None),
        }
    }

    /// Where the snapshot finds the page now. Waits while it is there no more, and not yet in a
    /// copy.
    pub(super) fn find(&self, snapshot: &Live, page: PageIndex) -> Result<Place> {
        loop {
            // In this order: a word that was raised after the snapshot failed tells that it has.
            let word = self.table.load(page);
            self.check(snapshot)?;
            if word.epoch() >= snapshot.epoch {
                let copy = self
                    .versions
                    .find(&self.store, page, snapshot.epoch)
                    .map(Place::Copy);
                return copy.ok_or_else(|| {
                    debug_assert!(self.has_failed(snapshot), "a copy is missing");
                    self.failure(snapshot)
                });
            }
            if !word.is_claimed() {
                return Ok(Place::Live(word));
            }
            self.table.wait_free(page);
        }
    }

    /// The bytes of a copy, which do not change while the snapshot lives that it was found for.
    #[cfg(not(loom))]
    pub fn copy(&self, frame: Frame) -> *const u8 {
        self.store.bytes(frame)
    }

    /// Asks the engine whether the pages were protected until now. What was read from live memory
    /// before is as good as that (invariant 8). A system call, so after several pages rather than
    /// after each.
    pub fn confirm(&self) -> Result<()> {
        self.engine.check()
    }

    /// Whether a snapshot has lost a page, or its engine, and so may not be read any more.
    pub fn has_failed(&self, snapshot: &Live) -> bool {
        self.losses.has_hit(snapshot) || self.engine.is_lost()
    }

    /// Whether the snapshot can still be read.
    pub fn check(&self, snapshot: &Live) -> Result<()> {
        if self.has_failed(snapshot) {
            return Err(self.failure(snapshot));
        }
        Ok(())
    }

    /// Why a snapshot has failed.
    fn failure(&self, snapshot: &Live) -> Error {
        if let Err(error) = self.confirm() {
            return error;
        }
        Error::StoreExhausted {
            snapshot: snapshot.epoch.get(),
            limit: self.store.limit_bytes(),
        }
    }
}
