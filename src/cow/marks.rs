//! Marks: what was stored since a point in time, without a copy of what was there.
//!
//! Nothing is kept for it. A mark has the epoch of a snapshot that lived when it was made, whose
//! commit armed all pages; a page that is opened later gets the current epoch into its word, which
//! is not older. So a page whose word is older than the mark was not stored to since.
//!
//! Only opening the whole arena at once changes no word; it is noted by itself.

// They order nothing, so they are plain in models too.
use std::sync::atomic::{AtomicU32 as Plain32, AtomicU64 as Plain64};

use crate::cow::core::Core;
use crate::cow::state::ledger::Live;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::page::PageIndex;
use crate::sync::Ordering;

pub(super) struct Marks {
    /// How many live.
    count: Plain32,
    /// The epoch in which all pages were last opened at once, for no store.
    all_opened: Plain64,
}

impl Marks {
    pub const fn none() -> Self {
        Self {
            count: Plain32::new(0),
            all_opened: Plain64::new(0),
        }
    }

    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    pub fn all_opened(&self, epoch: Epoch) {
        self.all_opened.store(epoch.get(), Ordering::Relaxed);
    }

    fn is_lost(&self, mark: Epoch) -> bool {
        self.all_opened.load(Ordering::Relaxed) >= mark.get()
    }
}

impl Core {
    /// A mark begins, at a snapshot that lives.
    pub fn begin_mark(&self) {
        self.marks.count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end_mark(&self) {
        self.marks.count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Pages that were opened after the mark of this epoch, ascending: at least those that were
    /// stored to.
    pub fn changed_since_mark(&self, mark: Epoch) -> Vec<PageIndex> {
        let is_lost = self.marks.is_lost(mark);
        let pages = self.all_pages().iter();
        pages
            .filter(|page| is_lost || self.table.load(*page).epoch() >= mark)
            .collect()
    }

    /// The same, of those that were opened before a snapshot that is newer than the mark.
    pub fn changed_until(&self, mark: Epoch, newer: &Live) -> Result<Vec<PageIndex>> {
        let is_lost = self.marks.is_lost(mark);
        let was_opened = |page: PageIndex| {
            let word = self.table.load(page);
            if word.epoch() < newer.epoch {
                return word.epoch() >= mark;
            }
            // Since the snapshot, too. Its copy says when before.
            let copy = self.versions.find(&self.store, page, newer.epoch);
            copy.is_none_or(|copy| self.store.meta(copy).after() >= mark)
        };
        let pages = self.all_pages().iter();
        let pages = pages.filter(|page| is_lost || was_opened(*page)).collect();
        self.confirm()?;
        self.check(newer)?;
        Ok(pages)
    }
}
