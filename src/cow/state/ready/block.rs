//! A block of pages that are tried together, and when.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{FEW, Times};
use crate::epoch::Epoch;
use crate::sys::ZeroValid;
use crate::window::SMALL;

/// The time after which a block is tried doubles up to this many times where it failed.
const LEVELS: u8 = 8;
/// The same for its hot pages.
const HOT_LEVELS: u8 = 4;

/// Pages that are tried together. One bit a page, the lowest for the first, where blocks are small.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Pages that faulted in this trial, or in the last one and were armed again in this one.
    once: AtomicU64,
    /// Pages that faulted in two trials in a row.
    hot: AtomicU64,
    /// When it may be tried, and when its hot pages may; 0 when that was not decided yet.
    due: AtomicU64,
    hot_due: AtomicU64,
    /// The newest snapshot ever taken, at the last look: its lower half.
    epoch: AtomicU32,
    /// How often `due` and `hot_due` have doubled.
    level: AtomicU8,
    hot_level: AtomicU8,
    /// Faults in this trial.
    faults: AtomicU8,
    /// A trial is on, or has ended without anybody having looked.
    is_tried: AtomicBool,
    /// When the first of these was.
    since: AtomicU64,
    /// Pages that were opened in order in this trial, or faulted.
    run: AtomicU64,
    /// Pages that are expected to be written soon, at least.
    dense: AtomicU8,
}

// SAFETY: atomics of plain values, for which zero bytes are the values 0 and false.
#[allow(unsafe_code, reason = "the blocks live in lazily zeroed memory")]
unsafe impl ZeroValid for Block {}

/// What a look at a block says.
pub(super) enum Look {
    /// These pages of it are tried, from now on.
    Try(u64),
    /// It is left alone until then.
    Wait(u64),
}

fn raise(level: &AtomicU8, most: u8) {
    level.store((level.load(Relaxed) + 1).min(most), Relaxed);
}

impl Block {
    /// What to do with the block, of which the pages `open` are. A trial begins if it `may`.
    pub fn look(&self, open: u64, now: u64, epoch: Epoch, times: Times, may: bool) -> Look {
        let hot_due = self.look_at_hot(now, times);
        let cold = open & !self.hot.load(Relaxed);
        if cold == 0 {
            return Look::Wait(hot_due);
        }
        let epoch = epoch.get() as u32;
        // A commit armed everything: whatever is open was written since.
        let is_news = self.epoch.swap(epoch, Relaxed) != epoch;
        if is_news || self.is_tried.load(Relaxed) || self.faults.load(Relaxed) > 0 {
            if self.has_failed() {
                raise(&self.level, LEVELS);
            } else {
                self.level.store(self.level.load(Relaxed) / 2, Relaxed);
            }
            self.faults.store(0, Relaxed);
            self.run.store(0, Relaxed);
            self.is_tried.store(false, Relaxed);
            let due = now + (times.cold << self.level.load(Relaxed));
            self.due.store(due, Relaxed);
        }
        let due = self.due.load(Relaxed);
        if now < due || !may {
            return Look::Wait(due.min(hot_due));
        }
        self.begin_trial(cold);
        Look::Try(cold)
    }

    /// Hot pages get another chance when it is time; returns when it will be.
    fn look_at_hot(&self, now: u64, times: Times) -> u64 {
        let hot = self.hot.load(Relaxed);
        if hot == 0 {
            return u64::MAX;
        }
        let due = self.hot_due.load(Relaxed);
        if due == 0 {
            let due = (now + (times.hot << self.hot_level.load(Relaxed))).max(1);
            self.hot_due.store(due, Relaxed);
            return due;
        }
        if now >= due {
            self.hot.store(0, Relaxed);
            // Once more, and they are hot again.
            self.once.store(hot, Relaxed);
            self.hot_due.store(0, Relaxed);
            raise(&self.hot_level, HOT_LEVELS);
            return u64::MAX;
        }
        due
    }

    /// These pages are about to be armed.
    fn begin_trial(&self, pages: u64) {
        let once = self.once.fetch_and(pages, Relaxed) & pages;
        if self.hot.load(Relaxed) | once == 0 {
            self.hot_level.store(0, Relaxed);
        }
        self.faults.store(0, Relaxed);
        self.run.store(0, Relaxed);
        self.dense.store(0, Relaxed);
        self.is_tried.store(true, Relaxed);
    }

    /// Counts a fault, on the page of this bit.
    pub fn count(&self, bit: usize, now: u64) {
        let faults = self.faults.load(Relaxed).saturating_add(1);
        self.faults.store(faults, Relaxed);
        if faults == 1 {
            self.since.store(now, Relaxed);
        }
        let bit = 1 << bit;
        if self.once.fetch_or(bit, Relaxed) & bit != 0 {
            self.hot.fetch_or(bit, Relaxed);
        }
        self.run.fetch_or(bit, Relaxed);
    }

    /// It has failed: how many of its pages are written in half a second, if they go on as in this
    /// trial.
    pub fn extrapolate(&self, now: u64) {
        const TIME: u64 = 500_000_000;
        let took = now.saturating_sub(self.since.load(Relaxed));
        let dense = TIME * u64::from(FEW) / took.max(1);
        self.dense.store(dense.min(SMALL as u64) as u8, Relaxed);
    }

    /// How many of its pages, of which these are open, are expected to be written soon.
    pub fn expected(&self, open: u64) -> usize {
        let written = self.hot.load(Relaxed) | self.once.load(Relaxed);
        let seen = (open & written).count_ones();
        seen.max(self.dense.load(Relaxed).into()) as usize
    }

    /// Pages in a row just below the one of this bit that were opened in order.
    pub fn run_below(&self, bit: usize) -> usize {
        let below = self.run.load(Relaxed).checked_shl((SMALL - bit) as u32);
        below.map_or(0, |below| below.leading_ones() as usize)
    }

    /// This many pages from the one of this bit on are opened in order; returns how many there are.
    pub fn open_in_order(&self, bit: usize, count: usize) -> usize {
        let count = count.min(SMALL - bit);
        self.run
            .fetch_or(u64::MAX >> (SMALL - count) << bit, Relaxed);
        count
    }

    /// Whether all of its pages were opened in order.
    pub fn is_full(&self) -> bool {
        self.run.load(Relaxed) == u64::MAX
    }

    /// All of its pages are opened in order.
    pub fn fill(&self) {
        self.run.store(u64::MAX, Relaxed);
    }

    /// Whether there were too many faults in this trial.
    pub fn has_failed(&self) -> bool {
        self.faults.load(Relaxed) > FEW
    }

    /// It is opened as a whole.
    pub fn fail(&self) {
        self.faults.store(u8::MAX, Relaxed);
    }
}
