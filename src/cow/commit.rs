//! Taking a snapshot, and the ledger of those that live.
//!
//! Most of what has to be armed may have been armed ahead ([`crate::cow::prepare`]); a commit arms the rest.
//! The order: wait until no `writable` guard lives; close the gate and drain it; arm what is dirty;
//! advance the epoch; open the gate. The snapshot's instant is when the gate was closed and all is
//! armed: a writer that faults meanwhile waits for the gate, so no later store is in the snapshot without
//! the earlier one (invariant 2).
//!
//! While the gate is closed the committer allocates nothing, calls nobody back, touches no arena and
//! has signals masked: a writer that waits at the gate may hold any lock but ours.

use std::ops::Range;

use crate::cow::core::Core;
use crate::cow::guard::{self, Guard};
use crate::cow::state::dirty::Slice;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::page::PageRange;
use crate::store::Frame;
use crate::sync::{Arc, AtomicBool, MutexGuard, Ordering, lock, wait_on, wait_on_for};
use crate::sys::{self, ProtectError};

/// One live snapshot, as its handles and the ledger know it.
pub(crate) struct Live {
    pub epoch: Epoch,
    /// It lost a page to an exhausted store, at a commit later than its own.
    pub failed: AtomicBool,
}

pub(crate) struct Entry {
    pub snapshot: Arc<Live>,
    /// The copies that serve this snapshot and no newer one; for the newest live snapshot they are on
    /// the list in [`crate::store::versions`] instead.
    pub saved: Option<Frame>,
}

/// What the lock protects: the live snapshots, oldest first, and the `writable` guard.
#[derive(Default)]
pub(crate) struct Ledger {
    pub live: Vec<Entry>,
    /// The arena's `writable` guard. An arena has at most one.
    pub guard: Option<Guard>,
    /// Commits that wait for the guard to go.
    pub commits_waiting: usize,
}

/// Resident before the first snapshot, when nothing is known.
const FEW_FRAMES: usize = 256;
/// So few free frames are not worth giving back.
const KEPT_FRAMES: usize = 1024;
/// How many frames are made ready at once, and at most one for so many pages of the arena. More are, beside
/// arming ahead.
const FIRST_PREFAULT: usize = 64;
const PAGES_PER_FRAME: usize = 16;

impl Core {
    /// Gets ready what a commit needs and what it would take long to get: address space for the
    /// copies, resident frames.
    pub fn reserve(&self, ledger: &Ledger) -> Result<()> {
        // Twice the pages: as many may be saved before the gate is closed, and as many after.
        let frames = self.pages * 2;
        self.store
            .reserve(frames)
            .or_else(|error| {
                if !self.mappings.is_split() || ledger.guard.is_some() {
                    return Err(error);
                }
                // Armed as a whole the arena's mappings become one again, and others can be made. Later
                // writes there find that they need no copy.
                let _ = self.arm(|| self.all_dirty());
                self.store.reserve(frames)
            })
            .map_err(|source| Error::Reserve {
                bytes: frames * self.page_size.bytes(),
                source,
            })?;
        let few = FIRST_PREFAULT.min(self.pages / PAGES_PER_FRAME);
        self.store.prefault(few, self.engine.populate());
        Ok(())
    }

    /// As [`reserve`](Self::reserve), for a snapshot that is only being prepared.
    #[cfg(not(loom))]
    pub fn reserve_first(&self) -> Result<()> {
        self.reserve(&lock(&self.ledger))
    }

    /// The ledger, once no guard lives.
    fn ledger_without_guard(&self) -> Result<MutexGuard<'_, Ledger>> {
        if guard::held_by_this_thread() {
            return Err(Error::GuardHeld);
        }
        let mut ledger = lock(&self.ledger);
        while ledger.guard.is_some() {
            ledger = self.wait_for_guard(ledger, None);
        }
        Ok(ledger)
    }

    /// Waits until a guard ends, at most this many nanoseconds; may return early. New guards stand back
    /// meanwhile. Not on a thread that holds a guard.
    pub fn wait_for_guard<'a>(
        &self,
        mut ledger: MutexGuard<'a, Ledger>,
        nanoseconds: Option<u64>,
    ) -> MutexGuard<'a, Ledger> {
        ledger.commits_waiting += 1;
        let mut ledger = match nanoseconds {
            Some(time) => wait_on_for(&self.guard_gone, ledger, time),
            None => wait_on(&self.guard_gone, ledger),
        };
        ledger.commits_waiting -= 1;
        if ledger.commits_waiting == 0 {
            // For new guards that stood back. They get the lock when this thread is done with it.
            self.guard_gone.notify_all();
        }
        ledger
    }

    /// Takes a snapshot of all pages: the second phase, a stop for who writes.
    pub fn commit(&self) -> Result<Arc<Live>> {
        let mut ledger = self.ledger_without_guard()?;
        self.reserve(&ledger)?;
        let epoch = self.epoch().next();
        let snapshot = Arc::new(Live {
            epoch,
            failed: AtomicBool::new(false),
        });
        ledger.live.reserve(1);

        let masked = sys::signal::Masked::new();
        let closing = sys::clock::now();
        self.gate.close();
        let armed = self.arm_closed(self.all_dirty());
        if armed.is_ok() {
            self.mark_failed(&ledger);
            if let Some(newest) = ledger.live.last_mut() {
                newest.saved = self.versions.swap_saved(None);
            }
            ledger.live.push(Entry {
                snapshot: snapshot.clone(),
                saved: None,
            });
            self.set_epoch(epoch);
            self.set_newest(epoch);
            self.half_armed.store(false, Ordering::Relaxed);
            self.mappings.reset();
            self.density.next_interval();
        }
        self.gate.open();
        let pause = sys::clock::since(closing);
        drop(masked);

        armed?;
        self.counters.committed(pause);
        Ok(snapshot)
    }

    /// Arms a part of the dirty set, chosen once the gate is closed, and opens the gate again. Returns
    /// whether a writer slept meanwhile, and how long arming took in nanoseconds. No guard's page is in it.
    pub fn arm(&self, choose: impl FnOnce() -> Option<Slice>) -> Result<(bool, u64)> {
        let masked = sys::signal::Masked::new();
        self.gate.close();
        let armed = self.arm_closed(choose());
        let waited_for = self.gate.open();
        drop(masked);
        armed.map(|nanoseconds| (waited_for, nanoseconds))
    }

    /// How many free frames are made resident for the time after the next commit. As many copies are
    /// expected as were made since the last one; frames that hold copies now are expected to become free
    /// for them. A few when nothing is known.
    pub fn frames_expected(&self) -> usize {
        let used = self.counters.saved_since_commit() as usize;
        let more = used.min(self.pages).saturating_sub(self.store.in_use());
        more.max((self.pages / 64).min(FEW_FRAMES))
    }

    /// Free frames whose memory is kept: while snapshots live, as many as were used since the last commit,
    /// or between the two before; an eighth of the arena at most when none lives.
    pub fn frames_kept(&self, any_lives: bool) -> usize {
        let used = self.counters.saved_lately() as usize;
        let most = if any_lives {
            self.pages
        } else {
            self.pages / 8
        };
        used.min(most).max(KEPT_FRAMES)
    }

    /// Makes `count` free frames resident.
    pub fn prefault(&self, count: usize) {
        let missing = count.saturating_sub(self.store.free_resident());
        let populate = self.engine.populate();
        if missing > 0 {
            let aside = {
                let _ledger = lock(&self.ledger);
                self.store.set_aside_empty(missing, self.pages)
            };
            if let Some(aside) = aside {
                self.store.populate(aside, populate);
            }
        }
        self.store.prefault(count, populate);
    }

    /// How many of the copies made since the last commit to compare with the arena before the snapshot that they
    /// were made for goes, or another comes: so that is known how many were of pages that were written.
    pub fn copies_to_compare(&self) -> usize {
        const MOST: usize = 1024;
        if self.density.ahead() == 0 || self.newest() != self.epoch() {
            return 0;
        }
        (self.density.copies() as usize / 16).clamp(8, MOST)
    }

    /// Compares some more copies with the arena, those of these numbers; from number 0 on it is anew.
    pub fn compare_copies(&self, numbers: Range<usize>) {
        if numbers.start == 0 && !numbers.is_empty() {
            self.density.compare_anew();
        }
        for number in numbers {
            self.compare_a_copy(number as u64 + 1);
        }
    }

    pub fn all_dirty(&self) -> Option<Slice> {
        self.dirty.slice(0, self.pages, self.pages)
    }

    /// Arms a part of the dirty set; returns how long that took in nanoseconds. Gate closed and drained.
    fn arm_closed(&self, slice: Option<Slice>) -> Result<u64> {
        let Some(slice) = slice else {
            return Ok(0);
        };
        let begin = sys::clock::now();
        self.count_arming();
        if let Err(error) = self.arm_pages(slice.range) {
            // Some of it may be armed; the pages stay in the dirty set.
            self.half_armed.store(true, Ordering::Relaxed);
            return Err(Error::Protect {
                pages: slice.range.count(),
                source: error.into(),
            });
        }
        self.dirty.remove(slice.range);
        if self.engine.splits_mappings() {
            self.mappings.joined(slice.runs);
        }
        // Blocks that are opened without a copy would undo what was armed.
        self.free_faults.store(0, Ordering::Relaxed);
        let took = sys::clock::since(begin);
        self.counters.armed(took);
        Ok(took)
    }

    /// Where each border of armed pages is one of mappings, by one call: what lies between and is armed already
    /// costs nothing, while several calls cost a TLB shootdown each. Elsewhere what is armed already costs as
    /// much as what is not, so only runs that are close to each other share a call.
    fn arm_pages(&self, range: PageRange) -> std::result::Result<(), ProtectError> {
        const CLOSE: usize = 16;
        if self.engine.splits_mappings() {
            return self.engine.arm(range);
        }
        let mut next = range.first().get();
        while let Some(run) = self.dirty.run_from(next, range.last(), CLOSE) {
            self.engine.arm(run)?;
            next = run.last().get() + 1;
        }
        Ok(())
    }

    /// Notes with each snapshot what the handler could note for all of them only. Gate closed.
    fn mark_failed(&self, ledger: &Ledger) {
        let floor = Epoch::new(self.fail_floor.load(Ordering::Relaxed));
        if floor == Epoch::NEVER {
            return;
        }
        for entry in &ledger.live {
            if entry.snapshot.epoch > floor {
                entry.snapshot.failed.store(true, Ordering::Relaxed);
            }
        }
        // Release: who sees the floor gone sees the flags.
        self.fail_floor.store(Epoch::NEVER.get(), Ordering::Release);
    }

    /// Whether a snapshot has lost a page, or its engine, and so may not be read any more.
    pub fn has_failed(&self, snapshot: &Live) -> bool {
        // The floor first: it is reset only after the flags are set.
        self.fail_floor.load(Ordering::Acquire) < snapshot.epoch.get()
            || snapshot.failed.load(Ordering::Relaxed)
            || self.engine.is_lost()
    }
}
