//! Keeping ranges of pages writable: what `writable(range)` stands on.
//!
//! Guards first, gate second: a commit waits until no guard of the arena lives before it closes the
//! gate, so a thread that holds a guard never waits for that commit. It is not made to wait for
//! another arena's commit either: a new guard stands back for a commit that waits, so that a stream
//! of guards cannot keep snapshots from happening, but not on a thread that holds one already.

use std::cell::RefCell;
use std::marker::PhantomData;
// Orders nothing, so it is plain in models too.
use std::sync::atomic::AtomicBool as PlainBool;

use crate::cow::core::Core;
use crate::cow::state::guards::{Guard, Lives};
use crate::cow::state::ledger::Ledger;
use crate::page::PageRange;
use crate::sync::{MutexGuard, Ordering, thread_local, wait_on};

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

/// A guard that lives until this is dropped, on the thread that began it.
pub(crate) struct Token<'a> {
    core: &'a Core,
    number: u64,
    /// Guards are counted by thread.
    _not_send: PhantomData<*mut ()>,
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        self.core.end_guards(|guard| guard.number == self.number);
    }
}

impl Core {
    /// Keeps commits away for as long as the token lives, and makes the pages writable.
    pub fn begin_guard(&self, pages: PageRange) -> Token<'_> {
        let lives = Lives::new(PlainBool::new(true));
        let mut ledger = self.ledger();
        while ledger.commits_waiting > 0 && !held_by_this_thread() {
            ledger = self.stand_back(ledger);
        }
        let number = ledger.guards.begin(pages, lives.clone());
        drop(ledger);
        // A thread that is about to end may have dropped its list, and then takes no snapshot
        // either.
        let _ = BEGUN.try_with(|begun| begun.borrow_mut().push(lives));
        self.make_writable(pages);
        Token {
            core: self,
            number,
            _not_send: PhantomData,
        }
    }

    /// Waits until no commit waits for a guard; may return early.
    fn stand_back<'a>(&'a self, mut ledger: MutexGuard<'a, Ledger>) -> MutexGuard<'a, Ledger> {
        let before = ledger.let_in;
        ledger.standing_back += 1;
        let mut ledger = wait_on(&self.guard_gone, ledger);
        if ledger.let_in == before {
            ledger.standing_back -= 1;
        } else {
            self.ledger_is_had();
        }
        ledger
    }

    /// Has new guards that stood back get the ledger when this thread is done with it, or lends it.
    pub(super) fn let_in(&self, ledger: &mut Ledger) {
        self.ledger_is_wanted_by(std::mem::take(&mut ledger.standing_back));
        ledger.let_in += 1;
        self.guard_gone.notify_all();
    }

    /// Ends all of the arena's guards. Only where the caller knows that none is in use, so that
    /// those that live were leaked. On any thread.
    pub fn end_leaked_guards(&self) {
        self.end_guards(|_| true);
    }

    /// Ends guards and lets commits go on.
    fn end_guards(&self, ends: impl Fn(&Guard) -> bool) {
        if self.ledger().guards.end(ends) {
            self.guard_gone.notify_all();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::cow::prepare::Preparation;
    use crate::options::Options;
    use crate::page::{PageCount, PageSize};

    /// A guard begins, and stands back for a step that waits for the guard before it. Whether it is
    /// let in before the step has armed everything.
    fn is_let_in_during_the_step() -> bool {
        let pages = PageCount::new(1 << 16);
        let core = Core::new(PageSize::host(), pages, &Options::default()).unwrap();
        let until = |is_so: fn(&Ledger) -> bool| {
            while !is_so(&core.ledger()) {
                thread::yield_now();
            }
        };
        let first = core.begin_guard(PageRange::all(pages));
        thread::scope(|scope| {
            scope.spawn(|| core.arm_ahead(&mut Preparation::new(), Duration::MAX));
            until(|ledger| ledger.commits_waiting == 1);
            let second = scope.spawn(|| {
                let mut ledger = core.ledger();
                while ledger.commits_waiting > 0 {
                    ledger = core.stand_back(ledger);
                }
                !core.is_ready()
            });
            until(|ledger| ledger.standing_back == 1);
            drop(first);
            second.join().unwrap()
        })
    }

    /// On a busy machine its thread may miss its chance, so it has several.
    #[test]
    fn one_that_stood_back_for_a_step_waits_for_a_slice() {
        assert!((0..100).any(|_| is_let_in_during_the_step()));
    }
}
