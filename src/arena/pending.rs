//! A snapshot on its way: armed ahead in steps, then committed at a moment of the caller's choice.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::arena::Arena;
use crate::cow::guard;
use crate::cow::prepare::Preparation;
use crate::error::Error;
use crate::process::frozen::Frozen;
use crate::process::registered::Registered;
use crate::process::remapped::{Loan, Remapped};
use crate::snapshot::Snapshot;

/// A snapshot on its way.
///
/// Made by [`Arena::prepare`](Arena::prepare), for programs in which the thread that writes
/// also takes the snapshots, at a point where its data is whole: an event loop, say. What takes
/// long is done in [`step`](Self::step)s, between events or on another thread;
/// [`commit`](Self::commit) is the only stop, and the snapshot's instant.
///
/// Borrows nothing. Until it is committed the arena is written as ever; the first store to a page
/// that was armed ahead costs a fault without a copy. Dropping it gives the snapshot up.
///
/// ```
/// use std::time::Duration;
/// let mut arena = pagecow::Arena::new(16 << 20)?;
/// arena.fill(1);
/// let mut pending = arena.prepare()?;
/// while !pending.is_ready() && !pending.is_stalled() {
///     pending.step(Duration::from_millis(1))?;
///     arena[0] += 1; // an event
/// }
/// println!("the commit will take about {:?}", pending.left().stop);
/// let value = arena[0];
/// let snapshot = pending.commit()?;
/// arena[0] = 0;
/// let mut frozen = [0];
/// snapshot.read_at(0, &mut frozen)?;
/// assert_eq!(frozen[0], value);
/// # Ok::<(), pagecow::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is frozen before `commit`"]
pub struct Pending {
    registered: Weak<Registered>,
    preparation: Preparation,
    /// Of an arena that is remapped, where its core takes this snapshot.
    loan: Option<Loan>,
}

/// What a commit would have to do now; from [`Pending::left`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Left {
    /// Pages to arm: those written since they were last armed, and those never armed.
    pub pages: usize,
    /// Runs of neighbours that these are. With few pages in each, the runs cost most of the time.
    pub runs: usize,
    /// About how long writers would be stopped, from what the steps so far took.
    pub stop: Duration,
}

impl Arena {
    /// Begins a snapshot that is committed later: [`Pending::step`] does what takes long, in
    /// pieces, and [`Pending::commit`] freezes the bytes as they are then. Nothing is armed by this
    /// call.
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn prepare(&self) -> Result<Pending, Error> {
        self.core().end_leaked_guards();
        Pending::new(&self.registered)
    }
}

impl Pending {
    /// Of an arena whose snapshot is to be taken by remapping.
    fn remapped<'a>(&self, registered: &'a Registered) -> Option<&'a Remapped> {
        registered.remap().filter(|_| self.loan.is_none())
    }

    pub(super) fn new(registered: &Arc<Registered>) -> Result<Self, Error> {
        registered.check_handler()?;
        if guard::held_by_this_thread() {
            return Err(Error::GuardHeld);
        }
        let loan = match registered.remap() {
            Some(remapped) if remapped.can_freeze() => {
                remapped.check_room()?;
                None
            }
            _ => {
                let loan = Loan::new(registered)?;
                registered.core().reserve()?;
                loan
            }
        };
        Ok(Self {
            loan,
            registered: Arc::downgrade(registered),
            preparation: Preparation::new(),
        })
    }

    /// Prepares, and makes as many steps as help.
    pub(super) fn armed_ahead(registered: &Arc<Registered>) -> Result<Self, Error> {
        let mut pending = Self::new(registered)?;
        pending.step(Duration::MAX)?;
        Ok(pending)
    }

    /// Arms ahead until little is left for the commit, further steps do not help, or about `budget`
    /// is used up. Call it again until the commit is due, to keep up with what is written. May take
    /// a slice (a fraction of a millisecond) longer than the budget. Writers that fault meanwhile
    /// wait for a slice at most, and each gets through one fault a slice.
    ///
    /// Leaves out the pages of a [`writable`](Arena::writable) guard that lives in another
    /// thread. When no others are left, it waits for the guard to end, for as long as the budget
    /// lasts. Where the system refuses to arm a part, it leaves the rest to the commit, which needs
    /// fewer mappings.
    ///
    /// # Errors
    ///
    /// [`Error::ArenaDropped`]; [`Error::GuardHeld`] when the calling thread holds a guard, for
    /// which it would wait in vain.
    pub fn step(&mut self, budget: Duration) -> Result<(), Error> {
        let registered = Registered::upgrade(&self.registered)?;
        if self.remapped(&registered).is_some() {
            if guard::held_by_this_thread() {
                return Err(Error::GuardHeld);
            }
            registered.tend(budget);
            return Ok(());
        }
        registered.core().arm_ahead(&mut self.preparation, budget)
    }

    /// Whether so little is left, at most 512 pages in 32 runs, that [`commit`](Self::commit) will
    /// stop writers for about a tenth of a millisecond. Writers may undo it at any time. Also when
    /// the arena is gone.
    pub fn is_ready(&self) -> bool {
        Registered::upgrade(&self.registered).map_or(true, |registered| {
            match self.remapped(&registered) {
                Some(remapped) => remapped.is_ready(),
                None => registered.core().is_ready(),
            }
        })
    }

    /// Whether further steps would not help: pages are dirtied as fast as steps arm them, or the
    /// system refuses to arm a part of the arena. That is so after passes over the arena in a row
    /// that found nearly as much to arm as the one before. Commit all the same
    /// ([`left`](Self::left) says what that costs), give it more time a step, or write less. May
    /// change with further steps.
    pub fn is_stalled(&self) -> bool {
        !self.is_ready() && self.preparation.is_stalled()
    }

    /// What [`commit`](Self::commit) would have to do now. Takes time for the pages that are left:
    /// some nanoseconds for each run of them. Nothing is left when the arena is gone.
    pub fn left(&self) -> Left {
        let Ok(registered) = Registered::upgrade(&self.registered) else {
            return Left::default();
        };
        if let Some(remapped) = self.remapped(&registered) {
            // What is merged before a snapshot can be taken: those who wait, wait for a slice.
            return Left {
                pages: remapped.left(),
                runs: usize::from(!remapped.is_ready()),
                stop: Duration::ZERO,
            };
        }
        let open = registered.core().open_pages();
        Left {
            pages: open.pages,
            runs: open.runs,
            stop: Duration::from_nanos(self.preparation.stop_ns(open)),
        }
    }

    /// Freezes the arena's bytes as they are now. Arms what is left: about a tenth of a millisecond
    /// when [`is_ready`](Self::is_ready) was true just before, else up to 3 microseconds for each
    /// run of pages that is left, and 20 ms for each GiB of them; [`left`](Self::left) estimates
    /// it.
    ///
    /// Waits while a [`writable`](Arena::writable) guard lives in another thread.
    ///
    /// # Errors
    ///
    /// As [`Snapshotter::snapshot`](crate::Snapshotter::snapshot). Nothing is lost; prepare again.
    pub fn commit(mut self) -> Result<Snapshot, Error> {
        // Dropped without an arena, it gives nothing back.
        let registered = Registered::upgrade(&std::mem::take(&mut self.registered))?;
        registered.check_handler()?;
        let _loan = match self.loan.take() {
            Some(loan) => Some(loan),
            None => {
                if let Some(snapshot) = freeze(&registered)? {
                    return Ok(snapshot);
                }
                Loan::new(&registered)?
            }
        };
        let committed = registered.core().commit()?;
        Ok(Snapshot::new(registered, &self.preparation, committed))
    }
}

impl Drop for Pending {
    /// Frames that were made resident for the snapshot are not needed when it was given up.
    fn drop(&mut self) {
        if let Ok(registered) = Registered::upgrade(&self.registered)
            && self.remapped(&registered).is_none()
        {
            registered.core().trim();
        }
    }
}

/// Prepares, arms and commits in one call.
pub(super) fn take_snapshot(registered: &Arc<Registered>) -> Result<Snapshot, Error> {
    registered.check_handler()?;
    if let Some(snapshot) = freeze(registered)? {
        return Ok(snapshot);
    }
    let _loan = Loan::new(registered)?;
    let (preparation, committed) = registered.core().take()?;
    Ok(Snapshot::new(registered.clone(), &preparation, committed))
}

/// A snapshot by remapping; `None` where the arena's core takes it.
fn freeze(registered: &Arc<Registered>) -> Result<Option<Snapshot>, Error> {
    let Some(remapped) = registered.remap() else {
        return Ok(None);
    };
    let taken = Frozen::take(registered, remapped)?;
    Ok(taken.map(|(frozen, taken)| Snapshot::of_frozen(registered.clone(), frozen, &taken)))
}
