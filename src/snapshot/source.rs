//! Where a snapshot's bytes are: in copies and live memory, or frozen in one piece.

use std::sync::Arc;

use crate::cow::restore::Restored;
use crate::cow::state::ledger::Live;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::options::Engine;
use crate::process::frozen::Frozen;
use crate::process::registered::Registered;
use crate::snapshot::Snapshot;

pub(crate) enum Source {
    /// Copies of the pages that were written since; the others are in live memory.
    Copies(Arc<Live>),
    /// Memory of its own.
    Frozen { frozen: Frozen, number: Epoch },
}

impl Source {
    pub fn number(&self) -> Epoch {
        match self {
            Self::Copies(live) => live.epoch,
            Self::Frozen { number, .. } => *number,
        }
    }

    pub fn frozen(&self) -> Option<&Frozen> {
        match self {
            Self::Frozen { frozen, .. } => Some(frozen),
            Self::Copies(_) => None,
        }
    }
}

impl Snapshot {
    pub(crate) fn source(&self) -> &Source {
        &self.held.source
    }

    /// Its bytes, where they lie in one piece.
    pub(crate) fn frozen(&self) -> Option<&Frozen> {
        self.source().frozen()
    }

    /// The engine of its arena, where the process that made it is.
    pub(crate) fn engine(&self) -> Engine {
        match self.source() {
            Source::Frozen { .. } => Engine::Remap,
            // One that overlaps with others.
            Source::Copies(_) if self.held.registered.remap().is_some() => Engine::Remap,
            Source::Copies(_) if self.core().uses_userfaultfd() => Engine::Userfaultfd,
            Source::Copies(_) => Engine::Mprotect,
        }
    }

    /// Whether it is of this arena.
    pub(crate) fn is_of(&self, registered: &Arc<Registered>) -> bool {
        Arc::ptr_eq(&self.held.registered, registered)
    }

    /// Puts its arena, which is there and which the caller has to itself, back to its bytes.
    pub(crate) fn restore(&self) -> Result<Restored> {
        match self.source() {
            Source::Copies(live) => self.core().restore(live),
            Source::Frozen { frozen, .. } => frozen.restore(),
        }
    }

    /// `Err` when it can not be read any more.
    pub(crate) fn check(&self) -> Result<()> {
        match self.source() {
            Source::Copies(live) => self.core().check(live),
            Source::Frozen { .. } => Ok(()),
        }
    }

    /// `Err` when what was read of live memory lately may be wrong.
    pub(crate) fn confirm(&self) -> Result<()> {
        match self.source() {
            Source::Copies(_) => self.core().confirm(),
            Source::Frozen { .. } => Ok(()),
        }
    }
}
