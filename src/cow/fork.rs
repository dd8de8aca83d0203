//! An arena around fork(2): no page is claimed, no gate is passed and no lock is held by another
//! thread at the moment of the fork, so that the child finds none that nobody will ever give back.

use std::sync::MutexGuard;

use crate::cow::core::Core;
use crate::cow::state::ledger::Ledger;
use crate::sync::{Ordering, current_thread, lock};
use crate::sys;

/// Arenas that are held still across a fork, by the thread that forks. Gates open when it is
/// dropped, before the locks are given back.
pub(crate) struct Still<'a> {
    arenas: Vec<Arena<'a>>,
    /// A signal handler that stores to an arena would wait for the thread that it interrupts.
    _masked: sys::signal::Masked,
}

struct Arena<'a> {
    core: &'a Core,
    ledger: MutexGuard<'a, Ledger>,
    _reclaim: MutexGuard<'a, ()>,
}

impl<'a> Still<'a> {
    /// Waits for all who hold something of these arenas, and keeps everybody out.
    pub fn hold(arenas: impl Iterator<Item = &'a Core>) -> Self {
        let arenas: Vec<Arena<'a>> = arenas.map(Arena::lock).collect();
        let masked = sys::signal::Masked::new();
        // Nothing is allocated from here on: a thread that waits at a gate may hold any lock. The
        // readers' gates first: a reader may be interrupted by a signal handler that stores to an
        // arena.
        for arena in &arenas {
            arena.core.versions.close_to_readers();
        }
        for arena in &arenas {
            arena.core.gate.close();
        }
        Self {
            arenas,
            _masked: masked,
        }
    }

    /// In the child, which has one thread: what the others held and counted is gone.
    pub fn adjust_in_child(&mut self) {
        for arena in &mut self.arenas {
            arena.adjust_in_child();
        }
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        for arena in &self.arenas {
            arena.core.gate.open();
            arena.core.versions.open_to_readers();
        }
    }
}

impl<'a> Arena<'a> {
    fn lock(core: &'a Core) -> Self {
        // In the order of `release`.
        let reclaim = lock(&core.reclaim);
        let ledger = core.ledger();
        // The thread that has set them aside would not be there in the child to bring them back.
        core.store.wait_for_aside();
        Self {
            core,
            ledger,
            _reclaim: reclaim,
        }
    }

    fn adjust_in_child(&mut self) {
        // Other threads' guards, and commits that waited, do not exist here.
        self.ledger.guards.keep_only_of(current_thread());
        self.ledger.commits_waiting = 0;
        self.ledger.standing_back = 0;
        self.move_to_mprotect();
        self.core.mappings.forked();
        self.core.gate.forget_waiting();
        self.core.forget_wanted();
        self.core.store.forget_prefaulting();
    }

    /// An arena protected by userfaultfd goes on with mprotect, all pages armed but those of
    /// guards.
    fn move_to_mprotect(&self) {
        let core = self.core;
        if core.engine.check().is_err() {
            // What was lost before the fork stays lost; what comes is protected again.
            for entry in &self.ledger.live {
                entry.snapshot.failed.store(true, Ordering::Relaxed);
            }
        }
        match core.engine.move_to_mprotect() {
            Ok(false) => return,
            Ok(true) => {}
            Err(_) => sys::die("pagecow: cannot arm the pages of a forked child\n"),
        }
        core.baseline.end();
        core.dirty.remove_everything();
        for pages in self.ledger.guards.pages() {
            if core.engine.disarm(pages).is_err() {
                sys::die("pagecow: cannot open the pages of a forked child's guard\n");
            }
            core.dirty.add(pages);
        }
        core.doubt.settle();
    }
}
