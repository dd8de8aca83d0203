//! Rounds: one look at all open pages.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::Chunk;

/// One look at all open pages.
#[derive(Debug, Default)]
pub(in crate::cow) struct Round {
    /// When the next one begins.
    begins: AtomicU64,
    is_on: AtomicBool,
    /// Where to look next.
    next: AtomicUsize,
    /// Blocks that may still be tried.
    trials: AtomicUsize,
    /// Chunks looked at.
    looked: AtomicU64,
    /// When the first of the others is due.
    due: AtomicU64,
}

impl Round {
    /// Begins one that may try this many blocks, if it is time and none is on. `Err`: in how many
    /// nanoseconds it will be.
    pub fn begin(&self, now: u64, trials: impl FnOnce() -> usize) -> Result<(), u64> {
        if self.is_on.load(Relaxed) {
            return Ok(());
        }
        let left = self.begins.load(Relaxed).saturating_sub(now);
        if left > 0 {
            return Err(left);
        }
        self.is_on.store(true, Relaxed);
        self.trials.store(trials(), Relaxed);
        self.looked.store(0, Relaxed);
        self.due.store(u64::MAX, Relaxed);
        Ok(())
    }

    /// Where to look, and how many blocks may be tried there.
    pub fn at(&self) -> (usize, usize) {
        (self.next.load(Relaxed), self.trials.load(Relaxed))
    }

    pub fn looked_at(&self, chunk: &Chunk) {
        self.next.store(chunk.pages.end(), Relaxed);
        let trials = self.trials.load(Relaxed);
        self.trials
            .store(trials.saturating_sub(chunk.trials), Relaxed);
        self.looked.fetch_add(1, Relaxed);
        self.due.fetch_min(chunk.due, Relaxed);
    }

    /// Ends it; the next one goes on from page `next`. Not before the first block is due, nor
    /// sooner than `least`, nor than a small part of the time is spent on looking; but within
    /// `most`. Returns in how many nanoseconds that is.
    pub fn end(&self, now: u64, next: usize, least: u64, most: u64) -> u64 {
        const LOOK_NS: u64 = 20_000;
        let looked = self.looked.load(Relaxed) * LOOK_NS;
        let due = self.due.load(Relaxed).saturating_sub(now);
        let pause = due.clamp(least, most).max(looked);
        self.next.store(next, Relaxed);
        self.begins.store(now + pause, Relaxed);
        self.is_on.store(false, Relaxed);
        pause
    }
}
