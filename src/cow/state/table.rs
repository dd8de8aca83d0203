//! One atomic word per page: up to which epoch the page has been dealt with, and who may act on it.
//!
//! ```text
//!                     claim                            release(epoch)
//!   {e, free} -----------------------> {e, claimed} ------------------> {e' >= e, free}
//!                 (one wins)             |       ^                           | wakes
//!                                        v wait  |                           v
//!                                   {e, claimed, waited for} ---------> who waited
//! ```
//!
//! *Dealt with up to e* means: each snapshot of an epoch up to e that lives has its own copy of the
//! page (or has been told that there is none), so it never looks at live memory for this page
//! again. Words never go down and nothing is reset when a snapshot is taken: a page simply becomes
//! "older than the newest snapshot".
//!
//! Whether a page is armed is not in the word; see [`crate::cow::state::dirty`].

use crate::epoch::Epoch;
use crate::page::{PageCount, PageIndex};
use crate::sync::{AtomicU64, Ordering, sleep_u64, wait_until, wake_u64};
use crate::sys::Zeroed;

const CLAIMED: u64 = 1;
const WAITED_FOR: u64 = 2;
const EPOCH_SHIFT: u32 = 2;

/// What a page word held when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    pub const fn epoch(self) -> Epoch {
        Epoch::new(self.0 >> EPOCH_SHIFT)
    }

    pub const fn is_claimed(self) -> bool {
        self.0 & CLAIMED != 0
    }
}

pub(crate) struct Table {
    words: Zeroed<AtomicU64>,
}

impl Table {
    /// Words for `pages` pages, all free and dealt with up to epoch 0.
    pub fn new(pages: PageCount) -> std::io::Result<Self> {
        Ok(Self {
            words: Zeroed::new(pages.get())?,
        })
    }

    pub fn load(&self, page: PageIndex) -> Word {
        Word(self.words[page.get()].load(Ordering::Acquire))
    }

    /// Takes the page for the caller alone; returns the epoch it has been dealt with up to, or
    /// `None` when somebody else has it.
    ///
    /// Acquire: the caller sees what the last holder did.
    pub fn try_claim(&self, page: PageIndex) -> Option<Epoch> {
        let word = &self.words[page.get()];
        let mut seen = word.load(Ordering::Relaxed);
        while seen & CLAIMED == 0 {
            match word.compare_exchange_weak(
                seen,
                seen | CLAIMED,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Word(seen).epoch()),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Gives a claimed page back, dealt with up to `epoch`, and wakes the threads that wait for it.
    ///
    /// Release: a thread that sees the new epoch sees the published copy.
    pub fn release(&self, page: PageIndex, epoch: Epoch) {
        let word = &self.words[page.get()];
        let before = word.swap(epoch.get() << EPOCH_SHIFT, Ordering::AcqRel);
        debug_assert!(
            before & CLAIMED != 0,
            "released a page that was not claimed"
        );
        debug_assert!(Word(before).epoch() <= epoch, "a page word went down");
        if before & WAITED_FOR != 0 {
            wake_u64(word);
        }
    }

    /// Raises the epoch of a page while nobody can claim it (gate closed and drained).
    pub fn raise(&self, page: PageIndex, epoch: Epoch) {
        let word = &self.words[page.get()];
        debug_assert!(Word(word.load(Ordering::Relaxed)).epoch() <= epoch);
        word.store(epoch.get() << EPOCH_SHIFT, Ordering::Release);
    }

    /// Waits until the page is not claimed; it may be claimed again on return. The caller holds no
    /// claim and is in no gate.
    pub fn wait_free(&self, page: PageIndex) {
        let word = &self.words[page.get()];
        let is_free = || word.load(Ordering::Acquire) & CLAIMED == 0;
        wait_until(is_free, || {
            let seen = word.load(Ordering::Relaxed);
            if seen & CLAIMED == 0 {
                return;
            }
            let marked = seen | WAITED_FOR;
            if seen == marked
                || word
                    .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                sleep_u64(word, marked);
            }
        });
    }
}
