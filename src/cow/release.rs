//! A snapshot goes: its copies are handed to the older snapshots that need them, or freed.
//!
//! A copy is on the list of the newest live snapshot that it serves. When that one goes, the newest
//! older one in the copy's interval inherits it, and the interval ends there; without one, nobody can
//! ask for the copy any more and its frame is free. Dropping in any order so frees exactly what no
//! living snapshot needs (invariant 4), at the cost of the dropped snapshot's own list.

use crate::cow::commit::Live;
use crate::cow::core::Core;
use crate::epoch::Epoch;
use crate::store::Frame;
use crate::sync::lock;
use crate::sys;

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
        let mut ledger = lock(&self.ledger);
        let Some(at) = ledger
            .live
            .iter()
            .position(|entry| entry.snapshot.epoch == snapshot.epoch)
        else {
            debug_assert!(false, "a snapshot was released twice");
            return;
        };
        let is_newest = at + 1 == ledger.live.len();
        let mut list = ledger.live[at].saved;
        if is_newest {
            let (epoch, saved) = match at.checked_sub(1).map(|at| &mut ledger.live[at]) {
                Some(older) => (older.snapshot.epoch, older.saved.take()),
                None => (Epoch::ZERO, None),
            };
            // Handlers inside may be publishing copies for this snapshot: let them finish first.
            let masked = sys::signal::Masked::new();
            self.gate.close();
            list = self.versions.swap_saved(saved);
            self.set_newest(epoch);
            self.gate.open();
            drop(masked);
        }
        ledger.live.remove(at);
        // Nobody else removes snapshots meanwhile, and those that come are newer.
        let older: Vec<Epoch> = ledger.live[..at]
            .iter()
            .map(|entry| entry.snapshot.epoch)
            .collect();
        drop(ledger);

        let mut inherited: Vec<Option<Inherited>> = vec![None; older.len()];
        let mut freed = None;
        while let Some(frame) = list {
            let meta = self.store.meta(frame);
            list = meta.next_listed();
            let after = meta.after();
            let heirs = older.partition_point(|epoch| *epoch <= after)..older.len();
            if let Some(heir) = heirs.last() {
                meta.end_at(older[heir]);
                let chain = &mut inherited[heir];
                meta.set_next_listed(chain.map(|chain| chain.first));
                *chain = Some(Inherited {
                    first: frame,
                    last: chain.map_or(frame, |chain| chain.last),
                });
            } else {
                self.versions.unlink(&self.store, frame);
                meta.set_next_listed(freed);
                freed = Some(frame);
            }
        }
        self.hand_over(&older, &inherited);
        self.free(freed);
        drop(one_at_a_time);
        self.trim();
    }

    /// Gives memory of free frames back to the system, but for those that are expected to be used. In
    /// small steps, since a commit waits for the frames of one.
    pub fn trim(&self) {
        self.trim_beyond(|any_lives| self.frames_kept(any_lives));
    }

    /// As [`trim`](Self::trim), with another choice of how many to keep.
    pub fn trim_beyond(&self, keep: impl Fn(bool) -> usize) {
        loop {
            let ledger = lock(&self.ledger);
            let any_lives = !ledger.live.is_empty();
            let keep = keep(any_lives);
            let aside = if any_lives {
                self.store.set_aside_resident(keep, self.pages)
            } else {
                self.store.set_aside_unused(keep)
            };
            drop(ledger);
            let Some(aside) = aside else {
                return;
            };
            self.store.give_back(aside);
        }
    }

    /// Puts inherited copies on their heirs' lists.
    fn hand_over(&self, heirs: &[Epoch], inherited: &[Option<Inherited>]) {
        let mut ledger = lock(&self.ledger);
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

    /// Recycles frames that are off their chains, once no reader can be looking at them.
    fn free(&self, mut list: Option<Frame>) {
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
