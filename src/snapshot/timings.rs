//! What taking one snapshot took.

use std::time::Duration;

use crate::cow::commit::Committed;
use crate::cow::elsewhere::Elsewhere;
use crate::cow::prepare::Preparation;
use crate::snapshot::Snapshot;

/// What taking one snapshot took; from [`Snapshot::timings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// The system calls that took write permission, all together: ahead, in steps, and at the
    /// commit.
    pub arm: Duration,
    /// For how long the commit kept writers that faulted from going on: the snapshot's only stop.
    /// Steps before it keep them for a slice at a time.
    pub stop: Duration,
    /// For how long steps and the commit waited for [`writable`](crate::Arena::writable) guards of
    /// other threads. Zero when there were none.
    pub wait_for_guards: Duration,
    /// Passes over what was dirty in which pages were armed ahead, the last of which may not have
    /// been finished. 0 when nothing was armed ahead.
    pub passes: u64,
}

impl Timings {
    pub(super) fn new(preparation: &Preparation, committed: &Committed) -> Self {
        let ahead_and_committed = |ahead: u64, committed| Duration::from_nanos(ahead + committed);
        Self {
            arm: ahead_and_committed(preparation.arming_ns(), committed.arming_ns),
            stop: Duration::from_nanos(committed.stop_ns),
            wait_for_guards: ahead_and_committed(preparation.guards_ns(), committed.guards_ns),
            passes: u64::from(preparation.passes()),
        }
    }

    pub(super) fn of_frozen(taken: &Elsewhere) -> Self {
        Self {
            stop: Duration::from_nanos(taken.took_ns),
            wait_for_guards: Duration::from_nanos(taken.guards_ns),
            ..Self::default()
        }
    }
}

impl Snapshot {
    /// What taking this very snapshot took, also when several threads take snapshots of the arena
    /// at once, and whichever threads made the steps of its [`Pending`](crate::Pending). Costs
    /// nothing.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(16 << 20)?;
    /// arena.fill(1);
    /// let timings = arena.snapshot()?.timings();
    /// println!("armed in {:?}, stopped writers for {:?}", timings.arm, timings.stop);
    /// assert!(timings.arm > std::time::Duration::ZERO);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn timings(&self) -> Timings {
        self.held.timings
    }
}
