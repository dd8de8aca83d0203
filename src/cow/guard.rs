//! Keeping a range of pages writable: what `writable(range)` stands on.
//!
//! Guards first, gate second: a commit waits until the arena's guard is gone before it closes the gate,
//! so who holds a guard never waits for that commit. A thread that holds a guard of some arena is not
//! made to wait for another arena's either; only then does a new guard stand back for a commit that
//! waits, so that a stream of guards cannot keep snapshots from happening.

use std::cell::RefCell;
// Orders nothing, so it is plain in models too.
use std::sync::Arc as PlainArc;
use std::sync::atomic::AtomicBool as PlainBool;

use crate::cow::core::Core;
use crate::cow::state::ledger::Ledger;
use crate::page::PageRange;
use crate::sync::{Ordering, ThreadId, current_thread, lock, thread_local, wait_on};

/// A guard that lives.
pub(crate) struct Guard {
    pub owner: ThreadId,
    pub pages: PageRange,
    /// For its thread to know when it ends, wherever that is.
    lives: Lives,
}

/// Whether a guard lives, shared by the guard's arena and its thread. Changes under the ledger's lock.
type Lives = PlainArc<PlainBool>;

thread_local! {
    /// The guards that this thread began, of any arena; some may have ended.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's macro has no const form")]
    static BEGUN: RefCell<Vec<Lives>> = RefCell::new(Vec::new());
}

/// Whether the calling thread holds a guard of any arena.
pub(crate) fn held_by_this_thread() -> bool {
    let held = BEGUN.try_with(|begun| {
        let mut begun = begun.borrow_mut();
        begun.retain(|lives| lives.load(Ordering::Relaxed));
        !begun.is_empty()
    });
    held.unwrap_or(false)
}

impl Core {
    /// Keeps commits away until [`end_guard`](Self::end_guard) and makes the pages writable.
    pub fn begin_guard(&self, pages: PageRange) {
        let lives = Lives::new(PlainBool::new(true));
        let mut ledger = lock(&self.ledger);
        // One that was leaked: the caller has a reference to the arena, which no guard in use would leave.
        self.end_guard_in(&mut ledger);
        while ledger.commits_waiting > 0 && !held_by_this_thread() {
            ledger = wait_on(&self.guard_gone, ledger);
        }
        ledger.guard = Some(Guard {
            owner: current_thread(),
            pages,
            lives: lives.clone(),
        });
        drop(ledger);
        // A thread that is about to end may have dropped its list, and then takes no snapshot either.
        let _ = BEGUN.try_with(|begun| begun.borrow_mut().push(lives));
        self.make_writable(pages);
    }

    /// Ends the arena's guard, if there is one, and lets commits go on. On any thread: a guard that was
    /// leaked ends when the arena is next used in a way that no guard in use would allow, or goes.
    pub fn end_guard(&self) {
        self.end_guard_in(&mut lock(&self.ledger));
    }

    fn end_guard_in(&self, ledger: &mut Ledger) {
        if let Some(guard) = ledger.guard.take() {
            guard.lives.store(false, Ordering::Relaxed);
            self.guard_gone.notify_all();
        }
    }
}
