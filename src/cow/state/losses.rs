//! Which live snapshots have lost a page since the last commit.
//!
//! A page that could not be copied is lost to all snapshots newer than what its word says, so one
//! atomic minimum serves all of them, and the handler follows no pointers to snapshots. The next
//! commit moves it into the snapshots' own flags.

use crate::cow::state::ledger::{Entry, Live};
use crate::epoch::Epoch;
use crate::sync::{AtomicU64, Ordering};

pub(crate) struct Losses {
    /// Live snapshots newer than this have lost a page; `NEVER` when none has.
    above: AtomicU64,
}

impl Losses {
    pub fn none() -> Self {
        Self {
            above: AtomicU64::new(Epoch::NEVER.get()),
        }
    }

    /// A page that was dealt with up to `dealt` gets no copy. Async-signal-safe.
    pub fn add(&self, dealt: Epoch) {
        // Release: a thread that sees the page's new epoch sees the loss too.
        self.above.fetch_min(dealt.get(), Ordering::Release);
    }

    /// Whether all snapshots that need a copy of a page that was dealt with up to `dealt` have lost
    /// one already, so that it needs none.
    pub fn cover(&self, dealt: Epoch) -> bool {
        self.above.load(Ordering::Relaxed) <= dealt.get()
    }

    /// Whether a snapshot has lost a page, now or before.
    pub fn has_hit(&self, snapshot: &Live) -> bool {
        // The minimum first: it is reset only after the flags are set.
        self.above.load(Ordering::Acquire) < snapshot.epoch.get()
            || snapshot.failed.load(Ordering::Relaxed)
    }

    /// Moves what was noted into the snapshots' flags. Gate closed and drained.
    pub(in crate::cow) fn settle(&self, live: &[Entry]) {
        let above = Epoch::new(self.above.load(Ordering::Relaxed));
        if above == Epoch::NEVER {
            return;
        }
        for entry in live {
            if entry.snapshot.epoch > above {
                entry.snapshot.failed.store(true, Ordering::Relaxed);
            }
        }
        // Release: a thread that sees the minimum gone sees the flags.
        self.above.store(Epoch::NEVER.get(), Ordering::Release);
    }
}
