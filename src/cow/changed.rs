//! Which pages were written between two snapshots, and since one: those that have copies for it.
//!
//! The copies are found on the lists of the snapshots that live ([`crate::store::versions`]), so
//! that it costs time for these alone, however many there are of others, or were. While the lists
//! are walked no snapshot is released: then copies are only added, at the beginning of the newest
//! one's list, and none moves from list to list.

use std::ops::RangeBounds;

use crate::cow::core::Core;
#[cfg(not(loom))]
use crate::cow::read::Place;
use crate::cow::state::ledger::Live;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::page::PageIndex;
use crate::store::{Frame, FrameMeta};
use crate::sync::lock;

impl Core {
    /// Pages that were opened between two live snapshots, ascending.
    pub fn changed_between(&self, older: &Live, newer: &Live) -> Result<Vec<PageIndex>> {
        let pages = self.copies_between(older, newer).into_iter();
        self.settled(pages.map(|(page, _)| page).collect(), &[older, newer])
    }

    /// Pages that were opened after a live snapshot, up to now, ascending: those of which it has a
    /// copy.
    pub fn changed_since(&self, snapshot: &Live) -> Result<Vec<PageIndex>> {
        let mut pages = Vec::new();
        self.for_copies_of(snapshot, snapshot.epoch.., |_, meta| {
            pages.push(meta.page())
        });
        pages.sort_unstable();
        self.settled(pages, &[snapshot])
    }

    /// Copies that serve a live snapshot.
    pub fn copies_of(&self, snapshot: &Live) -> usize {
        let mut count = 0;
        self.for_copies_of(snapshot, snapshot.epoch.., |_, _| count += 1);
        count
    }

    /// Calls `found` with each copy that serves a live snapshot, and is on the list of one of these
    /// epochs.
    fn for_copies_of(
        &self,
        snapshot: &Live,
        lists: impl RangeBounds<Epoch>,
        mut found: impl FnMut(Frame, &FrameMeta),
    ) {
        let _no_release = lock(&self.reclaim);
        for mut next in self.lists_of(lists) {
            while let Some(frame) = next {
                let meta = self.store.meta(frame);
                if meta.serves(snapshot.epoch.get()) {
                    found(frame, meta);
                }
                next = meta.next_listed();
            }
        }
    }

    /// The first copies on the lists of the live snapshots of these epochs.
    fn lists_of(&self, epochs: impl RangeBounds<Epoch>) -> Vec<Option<Frame>> {
        let ledger = self.ledger();
        let newest = ledger.live.last().map(|entry| entry.snapshot.epoch);
        let live = ledger.live.iter();
        let entries = live.filter(|entry| epochs.contains(&entry.snapshot.epoch));
        let list = entries.map(|entry| {
            if Some(entry.snapshot.epoch) == newest {
                self.versions.saved()
            } else {
                entry.saved
            }
        });
        list.collect()
    }

    /// These pages, as long as the snapshots can be read.
    fn settled(&self, pages: Vec<PageIndex>, snapshots: &[&Live]) -> Result<Vec<PageIndex>> {
        self.confirm()?;
        for snapshot in snapshots {
            self.check(snapshot)?;
        }
        Ok(pages)
    }

    /// The pages whose bytes differ between two live snapshots, ascending.
    #[cfg(not(loom))]
    pub fn differing_between(&self, older: &Live, newer: &Live) -> Result<Vec<PageIndex>> {
        let mut pages = Vec::new();
        for (page, before) in self.copies_between(older, newer) {
            if self.is_different(before, newer, page)? {
                pages.push(page);
            }
        }
        self.settled(pages, &[older, newer])
    }

    /// Whether a page differs between a copy and a snapshot; as good as the next
    /// [`confirm`](Self::confirm).
    #[cfg(not(loom))]
    fn is_different(&self, before: Frame, newer: &Live, page: PageIndex) -> Result<bool> {
        loop {
            let word = match self.find(newer, page)? {
                Place::Copy(after) => return Ok(self.store.copies_differ(before, after)),
                Place::Live(word) => word,
            };
            let differs = self.store.differs(before, self.engine.memory());
            if self.is_still(page, word) {
                return Ok(differs);
            }
        }
    }

    /// The pages that were opened between two live snapshots, ascending, each with the copy that
    /// serves `older`, which stays while that one lives.
    ///
    /// Such a page was saved while `older` lived and `newer` was not yet there: the copy does not
    /// serve `newer`, so it is on an older one's list.
    fn copies_between(&self, older: &Live, newer: &Live) -> Vec<(PageIndex, Frame)> {
        let mut copies = Vec::new();
        self.for_copies_of(older, older.epoch..newer.epoch, |frame, meta| {
            copies.push((meta.page(), frame));
        });
        copies.sort_unstable();
        copies
    }
}
