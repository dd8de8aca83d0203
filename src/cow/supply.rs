//! Supplying the store with frames: address space before a commit, resident frames ahead of the
//! writers, and memory of free frames back to the system.

use crate::cow::core::Core;
use crate::cow::state::ledger::Ledger;
use crate::error::{Error, Result};

/// Frames to make resident while a snapshot is prepared.
const FEW_FRAMES: usize = 256;
/// Free frames that always stay resident: fewer are not worth a call.
pub(super) const KEPT_FRAMES: usize = 1024;
/// Frames that a commit itself makes resident, and at most one for each `PAGES_PER_FRAME` pages of
/// the arena. More are made resident while pages are armed ahead.
const FIRST_PREFAULT: usize = 64;
const PAGES_PER_FRAME: usize = 16;

/// Each time a thread has read this many pages in order, it checks whether resident frames run
/// short, and makes `REFILL_FRAMES` more resident.
#[cfg(not(loom))]
const REFILL_EVERY: usize = 16;
#[cfg(not(loom))]
const REFILL_FRAMES: usize = 32;

/// Counts the pages that one thread reads in order, and refills the store as it goes.
#[cfg(not(loom))]
#[derive(Clone, Debug, Default)]
pub(crate) struct Refill {
    pages: usize,
}

#[cfg(not(loom))]
impl Refill {
    /// Some more pages were read.
    pub fn after(&mut self, pages: usize, core: &Core) {
        self.pages += pages;
        while self.pages >= REFILL_EVERY {
            self.pages -= REFILL_EVERY;
            if core.store.runs_short() {
                core.prefault(core.store.free_resident() + REFILL_FRAMES);
            }
        }
    }
}

impl Core {
    /// Reserves address space for the copies that writers may need after the next commit, and makes
    /// a few frames resident. Both take too long for the commit itself.
    pub(super) fn reserve_with(&self, ledger: &Ledger) -> Result<()> {
        // Twice the pages: as many may be saved before the gate is closed, and as many after.
        let frames = self.pages.get() * 2;
        self.store
            .reserve(frames)
            .or_else(|error| {
                if !self.mappings.is_split() || ledger.guards.any() {
                    return Err(error);
                }
                // Armed as a whole the arena's mappings become one again, and others can be made.
                // Later writes there find that they need no copy.
                let _ = self.arm_everything();
                self.store.reserve(frames)
            })
            .map_err(|source| Error::Reserve {
                bytes: frames * self.page_size.bytes(),
                source,
            })?;
        let few = FIRST_PREFAULT.min(self.pages.get() / PAGES_PER_FRAME);
        self.store.prefault(few, self.engine.populate());
        Ok(())
    }

    /// As [`reserve_with`](Self::reserve_with), when a snapshot is only prepared.
    pub fn reserve(&self) -> Result<()> {
        self.reserve_with(&self.ledger())
    }

    /// How many free frames are made resident while the next commit is prepared: a few. Those that
    /// were used before are resident still, and the keeper makes more.
    pub fn frames_expected(&self) -> usize {
        (self.pages.get() / 64).min(FEW_FRAMES)
    }

    /// Free frames whose memory is kept. With a decay: as [upkeep](super::state::upkeep) says, or
    /// as many as were used in this period. Without: as many as were used in this period or the one
    /// before while a snapshot lives, few when none does.
    pub fn frames_kept(&self, any_lives: bool) -> usize {
        let used = match self.upkeep.kept() {
            Some(kept) => kept.max(self.counters.saved_since_commit() as usize),
            None if any_lives => self.counters.saved_lately() as usize,
            None => 0,
        };
        used.min(self.pages.get())
            .max(KEPT_FRAMES)
            .max(self.frames_in_advance())
    }

    /// Free frames that are resident although no snapshot lives, nor lived lately, where the arena
    /// is to stand ready for one.
    pub fn frames_in_advance(&self) -> usize {
        const MOST: usize = 4096;
        if self.ready.is_none() || self.upkeep.kept().is_none() {
            return 0;
        }
        (self.pages.get() / 64).min(MOST)
    }

    /// Makes `count` free frames resident.
    pub fn prefault(&self, count: usize) {
        let missing = count.saturating_sub(self.store.free_resident());
        let populate = self.engine.populate();
        if missing > 0 {
            let aside = {
                let _ledger = self.ledger();
                self.store.set_aside_empty(missing, self.pages)
            };
            if let Some(aside) = aside {
                self.store.populate(aside, populate);
            }
        }
        self.store.prefault(count, populate);
    }

    /// Gives memory of free frames back to the system, but for those that are expected to be used.
    /// In small steps, since a commit waits for the frames of one.
    pub fn trim(&self) {
        self.trim_beyond(|any_lives| self.frames_kept(any_lives));
    }

    /// As [`trim`](Self::trim), with another choice of how many to keep.
    pub fn trim_beyond(&self, keep: impl Fn(bool) -> usize) {
        while self.trim_some(&keep) {}
    }

    /// One step of [`trim_beyond`](Self::trim_beyond); `false` when nothing was to be done.
    pub(super) fn trim_some(&self, keep: impl Fn(bool) -> usize) -> bool {
        let ledger = self.ledger();
        let any_lives = !ledger.live.is_empty();
        let keep = keep(any_lives);
        let aside = if any_lives {
            self.store.set_aside_resident(keep, self.pages)
        } else {
            self.store.set_aside_unused(keep)
        };
        drop(ledger);
        let Some(aside) = aside else {
            return false;
        };
        self.store.give_back(aside);
        true
    }
}
