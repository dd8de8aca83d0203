//! The ledger of the snapshots that live, and of the guards that keep new ones away.

use crate::cow::state::guards::Guards;
use crate::epoch::Epoch;
use crate::store::Frame;
use crate::sync::{Arc, AtomicBool};

/// One live snapshot, as its handles and the ledger know it.
pub(crate) struct Live {
    pub epoch: Epoch,
    /// It lost a page to an exhausted store, or its engine before a fork. Losses since the last
    /// commit are not here yet but in [`Losses`](super::losses::Losses).
    pub failed: AtomicBool,
}

pub(in crate::cow) struct Entry {
    pub snapshot: Arc<Live>,
    /// The copies that serve this snapshot and no newer one; for the newest live snapshot they are
    /// on the list in [`crate::store::versions`] instead.
    pub saved: Option<Frame>,
}

/// What the lock protects: the live snapshots, oldest first, and the `writable` guards.
#[derive(Default)]
pub(in crate::cow) struct Ledger {
    pub live: Vec<Entry>,
    pub guards: Guards,
    /// Commits that wait for guards to go.
    pub commits_waiting: usize,
    /// New guards that stand back for these.
    pub standing_back: u32,
    /// How often those that stood back were let in.
    pub let_in: u64,
}
