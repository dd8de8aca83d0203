//! Marks: from where changes are counted, once the snapshot is gone.

use std::sync::Arc;

use crate::epoch::Epoch;
use crate::error::{Error, Result as OurResult};
use crate::page::PageIndex;
use crate::process::registered::Registered;
use crate::process::remapped::Loan;
use crate::snapshot::Snapshot;
use crate::snapshot::source::Source;

/// A point in time of an arena that changes are counted from: by [`Snapshot::changed_since`],
/// [`Arena::changed_since`](crate::Arena::changed_since) and for deltas. Made by [`Snapshot::mark`]
/// or [`Arena::mark`](crate::Arena::mark).
///
/// It keeps no copies, so that it may live for long beside any number of writers. What it costs is
/// a fault for the first store to each page after it, as a snapshot does. With
/// [`Engine::Remap`](crate::Engine::Remap) snapshots are taken with mprotect while one lives.
///
/// It keeps the arena's memory mapped for as long as it lives.
pub struct Mark {
    registered: Arc<Registered>,
    /// The snapshot's number.
    number: Epoch,
    /// The epoch from which on page words tell.
    epoch: Epoch,
    /// What was stored to between the two.
    between: Vec<PageIndex>,
    _loan: Option<Loan>,
}

impl Snapshot {
    /// A mark at the snapshot's point in time, which goes on when the snapshot is dropped.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// let page = arena.page_size();
    /// let mark = arena.snapshot()?.mark()?; // the snapshot is gone
    /// arena[5 * page] = 1;
    /// assert_eq!(arena.changed_since(&mark)?, [5..6]);
    /// assert_eq!(arena.snapshot()?.changed_since(&mark)?, [5..6]);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// None but with [`Engine::Remap`](crate::Engine::Remap): there as
    /// [`Arena::snapshot`](crate::Arena::snapshot).
    pub fn mark(&self) -> Result<Mark, Error> {
        let registered = self.held.registered.clone();
        let core = registered.core();
        let (loan, epoch, between) = match self.source() {
            Source::Copies(live) => {
                let loan = Loan::new(&registered)?;
                core.begin_mark();
                (loan, live.epoch, Vec::new())
            }
            Source::Frozen { frozen, .. } => {
                // Nothing is armed yet, so that the core's words tell from another snapshot on.
                registered.check_handler()?;
                let loan = Loan::new(&registered)?;
                let (_, taken) = core.take()?;
                core.begin_mark();
                let between = frozen.may_differ();
                core.release(&taken.snapshot);
                (loan, taken.snapshot.epoch, between)
            }
        };
        Ok(Mark {
            number: self.source().number(),
            epoch,
            between,
            registered,
            _loan: loan,
        })
    }
}

impl Mark {
    /// The number of the snapshot at whose point in time it is.
    pub fn snapshot_id(&self) -> u64 {
        self.number.get()
    }

    pub(crate) fn registered(&self) -> &Arc<Registered> {
        &self.registered
    }

    /// Pages that may have been stored to since.
    pub(crate) fn changed(&self) -> Vec<PageIndex> {
        self.with_those_between(self.registered.core().changed_since_mark(self.epoch))
    }

    /// The same before a snapshot was taken, which is newer.
    pub(crate) fn changed_until(&self, newer: &Snapshot) -> OurResult<Vec<PageIndex>> {
        match newer.source() {
            Source::Copies(live) if live.epoch >= self.epoch => {
                let core = self.registered.core();
                Ok(self.with_those_between(core.changed_until(self.epoch, live)?))
            }
            // Taken by the other engine, before the memory was lent for this mark.
            _ => Ok(self.between.clone()),
        }
    }

    fn with_those_between(&self, mut pages: Vec<PageIndex>) -> Vec<PageIndex> {
        if !self.between.is_empty() {
            pages.extend(&self.between);
            pages.sort_unstable();
            pages.dedup();
        }
        pages
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.registered.core().end_mark();
    }
}

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mark")
            .field("snapshot", &self.snapshot_id())
            .finish_non_exhaustive()
    }
}
