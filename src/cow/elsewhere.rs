//! Snapshots of the arena that another engine takes ([`crate::remap`]): nothing is armed and
//! nothing saved here, but numbers, guards and counts are the same ones.

use crate::cow::core::Core;
use crate::cow::restore::Restored;
use crate::cow::state::ledger::Ledger;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::page::PageIndex;
use crate::sys::{self, Populate};

/// A snapshot that was taken elsewhere. Times are in nanoseconds.
pub(crate) struct Elsewhere {
    pub number: Epoch,
    /// Taking it.
    pub took_ns: u64,
    /// Waiting for guards to end.
    pub guards_ns: u64,
}

/// An arena of which no guard lives, and none begins.
pub(crate) struct Unguarded<'a> {
    core: &'a Core,
    ledger: &'a Ledger,
}

impl Unguarded<'_> {
    /// Makes sure that no page is armed; `false` when a snapshot lives that needs them armed.
    pub fn open_all(&self) -> Result<bool> {
        if !self.ledger.live.is_empty() {
            return Ok(false);
        }
        self.core.open_with(self.ledger)?;
        Ok(true)
    }
}

impl Core {
    /// Has a snapshot taken once no guard lives, and numbers it; `None` when `take` says that it
    /// cannot.
    pub fn take_elsewhere(
        &self,
        take: impl FnOnce(&Unguarded<'_>) -> Result<bool>,
    ) -> Result<Option<Elsewhere>> {
        let (ledger, guards_ns) = self.ledger_without_guard()?;
        let core = self;
        let begin = sys::clock::now();
        let ledger = &ledger;
        if !take(&Unguarded { core, ledger })? {
            return Ok(None);
        }
        let took_ns = sys::clock::since(begin);
        let number = self.epoch().next();
        // Nobody is to be stopped: it is for `set_epoch`.
        let masked = sys::signal::Masked::new();
        self.gate.close();
        self.set_epoch(number);
        self.gate.open();
        drop(masked);
        self.counters.committed(took_ns);
        Ok(Some(Elsewhere {
            number,
            took_ns,
            guards_ns,
        }))
    }

    /// Puts live memory back to `frozen`, all of its bytes as they were at a snapshot that was
    /// taken elsewhere: by `restore`, which returns how many pages it brought back; where it
    /// returns `None`, page by page, those of `may_differ`.
    pub fn restore_from(
        &self,
        frozen: &[u8],
        restore: impl FnOnce() -> Option<usize>,
        may_differ: impl FnOnce() -> Vec<PageIndex>,
    ) -> Result<Restored> {
        let (ledger, _) = self.ledger_without_guard()?;
        let begin = sys::clock::now();
        let pages = restore().unwrap_or_else(|| {
            let mut pages = may_differ();
            let mut bytes = vec![0; self.page_size.bytes()];
            let memory = self.engine.memory();
            let wanted = |page| &frozen[self.page_size.offset_of(page)..][..self.page_size.bytes()];
            pages.retain(|page| {
                memory.read(self.page_size.offset_of(*page), &mut bytes);
                bytes != wanted(*page)
            });
            self.open(&ledger, &pages);
            for page in &pages {
                memory.put(self.page_size.offset_of(*page), wanted(*page));
            }
            pages.len()
        });
        Ok(Restored {
            pages,
            took_ns: sys::clock::since(begin),
            arming_ns: 0,
        })
    }

    /// Acts while no guard lives; `None` when one does.
    pub fn unguarded<R>(&self, act: impl FnOnce(&Unguarded<'_>) -> R) -> Option<R> {
        let (core, ledger) = (self, &*self.ledger());
        (!ledger.guards.any()).then(|| act(&Unguarded { core, ledger }))
    }

    /// Before any of its memory, which is of one private mapping, is armed for the first time:
    /// after this its parts merge again. Only while no page is armed.
    pub fn get_ready_to_arm(&self) {
        let first = PageIndex::new(0).into();
        let memory = self.engine.memory();
        memory.populate(first, self.page_size, Populate::ByTouch);
    }
}
