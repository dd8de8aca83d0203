//! Keeping a range of pages writable: what `writable(range)` stands on.
//!
//! Guards first, gate second: a commit waits until the arena's guard is gone before it closes the gate,
//! so who holds a guard never waits for that commit. A thread that holds a guard of some arena is not
//! made to wait for another arena's either; only then does a new guard stand back for a commit that
//! waits, so that a stream of guards cannot keep snapshots from happening.

use std::cell::Cell;

use crate::page::PageRange;
use crate::shared::Shared;
use crate::sync::{ThreadId, current_thread, lock, thread_local, wait_on};
use crate::sys;

/// A guard that lives.
pub(crate) struct Guard {
    pub owner: ThreadId,
    pub pages: PageRange,
}

thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro has no const form")]
    static HELD: Cell<usize> = Cell::new(0);
}

/// Whether the calling thread holds a guard of any arena.
pub(crate) fn held_by_this_thread() -> bool {
    HELD.with(|held| held.get() > 0)
}

impl Shared {
    /// Keeps commits away until [`end_guard`](Self::end_guard) and makes the pages writable.
    pub fn begin_guard(&self, pages: PageRange) {
        self.forget_leaked_guard();
        let mut ledger = lock(&self.ledger);
        while ledger.commits_waiting > 0 && !held_by_this_thread() {
            ledger = wait_on(&self.guard_gone, ledger);
        }
        ledger.guard = Some(Guard {
            owner: current_thread(),
            pages,
        });
        drop(ledger);
        HELD.with(|held| held.set(held.get() + 1));

        // Claims are held outside the handler here: a signal handler that stores to a claimed page
        // would wait for the thread that it interrupts.
        let masked = sys::signal::Masked::new();
        self.make_writable(pages);
        drop(masked);
    }

    /// Ends a guard that was leaked. The caller has a reference to the arena, which no guard that is
    /// still in use would let it have.
    pub fn forget_leaked_guard(&self) {
        let leaked = lock(&self.ledger).guard.take();
        if let Some(guard) = leaked {
            if guard.owner == current_thread() {
                HELD.with(|held| held.set(held.get() - 1));
            }
            self.guard_gone.notify_all();
        }
    }

    /// Lets commits go on. On the thread that began the guard.
    pub fn end_guard(&self) {
        HELD.with(|held| held.set(held.get() - 1));
        lock(&self.ledger).guard = None;
        self.guard_gone.notify_all();
    }
}
