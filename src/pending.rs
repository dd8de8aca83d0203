//! A snapshot on its way: armed ahead in steps, then committed at a moment of the caller's choice.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::Error;
use crate::home::Home;
use crate::options::Engine;
use crate::prepare::Preparation;
use crate::snapshot::Snapshot;
use crate::sys::{self, signal::Refusal};

/// A snapshot on its way.
///
/// Made by [`Arena::prepare`](crate::Arena::prepare), for programs in which the thread that writes also takes
/// the snapshots, at a point where its data is whole: an event loop, say. What takes long is done in
/// [`step`](Self::step)s, between events or on another thread; [`commit`](Self::commit) is the only stop, and
/// the snapshot's instant.
///
/// Borrows nothing. Until it is committed the arena is written as ever; the first store to a page that was
/// armed ahead costs a fault without a copy. Dropping it gives the snapshot up.
///
/// ```
/// use std::time::Duration;
/// let mut arena = pagecow::Arena::new(16 << 20)?;
/// arena.fill(1);
/// let mut pending = arena.prepare()?;
/// while !pending.is_ready() {
///     pending.step(Duration::from_millis(1))?;
///     arena[0] += 1; // an event
/// }
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
    home: Weak<Home>,
    preparation: Preparation,
}

impl Pending {
    pub(crate) fn new(home: &Arc<Home>) -> Result<Self, Error> {
        check_handler(home)?;
        let ledger = home.ledger_without_guard()?;
        home.reserve(&ledger)?;
        Ok(Self {
            home: Arc::downgrade(home),
            preparation: Preparation::new(),
        })
    }

    /// Arms ahead for about `budget`, or until little is left for the commit; call it again as long as the
    /// commit is not due, to keep up with what is written. May take a slice (a fraction of a millisecond)
    /// longer than the budget. Writers that fault meanwhile wait for a slice at most.
    ///
    /// Does nothing while a [`writable`](crate::Arena::writable) guard lives.
    ///
    /// # Errors
    ///
    /// [`Error::ArenaDropped`]; [`Error::Protect`] when the system refuses, in which case nothing is lost.
    pub fn step(&mut self, budget: Duration) -> Result<(), Error> {
        upgrade(&self.home)?.arm_ahead(&mut self.preparation, budget)
    }

    /// Whether so little is left that [`commit`](Self::commit) will be short, or so many passes were made
    /// that more would not help: a writer dirties pages as fast as they are armed. Also when the arena is
    /// gone.
    pub fn is_ready(&self) -> bool {
        upgrade(&self.home).map_or(true, |home| home.is_ready(&self.preparation))
    }

    /// Freezes the arena's bytes as they are now. Arms what is left; when [`is_ready`](Self::is_ready) was
    /// true just before, that takes about a tenth of a millisecond.
    ///
    /// Waits while a [`writable`](crate::Arena::writable) guard lives in another thread.
    ///
    /// # Errors
    ///
    /// As [`Snapshotter::snapshot`](crate::Snapshotter::snapshot). Nothing is lost; prepare again.
    pub fn commit(self) -> Result<Snapshot, Error> {
        let home = upgrade(&self.home)?;
        check_handler(&home)?;
        let live = home.commit()?;
        Ok(Snapshot::new(home, live))
    }
}

/// Prepares, steps and commits in one call.
pub(crate) fn take_snapshot(home: &Arc<Home>) -> Result<Snapshot, Error> {
    let mut pending = Pending::new(home)?;
    pending.step(Duration::MAX)?;
    pending.commit()
}

pub(crate) fn upgrade(home: &Weak<Home>) -> Result<Arc<Home>, Error> {
    home.upgrade()
        .filter(|home| !home.is_abandoned())
        .ok_or(Error::ArenaDropped)
}

/// Whether stores would be refused, and a refused store of this thread would come to our handler.
fn check_handler(home: &Home) -> Result<(), Error> {
    home.engine.check().map_err(|source| Error::Engine {
        engine: Engine::Userfaultfd,
        source,
    })?;
    let sigbus = home.engine.uses_sigbus().then_some(Refusal::Page);
    for refusal in [Refusal::Mapping].into_iter().chain(sigbus) {
        if !sys::signal::is_installed(refusal) {
            return Err(Error::HandlerReplaced);
        }
        if sys::signal::is_masked(refusal) {
            return Err(Error::SignalMasked);
        }
    }
    Ok(())
}
