//! Snapshots of the arena that another engine takes ([`crate::remap`]): nothing is armed and nothing
//! saved here, but numbers, guards and counts are the same ones.

use crate::cow::core::Core;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::sys;

/// A snapshot that was taken elsewhere. Times are in nanoseconds.
pub(crate) struct Elsewhere {
    pub number: Epoch,
    /// Taking it.
    pub took_ns: u64,
    /// Waiting for guards to end.
    pub guards_ns: u64,
}

impl Core {
    /// Has a snapshot taken once no guard lives, and numbers it. No guard begins meanwhile.
    pub fn take_elsewhere(&self, take: impl FnOnce() -> Result<()>) -> Result<Elsewhere> {
        let (_ledger, guards_ns) = self.ledger_without_guard()?;
        let begin = sys::clock::now();
        take()?;
        let took_ns = sys::clock::since(begin);
        let number = self.epoch().next();
        // Nobody is to be stopped: it is for `set_epoch`.
        let masked = sys::signal::Masked::new();
        self.gate.close();
        self.set_epoch(number);
        self.gate.open();
        drop(masked);
        self.counters.committed(took_ns);
        Ok(Elsewhere {
            number,
            took_ns,
            guards_ns,
        })
    }

    /// Acts while no guard lives and none begins; `None` when one lives.
    pub fn unguarded<R>(&self, act: impl FnOnce() -> R) -> Option<R> {
        let ledger = self.ledger();
        (!ledger.guards.any()).then(act)
    }

    /// In the child of a fork, where snapshots are taken here from now on: its memory is private,
    /// of one mapping, and all of it is open.
    pub fn take_over(&self) {
        // Before it is ever protected, so that its parts merge again.
        self.engine.memory().populate(
            crate::page::PageIndex::new(0).into(),
            self.page_size,
            sys::Populate::ByTouch,
        );
    }
}
