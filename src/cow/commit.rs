//! Taking a snapshot.
//!
//! Most of what has to be armed may have been armed ahead ([`crate::cow::prepare`]); a commit arms
//! the rest. The order: wait until no `writable` guard lives; close the gate and drain it; arm what
//! is dirty; advance the epoch; open the gate. The snapshot's instant is when the gate was closed
//! and all is armed: a writer that faults meanwhile waits for the gate, so no later store is in the
//! snapshot without the earlier one (invariant 2).

use crate::cow::core::Core;
use crate::cow::guard;
use crate::cow::state::ledger::{Entry, Ledger, Live};
use crate::error::{Error, Result};
use crate::sync::{Arc, AtomicBool, MutexGuard, wait_on, wait_on_for};
use crate::sys;

/// A snapshot that was taken, and what its commit took. Times are in nanoseconds.
pub(crate) struct Committed {
    pub snapshot: Arc<Live>,
    /// Arming what was left.
    pub arming_ns: u64,
    /// From when the last writer may have begun to wait, to when the gate was opened.
    pub stop_ns: u64,
    /// Waiting for guards to end.
    pub guards_ns: u64,
}

impl Core {
    /// The ledger, once no guard lives, and how long this waited for guards, in nanoseconds.
    pub(super) fn ledger_without_guard(&self) -> Result<(MutexGuard<'_, Ledger>, u64)> {
        if guard::held_by_this_thread() {
            return Err(Error::GuardHeld);
        }
        let mut ledger = self.ledger();
        let mut waited = 0;
        while ledger.guards.any() {
            let took;
            (ledger, took) = self.wait_for_guard(ledger, None);
            waited += took;
        }
        Ok((ledger, waited))
    }

    /// Waits until a guard ends, at most this many nanoseconds; may return early. Also returns how
    /// long it waited. New guards stand back meanwhile. Not on a thread that holds a guard.
    pub(super) fn wait_for_guard<'a>(
        &self,
        mut ledger: MutexGuard<'a, Ledger>,
        nanoseconds: Option<u64>,
    ) -> (MutexGuard<'a, Ledger>, u64) {
        let begin = sys::clock::now();
        ledger.commits_waiting += 1;
        let mut ledger = match nanoseconds {
            Some(time) => wait_on_for(&self.guard_gone, ledger, time),
            None => wait_on(&self.guard_gone, ledger),
        };
        ledger.commits_waiting -= 1;
        if ledger.commits_waiting == 0 {
            self.let_in(&mut ledger);
        }
        (ledger, sys::clock::since(begin))
    }

    /// Takes a snapshot of all pages: the second phase, which stops the writers.
    pub fn commit(&self) -> Result<Committed> {
        self.commit_after(Ok)
    }

    /// As [`commit`](Self::commit); `arm_ahead` may arm in slices before, with the gate closed and
    /// drained. It gets the time when the gate was closed, and returns since when a writer may be
    /// waiting.
    pub(super) fn commit_after(
        &self,
        arm_ahead: impl FnOnce(u64) -> Result<u64>,
    ) -> Result<Committed> {
        let (mut ledger, guards_ns) = self.ledger_without_guard()?;
        self.reserve_with(&ledger)?;
        let epoch = self.epoch().next();
        let snapshot = Arc::new(Live {
            epoch,
            failed: AtomicBool::new(false),
        });
        ledger.live.reserve(1);

        let masked = sys::signal::Masked::new();
        let closing = sys::clock::now();
        self.gate.close();
        let closed = arm_ahead(closing);
        let armed = closed.and_then(|closed| self.arm(self.all_dirty()).map(|took| (closed, took)));
        if armed.is_ok() {
            self.losses.settle(&ledger.live);
            if let Some(newest) = ledger.live.last_mut() {
                newest.saved = self.versions.swap_saved(None);
            }
            ledger.live.push(Entry {
                snapshot: snapshot.clone(),
                saved: None,
            });
            self.set_epoch(epoch);
            self.set_newest(epoch);
            self.doubt.settle();
            self.mappings.reset();
            self.density.next_period();
            if let Some(ready) = &self.ready {
                ready.committed();
            }
        }
        self.gate.open();
        let opened = sys::clock::now();
        drop(masked);

        let (closed, arming_ns) = armed?;
        let stop_ns = opened.saturating_sub(closed);
        let used = self.counters.committed(stop_ns);
        self.upkeep.period_ended(used as usize);
        Ok(Committed {
            snapshot,
            arming_ns,
            stop_ns,
            guards_ns,
        })
    }
}
