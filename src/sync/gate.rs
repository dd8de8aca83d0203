//! A gate: many may be inside at once, and one may close it and wait until nobody is.
//!
//! ```text
//!            enter / leave                 close                  (count reaches 0)
//!   OPEN, n ----------------> OPEN, n±1 ----------> CLOSED, n ----------------------> CLOSED, 0
//!      ^                                             ^                                |  |
//!      |                                             | shut                     admit |  |
//!      |                                          AJAR, n <---------------------------+  |
//!      +------------------------------------- open --------------------------------------+
//! ```
//!
//! "Closed" and the count are one atomic word and entering is one read-modify-write on it. With two
//! words, "I am inside" and "is it closed?" would be Dekker's problem. A third part says that a
//! thread sleeps until the gate opens, so that opening wakes only when it has to.
//!
//! A gate that stays closed for long is set *ajar* now and then: the threads that were waiting when
//! it was closed may enter, those that come later may not. So each waits for a short time only, and
//! yet no more get in than waited. A thread that comes while the gate is ajar may enter the next
//! time: once it has seen the gate closed to all, or by a bit that changes from one time to the
//! next. A thread that gets no processor while the gate is ajar misses its turn.
//!
//! All of it is async-signal-safe. An arena has two gates: [`crate::cow::core`] says who passes and
//! who closes which.

use std::cell::Cell;
// Orders nothing, so it is plain in models too.
use std::sync::atomic::AtomicU32 as Plain32;

use crate::sync::{AtomicU32, Ordering, sleep_u32, spin_until, wait_until, wake_u32};

const CLOSED: u32 = 1 << 31;
const WAITED_FOR: u32 = 1 << 30;
/// Closed, but for threads that have waited.
const AJAR: u32 = 1 << 29;
/// Changes each time the gate is set ajar.
const TURN: u32 = 1 << 28;
const COUNT: u32 = TURN - 1;

#[derive(Debug)]
pub(crate) struct Gate {
    word: AtomicU32,
    /// How often closing had to wait for a thread inside.
    drains: AtomicU32,
    /// Threads that began to wait, and those of them that entered.
    waited: Plain32,
    entered: Plain32,
}

/// Which of the threads that waited at a gate were let in while it was ajar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// None had waited, and the gate is still closed to all.
    Nobody,
    /// All of them.
    Everybody,
    /// Not all: some got no processor in time.
    Some,
}

/// What a thread that waits may enter by.
#[derive(Clone, Copy)]
enum Ticket {
    /// The gate is open.
    Open,
    /// It is open, or ajar.
    OpenOrAjar,
    /// It is open, or ajar with this turn.
    OpenOrTurn(u32),
}

impl Ticket {
    /// Of a thread that finds the gate in this state.
    fn on(word: u32) -> Self {
        if word & AJAR != 0 {
            Self::OpenOrTurn(!word & TURN)
        } else {
            Self::OpenOrAjar
        }
    }

    /// What it becomes when a thread that waits sees this state.
    fn after(self, word: u32) -> Self {
        match self {
            Self::OpenOrTurn(_) if word & (CLOSED | AJAR) == CLOSED => Self::OpenOrAjar,
            ticket => ticket,
        }
    }

    fn admits(self, word: u32) -> bool {
        word & CLOSED == 0
            || match self {
                Self::Open => false,
                Self::OpenOrAjar => word & AJAR != 0,
                Self::OpenOrTurn(turn) => word & AJAR != 0 && word & TURN == turn,
            }
    }
}

impl Gate {
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            drains: AtomicU32::new(0),
            waited: Plain32::new(0),
            entered: Plain32::new(0),
        }
    }

    /// Goes inside, after waiting for as long as the gate is closed. A thread that waits is not
    /// counted.
    pub fn enter(&self) {
        let Err(seen) = self.try_enter(Ticket::Open) else {
            return;
        };
        let mut ticket = Ticket::on(seen);
        self.waited.fetch_add(1, Ordering::Relaxed);
        while self.try_enter(ticket).is_err() {
            ticket = self.wait(ticket);
        }
        self.entered.fetch_add(1, Ordering::Relaxed);
    }

    /// Goes inside, unless the gate is closed to this ticket. `Err`: what its state was.
    fn try_enter(&self, ticket: Ticket) -> Result<(), u32> {
        let mut seen = self.word.load(Ordering::Relaxed);
        while ticket.admits(seen) {
            match self
                .word
                // Acquire: what the closer did before it opened is seen inside.
                .compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
        Err(seen)
    }

    /// Leaves. Release: what was done inside is seen by the next closer.
    pub fn leave(&self) {
        let before = self.word.fetch_sub(1, Ordering::Release);
        debug_assert!(before & COUNT != 0, "left a gate that nobody was in");
        // The closer does not sleep while the gate is ajar.
        if before & (CLOSED | AJAR) == CLOSED && before & COUNT == 1 {
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

    /// As [`close`](Self::close), but gives up (`false`) when another thread has it closed.
    pub fn try_close(&self) -> bool {
        // Acquire, here and in `drain`: pairs with `leave`.
        let before = self.word.fetch_or(CLOSED, Ordering::Acquire);
        if before & CLOSED != 0 {
            return false;
        }
        self.drain(before);
        true
    }

    /// Waits until nobody is inside a closed gate, which was seen in this state.
    fn drain(&self, seen: u32) {
        if seen & COUNT == 0 {
            return;
        }
        self.drains.fetch_add(1, Ordering::Relaxed);
        let drained = || self.word.load(Ordering::Acquire) & COUNT == 0;
        wait_until(drained, || {
            let seen = self.word.load(Ordering::Relaxed);
            if seen & COUNT != 0 {
                sleep_u32(&self.word, seen);
            }
        });
    }

    /// Lets in the threads that wait at a gate that the caller closed, and no others, until they
    /// have entered or this many nanoseconds are over. Unless nobody waited, the caller has to
    /// [shut](Self::shut) the gate.
    pub fn admit(&self, nanoseconds: u64) -> Admitted {
        let waited = self.waited.load(Ordering::Relaxed);
        let is_through = || {
            let entered = self.entered.load(Ordering::Relaxed);
            (waited.wrapping_sub(entered) as i32) <= 0
        };
        if is_through() {
            return Admitted::Nobody;
        }
        let closed = self.word.load(Ordering::Relaxed);
        let turn = !closed & TURN;
        // Release: what the closer did is seen by those who enter. Only threads that begin to sleep
        // change the word meanwhile.
        let before = self.word.swap(CLOSED | AJAR | turn, Ordering::Release);
        debug_assert_eq!(before & (CLOSED | AJAR | COUNT), CLOSED);
        if before & WAITED_FOR != 0 {
            wake_u32(&self.word);
        }
        spin_until(is_through, nanoseconds);
        if is_through() {
            Admitted::Everybody
        } else {
            Admitted::Some
        }
    }

    /// Closes a gate that is ajar to all, and waits until nobody is inside.
    pub fn shut(&self) {
        let before = self.word.fetch_and(!AJAR, Ordering::Acquire);
        debug_assert!(before & AJAR != 0, "shut a gate that was not ajar");
        self.drain(before);
    }

    /// Opens a gate that the caller closed, and lets in the threads that wait.
    pub fn open(&self) {
        let before = self.word.swap(0, Ordering::Release);
        debug_assert_eq!(
            before & (CLOSED | AJAR | COUNT),
            CLOSED,
            "opened a gate that was not closed and empty"
        );
        if before & WAITED_FOR != 0 {
            wake_u32(&self.word);
        }
    }

    /// Waits until the gate is open; it may be closed again on return.
    pub fn wait_open(&self) {
        self.wait(Ticket::Open);
    }

    /// Returns what the thread may enter by now: once it has seen the gate closed to all, it has
    /// waited.
    fn wait(&self, ticket: Ticket) -> Ticket {
        let ticket = Cell::new(ticket);
        let admits = |seen: u32| {
            ticket.set(ticket.get().after(seen));
            ticket.get().admits(seen)
        };
        let is_admitted = || admits(self.word.load(Ordering::Relaxed));
        wait_until(is_admitted, || {
            let seen = self.word.load(Ordering::Relaxed);
            if admits(seen) {
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
        ticket.get()
    }

    /// In the child of a fork: the threads that waited are not there.
    #[cfg(not(loom))]
    pub fn forget_waiting(&self) {
        let waited = self.waited.load(Ordering::Relaxed);
        self.entered.store(waited, Ordering::Relaxed);
    }

    /// How often closing had to wait for a thread inside.
    pub fn drains(&self) -> u64 {
        u64::from(self.drains.load(Ordering::Relaxed))
    }
}
