//! Noticing a store that is refused again and again although its page is open.
//!
//! A store that finds its page opened by another thread is simply retried. When the page is open
//! and the store still fails - somebody else changed the page's protection behind our back -
//! retrying goes on for ever. Between two such faults of one thread on one page pages are armed,
//! ahead or by a snapshot; many in a row without that are no coincidence, and the fault is
//! forwarded.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::page::PageIndex;

const SLOTS: usize = 64;
const MOST: u64 = 200;

/// The last such fault of a few threads, each in one word: thread, page, armings (low bits of
/// each), and how often in a row. Threads that share a slot reset each other's count, which only
/// delays.
pub(crate) struct Progress {
    slots: [AtomicU64; SLOTS],
}

impl Progress {
    pub fn new() -> Self {
        Self {
            slots: [const { AtomicU64::new(0) }; SLOTS],
        }
    }

    /// Notes that `thread` faulted on a `page` that was open, when pages had been armed `armings`
    /// times; `false` when it has done nothing else for too long.
    pub fn is_made(&self, thread: u64, page: PageIndex, armings: u64) -> bool {
        let who = (thread & 0x3f_ffff) << 42;
        let place = (page.get() as u64 & 0xf_ffff) << 22;
        let when = (armings & 0x3fff) << 8;
        let event = who | place | when;
        let slot = &self.slots[thread as usize % SLOTS];
        let seen = slot.load(Ordering::Relaxed);
        let times = if seen & !0xff == event {
            (seen & 0xff) + 1
        } else {
            1
        };
        slot.store(event | times.min(0xff), Ordering::Relaxed);
        times <= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_fault_in_a_row_is_no_progress() {
        let progress = Progress::new();
        let (page, other) = (PageIndex::new(7), PageIndex::new(8));
        for _ in 0..MOST {
            assert!(progress.is_made(1, page, 3));
        }
        assert!(!progress.is_made(1, page, 3));
        assert!(progress.is_made(1, other, 3));
        for round in 0..10 * MOST {
            assert!(progress.is_made(1, page, round));
        }
    }
}
