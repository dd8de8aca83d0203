//! A gate: many may be inside at once, and one may close it and wait until nobody is.
//!
//! ```text
//!            enter / leave                 close                  (count reaches 0)
//!   OPEN, n ----------------> OPEN, n±1 ----------> CLOSED, n ----------------------> CLOSED, 0
//!      ^                                                                                  |
//!      +------------------------------------- open ---------------------------------------+
//! ```
//!
//! "Closed" and the count are one atomic word and entering is one read-modify-write on it. With two
//! words, "I am inside" and "is it closed?" would be Dekker's problem. A third part says that
//! a thread sleeps until the gate opens, so that opening wakes only when it has to, and can tell.
//!
//! All of it is async-signal-safe. An arena has two gates: [`crate::cow::core`] says who passes and
//! who closes which.

use crate::sync::{AtomicU32, Ordering, sleep_u32, wait_until, wake_u32};

const CLOSED: u32 = 1 << 31;
const WAITED_FOR: u32 = 1 << 30;
const COUNT: u32 = WAITED_FOR - 1;

#[derive(Debug)]
pub(crate) struct Gate {
    word: AtomicU32,
    /// How often closing had to wait for somebody inside.
    drains: AtomicU32,
}

impl Gate {
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            drains: AtomicU32::new(0),
        }
    }

    /// Goes inside, after waiting for as long as the gate is closed. A thread that waits is not
    /// counted.
    pub fn enter(&self) {
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            if seen & CLOSED != 0 {
                self.wait_open();
            } else if self
                .word
                // Acquire: what the closer did before it opened is seen inside.
                .compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                return;
            }
        }
    }

    /// Leaves. Release: what was done inside is seen by the next closer.
    pub fn leave(&self) {
        let before = self.word.fetch_sub(1, Ordering::Release);
        debug_assert!(before & COUNT != 0, "left a gate that nobody was in");
        if before & CLOSED != 0 && before & COUNT == 1 {
            wake_u32(&self.word);
        }
    }

    /// Closes the gate and waits until nobody is inside. One closer at a time: a second waits its
    /// turn.
    pub fn close(&self) {
        while !self.try_close() {
            self.wait_open();
        }
    }

    /// As [`close`](Self::close), but gives up (`false`) when somebody else has it closed.
    pub fn try_close(&self) -> bool {
        // Acquire, here and in the loop below: pairs with `leave`.
        let before = self.word.fetch_or(CLOSED, Ordering::Acquire);
        if before & CLOSED != 0 {
            return false;
        }
        if before & COUNT != 0 {
            self.drains.fetch_add(1, Ordering::Relaxed);
            let drained = || self.word.load(Ordering::Acquire) & COUNT == 0;
            wait_until(drained, || {
                let seen = self.word.load(Ordering::Relaxed);
                if seen & COUNT != 0 {
                    sleep_u32(&self.word, seen);
                }
            });
        }
        true
    }

    /// Opens a gate that the caller closed, and lets in the threads that wait; returns whether one
    /// slept.
    pub fn open(&self) -> bool {
        let before = self.word.swap(0, Ordering::Release);
        debug_assert_eq!(
            before & !WAITED_FOR,
            CLOSED,
            "opened a gate that was not closed and empty"
        );
        let waited_for = before & WAITED_FOR != 0;
        if waited_for {
            wake_u32(&self.word);
        }
        waited_for
    }

    /// Waits until the gate is open; it may be closed again on return.
    pub fn wait_open(&self) {
        let is_open = || self.word.load(Ordering::Relaxed) & CLOSED == 0;
        wait_until(is_open, || {
            let seen = self.word.load(Ordering::Relaxed);
            if seen & CLOSED == 0 {
                return;
            }
            let marked = seen | WAITED_FOR;
            if seen == marked
                || self
                    .word
                    .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                sleep_u32(&self.word, marked);
            }
        });
    }

    /// How often closing had to wait for somebody inside.
    pub fn drains(&self) -> u64 {
        u64::from(self.drains.load(Ordering::Relaxed))
    }
}
