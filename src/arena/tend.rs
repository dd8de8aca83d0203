//! Looking after an arena by hand, where no keeper does.

use std::time::Duration;

use crate::arena::{Arena, Snapshotter};
use crate::error::Error;

impl Arena {
    /// Does by hand what the [keeper](crate::ArenaBuilder::keeper) does: makes memory for copies
    /// resident while a snapshot lives, and gives it back when no snapshot was taken or dropped for
    /// the [decay time](crate::ArenaBuilder::decay); where the arena
    /// [stands ready](crate::ArenaBuilder::stand_ready), arms pages that were not written for a
    /// while. In small steps, until nothing is left to do now or about `budget` is used up. Never
    /// needed, and harmless beside a keeper.
    ///
    /// ```
    /// use std::time::Duration;
    /// let mut arena = pagecow::Arena::builder().keeper(false).build(1 << 20)?;
    /// let snapshot = arena.snapshot()?;
    /// arena.tend(Duration::from_micros(100)); // between two events
    /// arena.fill(1);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn tend(&self, budget: Duration) {
        self.registered.tend(budget);
    }
}

impl Snapshotter {
    /// As [`Arena::tend`], on another thread.
    ///
    /// # Errors
    ///
    /// [`Error::ArenaDropped`].
    pub fn tend(&self, budget: Duration) -> Result<(), Error> {
        self.registered()?.tend(budget);
        Ok(())
    }
}
