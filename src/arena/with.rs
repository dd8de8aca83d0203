//! A snapshot of whole data structures: the program's own lock is held for the commit alone.

use std::sync::Arc;

use crate::arena::{Arena, Pending, Snapshotter};
use crate::error::Error;
use crate::process::registered::Registered;
use crate::snapshot::Snapshot;

impl Arena {
    /// Freezes the arena's bytes as they are under a lock of the program, which is held for a short
    /// time. What takes long comes first, without the lock. Then `lock` is called once: it takes
    /// the lock and returns its guard. The commit follows, and the guard is dropped.
    ///
    /// The guard may be anything: that of a `Mutex`, of a `RwLock`, a list of those of all shards.
    /// It is not looked at: a lock that may fail is for
    /// [`try_snapshot_with`](Self::try_snapshot_with).
    ///
    /// ```
    /// use std::sync::Mutex;
    /// use std::sync::atomic::Ordering::Relaxed;
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// let snapshotter = arena.snapshotter();
    /// let words = arena.atomic_u64();
    /// // While no thread holds it, these two words are equal.
    /// let lock = Mutex::new((&words[0], &words[100_000]));
    /// let snapshot = std::thread::scope(|scope| {
    ///     scope.spawn(|| {
    ///         for _ in 0..1000 {
    ///             let pair = lock.lock().unwrap();
    ///             pair.0.fetch_add(1, Relaxed);
    ///             pair.1.fetch_add(1, Relaxed);
    ///         }
    ///     });
    ///     snapshotter.snapshot_with(|| lock.lock().unwrap())
    /// })?;
    /// let (mut one, mut other) = ([0; 8], [0; 8]);
    /// snapshot.read_at(0, &mut one)?;
    /// snapshot.read_at(800_000, &mut other)?;
    /// assert_eq!(one, other);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// The lock is held for about a tenth of a millisecond at most, when writers dirty few separate
    /// pages while `lock` waits for it. Each run of pages that they write meanwhile takes the
    /// commit up to 3 microseconds, which is less than the fault of that write took. So a long wait
    /// can make the commit longer, but not as long as itself while one writer at a time writes.
    /// Where that is too long, do the same with a [`Pending`]: look at [`left`](Pending::left)
    /// under the lock, and when that is much, unlock and [`step`](Pending::step) again.
    ///
    /// A thread that holds a [`writable`](Self::writable) guard of this arena must not wait for the
    /// lock: the commit, which holds it, waits for the guard.
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot). What can be known before is found out before `lock` is
    /// called. Whatever happens, the guard is dropped. When `lock` panics there is no snapshot, and
    /// nothing is lost.
    pub fn snapshot_with<G>(&self, lock: impl FnOnce() -> G) -> Result<Snapshot, Error> {
        self.try_snapshot_with(|| Ok(lock()))
    }

    /// As [`snapshot_with`](Self::snapshot_with), with a lock that may fail. Its error is returned,
    /// and there is no snapshot.
    ///
    /// ```
    /// use std::error::Error;
    /// use std::sync::Mutex;
    /// let arena = pagecow::Arena::new(1 << 20)?;
    /// let lock = Mutex::new(());
    /// let held = lock.lock().unwrap();
    /// let now_or_never = || lock.try_lock().map_err(|_| "busy".into());
    /// let refused: Result<_, Box<dyn Error>> = arena.try_snapshot_with(now_or_never);
    /// assert_eq!(refused.unwrap_err().to_string(), "busy");
    /// drop(held);
    /// let taken: Result<_, Box<dyn Error>> = arena.try_snapshot_with(now_or_never);
    /// assert_eq!(taken.unwrap().id(), 1);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`snapshot_with`](Self::snapshot_with), and what `lock` returns.
    pub fn try_snapshot_with<G, E: From<Error>>(
        &self,
        lock: impl FnOnce() -> Result<G, E>,
    ) -> Result<Snapshot, E> {
        self.core().end_leaked_guards();
        take_with(&self.registered, lock)
    }
}

impl Snapshotter {
    /// Freezes the arena's bytes as they are under a lock of the program, which is held for a short
    /// time; as [`Arena::snapshot_with`].
    ///
    /// ```
    /// use std::sync::Mutex;
    /// let arena = pagecow::Arena::new(1 << 20)?;
    /// let snapshotter = arena.snapshotter();
    /// let arena = Mutex::new(arena); // its writers lock it
    /// arena.lock().unwrap()[..4].fill(1);
    /// let snapshot = snapshotter.snapshot_with(|| arena.lock().unwrap())?;
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Arena::snapshot_with`], [`Error::GuardHeld`] also for a guard of this arena, and
    /// [`Error::ArenaDropped`].
    pub fn snapshot_with<G>(&self, lock: impl FnOnce() -> G) -> Result<Snapshot, Error> {
        self.try_snapshot_with(|| Ok(lock()))
    }

    /// As [`snapshot_with`](Self::snapshot_with), with a lock that may fail; as
    /// [`Arena::try_snapshot_with`].
    ///
    /// # Errors
    ///
    /// As [`snapshot_with`](Self::snapshot_with), and what `lock` returns.
    pub fn try_snapshot_with<G, E: From<Error>>(
        &self,
        lock: impl FnOnce() -> Result<G, E>,
    ) -> Result<Snapshot, E> {
        take_with(&self.registered()?, lock)
    }
}

/// All that can be done without the lock, the lock, the rest.
fn take_with<G, E: From<Error>>(
    registered: &Arc<Registered>,
    lock: impl FnOnce() -> Result<G, E>,
) -> Result<Snapshot, E> {
    let pending = Pending::armed_ahead(registered)?;
    let held = lock()?;
    let snapshot = pending.commit();
    drop(held);
    Ok(snapshot?)
}
