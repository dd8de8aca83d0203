//! A snapshot goes: its copies are handed to the older snapshots that need them, or freed.
//!
//! A copy is on the list of the newest live snapshot that it serves. When that one goes, the newest
//! older one in the copy's interval inherits it, and the interval ends there; without one, no
//! snapshot can ask for the copy any more and its frame is free. So dropping in any order frees
//! exactly what no living snapshot needs (invariant 4), at the cost of the dropped snapshot's own
//! list.
//!
//! Three phases: the snapshot is *retired*, its copies are *bequeathed*, and the frames of those
//! that nobody inherits are *recycled*.

use crate::cow::core::Core;
use crate::cow::state::ledger::Live;
use crate::epoch::Epoch;
use crate::store::Frame;
use crate::sync::lock;
use crate::sys;

/// A snapshot that is off the live list.
struct Retired {
    /// The first of its copies.
    copies: Option<Frame>,
    /// The older snapshots that live, which may need them; oldest first.
    heirs: Vec<Epoch>,
}

/// Copies on their way to another snapshot's list.
#[derive(Clone, Copy)]
struct Inherited {
    first: Frame,
    last: Frame,
}

impl Core {
    /// Takes `snapshot` off the live list and deals with its copies. Its handles are gone.
    pub fn release(&self, snapshot: &Live) {
        let one_at_a_time = lock(&self.reclaim);
        if snapshot.epoch == self.newest() {
            self.compare_copies(0..self.copies_to_compare());
        }
        let Some(retired) = self.retire(snapshot) else {
            debug_assert!(false, "a snapshot was released twice");
            return;
        };
        self.upkeep.is_used();
        let unneeded = self.bequeath(retired);
        self.recycle(unneeded);
        drop(one_at_a_time);
        self.trim();
    }

    /// Takes a snapshot off the live list, and its copies off its list: no more come. `None` when
    /// it is not on it.
    fn retire(&self, snapshot: &Live) -> Option<Retired> {
        let mut ledger = self.ledger();
        let live = ledger.live.iter();
        let at = { live }.position(|entry| entry.snapshot.epoch == snapshot.epoch)?;
        let is_newest = at + 1 == ledger.live.len();
        let mut copies = ledger.live[at].saved;
        if is_newest {
            let (epoch, saved) = match at.checked_sub(1).map(|at| &mut ledger.live[at]) {
                Some(older) => (older.snapshot.epoch, older.saved.take()),
                None => (Epoch::ZERO, None),
            };
            // Handlers inside may be publishing copies for this snapshot: let them finish first.
            let masked = sys::signal::Masked::new();
            self.gate.close();
            copies = self.versions.swap_saved(saved);
            self.set_newest(epoch);
            self.gate.open();
            drop(masked);
        }
        ledger.live.remove(at);
        if self.baseline.is(snapshot.epoch) {
            self.baseline.end();
        }
        // No other thread removes snapshots meanwhile, and those that come are newer.
        let older = ledger.live[..at].iter();
        let heirs = older.map(|entry| entry.snapshot.epoch).collect();
        Some(Retired { copies, heirs })
    }

    /// Hands each copy to the newest older snapshot that it serves. Returns the list of those that
    /// serve none, which are off their pages' chains.
    fn bequeath(&self, retired: Retired) -> Option<Frame> {
        let Retired { mut copies, heirs } = retired;
        let mut inherited: Vec<Option<Inherited>> = vec![None; heirs.len()];
        let mut unneeded = None;
        while let Some(frame) = copies {
            let meta = self.store.meta(frame);
            copies = meta.next_listed();
            let after = meta.after();
            let served = heirs.partition_point(|epoch| *epoch <= after)..heirs.len();
            if let Some(heir) = served.last() {
                meta.end_at(heirs[heir]);
                let chain = &mut inherited[heir];
                meta.set_next_listed(chain.map(|chain| chain.first));
                *chain = Some(Inherited {
                    first: frame,
                    last: chain.map_or(frame, |chain| chain.last),
                });
            } else {
                self.versions.unlink(&self.store, frame);
                meta.set_next_listed(unneeded);
                unneeded = Some(frame);
            }
        }
        self.hand_over(&heirs, &inherited);
        unneeded
    }

    /// Puts inherited copies on their heirs' lists.
    fn hand_over(&self, heirs: &[Epoch], inherited: &[Option<Inherited>]) {
        let mut ledger = self.ledger();
        for (heir, chain) in heirs.iter().zip(inherited) {
            let Some(chain) = chain else { continue };
            let newest = ledger.live.len() - 1;
            let at = ledger
                .live
                .partition_point(|entry| entry.snapshot.epoch < *heir);
            if at == newest {
                // Handlers push to this list too.
                self.versions
                    .splice_saved(&self.store, chain.first, chain.last);
            } else {
                let saved = &mut ledger.live[at].saved;
                self.store.meta(chain.last).set_next_listed(*saved);
                *saved = Some(chain.first);
            }
        }
    }

    /// Frees frames that are off their chains, once no reader can be looking at them.
    fn recycle(&self, mut list: Option<Frame>) {
        if list.is_none() {
            return;
        }
        self.versions.wait_for_readers();
        while let Some(frame) = list {
            list = self.store.meta(frame).next_listed();
            self.store.put(frame);
        }
    }
}
