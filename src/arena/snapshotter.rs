//! A handle with which another thread takes snapshots.

use std::sync::{Arc, Weak};

use crate::arena::Arena;
use crate::arena::pending::{Pending, take_snapshot};
use crate::error::Error;
use crate::process::registered::Registered;
use crate::snapshot::Snapshot;
use crate::stats::Stats;

/// Takes snapshots of an arena from another thread than the one that writes.
///
/// Cheap to clone and to send. Does not keep the arena alive.
///
/// ```
/// let mut arena = pagecow::Arena::new(1 << 20)?;
/// let snapshotter = arena.snapshotter();
/// let saver = std::thread::spawn(move || snapshotter.snapshot());
/// arena[0] = 1;
/// let snapshot = saver.join().unwrap()?;
/// # Ok::<(), pagecow::Error>(())
/// ```
#[derive(Clone)]
pub struct Snapshotter {
    registered: Weak<Registered>,
}

impl Arena {
    /// A handle with which another thread may take snapshots while this one writes. Get it before
    /// [`atomic_u64`](Self::atomic_u64), which borrows the arena for as long as the atomics are
    /// used:
    ///
    /// ```
    /// use std::sync::atomic::Ordering::Relaxed;
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// let snapshotter = arena.snapshotter();
    /// let words = arena.atomic_u64();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| words[0].fetch_add(1, Relaxed));
    ///     scope.spawn(|| words[1].fetch_add(1, Relaxed));
    ///     snapshotter.snapshot().map(drop)
    /// })?;
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn snapshotter(&self) -> Snapshotter {
        Snapshotter {
            registered: Arc::downgrade(&self.registered),
        }
    }
}

impl Snapshotter {
    /// Freezes the arena's bytes as they are now; as [`Arena::snapshot`]. Waits while a
    /// [`writable`](Arena::writable) guard lives in another thread.
    ///
    /// # Errors
    ///
    /// As [`Arena::snapshot`], [`Error::GuardHeld`] also for a guard of this arena, and
    /// [`Error::ArenaDropped`].
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        take_snapshot(&self.registered()?)
    }

    /// What the snapshots of the arena have cost so far.
    ///
    /// # Errors
    ///
    /// [`Error::ArenaDropped`].
    pub fn stats(&self) -> Result<Stats, Error> {
        Ok(self.registered()?.stats())
    }

    /// Begins a snapshot that is committed later; as [`Arena::prepare`].
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn prepare(&self) -> Result<Pending, Error> {
        Pending::new(&self.registered()?)
    }

    pub(super) fn registered(&self) -> Result<Arc<Registered>, Error> {
        Registered::upgrade(&self.registered)
    }
}

impl std::fmt::Debug for Snapshotter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshotter").finish_non_exhaustive()
    }
}
