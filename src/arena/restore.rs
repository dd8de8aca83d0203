//! Putting an arena back to what a snapshot holds.

use std::time::Duration;

use crate::arena::Arena;
use crate::cow;
use crate::error::Error;
use crate::snapshot::Snapshot;

/// What a restore did; from [`Arena::restore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// Pages that held something else, and were brought back.
    pub pages: usize,
    /// Bringing them back.
    pub copy: Duration,
    /// Taking write permission from all pages that had it, so that the next restore knows which
    /// were written. Zero with [`Engine::Remap`](crate::Engine::Remap).
    pub arm: Duration,
}

impl Arena {
    /// Puts the arena back to what a snapshot of it holds.
    ///
    /// Looks only at pages that were written since, and stores only to those that differ. It may be
    /// repeated, and done with older and newer snapshots in turn; all of them stay as they are. Of
    /// the snapshot that was restored last, pages that were not written since cost nothing; with
    /// another one, all that were ever written since that one was taken are compared. A snapshot
    /// that another thread takes meanwhile has all of it or nothing of it.
    ///
    /// After it pages are armed as after a snapshot: the first store to each faults once more, but
    /// makes no copy, since the snapshot has one. So a loop that restores the same snapshot again
    /// and again takes no more memory than one copy of each page that it ever writes. Pages that
    /// two restores in a row brought back stay writable, until one does not: where the loop stores
    /// to the same pages, it takes no faults. With [`Engine::Remap`](crate::Engine::Remap) nothing
    /// is armed, and the kernel copies a page again when it is stored to, if two restores in a row
    /// did not bring it back.
    ///
    /// What other threads store through raw pointers meanwhile may stay or go, byte by byte; the
    /// next restore finds it.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// arena[..5].copy_from_slice(b"hello");
    /// let start = arena.snapshot()?;
    /// for input in 0..100 {
    ///     arena[input * 1000] = 7; // try something
    ///     let restored = arena.restore(&start)?;
    ///     assert_eq!(restored.pages, 1);
    ///     assert_eq!(&arena[..5], b"hello");
    /// }
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::OtherArena`] when the snapshot is of another arena; [`Error::StoreExhausted`] and
    /// [`Error::Engine`] when it can not be read any more; [`Error::HandlerReplaced`],
    /// [`Error::SignalMasked`] and [`Error::GuardHeld`] as for [`snapshot`](Self::snapshot);
    /// [`Error::Reserve`] when the system has no memory for the bookkeeping, two bits a page. The
    /// arena is as it was then, unless other threads stored to it meanwhile so that the snapshot
    /// failed in the middle: then parts of it are.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<Restored, Error> {
        if !snapshot.is_of(&self.registered) {
            return Err(Error::OtherArena {
                snapshot: snapshot.id(),
            });
        }
        self.core().end_leaked_guards();
        self.registered.check_handler()?;
        snapshot.restore().map(Restored::from)
    }
}

impl From<cow::restore::Restored> for Restored {
    fn from(restored: cow::restore::Restored) -> Self {
        let copy = restored.took_ns.saturating_sub(restored.arming_ns);
        Self {
            pages: restored.pages,
            copy: Duration::from_nanos(copy),
            arm: Duration::from_nanos(restored.arming_ns),
        }
    }
}
