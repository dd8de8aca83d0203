//! Tokens: what standing ready may cost writers, in nanoseconds of their time.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::FEW;
use crate::window::{LARGE, SMALL};

/// Writers pay for a time of this many nanoseconds with one: at most 1 % of one writer's time.
const SHARE: u64 = 100;
/// Most tokens: five seconds' share. There are as many to begin with.
const MOST: i64 = 50_000_000;
/// A round in which faults cost less than this cost little.
const LITTLE: u64 = 1_000_000;
/// With more tokens than the first of each, a fault opens at most this many pages.
const PIECES: [(i64, usize); 3] = [(MOST / 2, 1), (MOST / 5, 8), (-MOST / 5, SMALL)];
/// What a fault costs a writer beyond the time in the handler: the signal, and the caches.
#[cfg(not(loom))]
const SIGNAL_NS: u64 = 4_000;
/// What a fault costs altogether, until that is known better.
const FAULT_NS: u64 = 10_000;
/// Longer in the handler, a thread waited for a processor: that costs no tokens.
#[cfg(not(loom))]
const MOST_FAULT_NS: u64 = 100_000;
/// What a call that arms costs writers that do not fault: their processors are interrupted.
const CALL_NS: u64 = 1_000;

pub(in crate::cow) struct Tokens {
    left: AtomicI64,
    /// When some were last given.
    paid_at: AtomicU64,
    /// What a fault costs lately.
    fault_cost: AtomicU64,
    /// What all faults cost so far, and what they had when the last round began.
    fault_ns: AtomicU64,
    fault_ns_before: AtomicU64,
    /// Tokens that do not exist yet, but that blocks may be tried for: twice as many with each
    /// round that cost little, none after one that did not.
    credit: AtomicI64,
}

impl Tokens {
    pub fn new(now: u64) -> Self {
        Self {
            left: AtomicI64::new(MOST),
            paid_at: AtomicU64::new(now),
            fault_cost: AtomicU64::new(FAULT_NS),
            fault_ns: AtomicU64::new(0),
            fault_ns_before: AtomicU64::new(0),
            credit: AtomicI64::new(0),
        }
    }

    /// Time has passed: writers may be charged with a share of it.
    pub fn pay(&self, now: u64) {
        let passed = now.saturating_sub(self.paid_at.swap(now, Relaxed));
        // What is less than a token is not lost.
        self.paid_at.fetch_sub(passed % SHARE, Relaxed);
        let tokens = (passed / SHARE).min(MOST as u64) as i64;
        let surplus = self.left.fetch_add(tokens, Relaxed) + tokens - MOST;
        if surplus > 0 {
            self.left.fetch_sub(surplus, Relaxed);
        }
    }

    /// A round begins: how many blocks may fail before no token and no credit is left.
    pub fn trials(&self) -> usize {
        let all = self.fault_ns.load(Relaxed);
        let lately = all.saturating_sub(self.fault_ns_before.swap(all, Relaxed));
        let credit = if lately < LITTLE {
            (self.credit.load(Relaxed) * 2 + LITTLE as i64).min(MOST)
        } else {
            0
        };
        self.credit.store(credit, Relaxed);
        let left = self.left.load(Relaxed);
        if left <= 0 {
            return 0;
        }
        let fault = self.fault_cost.load(Relaxed);
        let worst = fault * (u64::from(FEW) + 1) + CALL_NS;
        ((left + credit) as u64 / worst) as usize
    }

    /// How many pages a fault opens.
    pub fn piece(&self) -> usize {
        let left = self.left.load(Relaxed);
        let mut pieces = PIECES.iter();
        pieces
            .find(|(more_than, _)| left > *more_than)
            .map_or(LARGE, |(_, piece)| *piece)
    }

    /// A fault needed no copy; the handler took this long. Async-signal-safe.
    #[cfg(not(loom))]
    pub fn charge_fault(&self, nanoseconds: u64) {
        self.fault_ns.fetch_add(nanoseconds + SIGNAL_NS, Relaxed);
        let cost = nanoseconds.min(MOST_FAULT_NS) + SIGNAL_NS;
        self.left.fetch_sub(cost as i64, Relaxed);
        let lately = self.fault_cost.load(Relaxed);
        self.fault_cost.store((lately * 15 + cost) / 16, Relaxed);
    }

    /// A call has armed pages.
    pub fn charge_call(&self) {
        self.left.fetch_sub(CALL_NS as i64, Relaxed);
    }

    /// What faults that needed no copy cost so far, in nanoseconds.
    pub fn fault_ns(&self) -> u64 {
        self.fault_ns.load(Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
impl Tokens {
    pub fn set(&self, left: i64) {
        self.left.store(left, Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_hundredth_of_the_time_that_passes_but_not_of_long_ago() {
        let tokens = Tokens::new(0);
        let left = || tokens.left.load(Relaxed);
        tokens.pay(3600 * SECOND);
        assert_eq!(left(), MOST);
        tokens.set(0);
        for step in 1..=1000 {
            tokens.pay(3600 * SECOND + step * (SECOND / 1000 + 7));
        }
        assert_eq!(left() as u64, (SECOND + 7000) / SHARE);
    }

    #[test]
    fn what_is_tried_at_once_may_fail_altogether() {
        let tokens = Tokens::new(0);
        let in_handler = 30_000;
        for _ in 0..100 {
            tokens.charge_fault(in_handler);
        }
        tokens.set(MOST);
        let trials = tokens.trials();
        assert!(trials > 100, "{trials}");
        for _ in 0..trials {
            tokens.charge_call();
            for _ in 0..=FEW {
                tokens.charge_fault(in_handler);
            }
        }
        let left = tokens.left.load(Relaxed);
        assert!(left >= 0, "{left}");
        tokens.set(0);
        assert_eq!(tokens.trials(), 0);
    }

    #[test]
    fn rounds_that_cost_little_get_credit() {
        let tokens = Tokens::new(0);
        let all = MOST as u64 / (FAULT_NS * (u64::from(FEW) + 1));
        tokens.set(1);
        let trials: Vec<usize> = (0..8).map(|_| tokens.trials()).collect();
        assert!(trials.is_sorted() && trials[0] > 0 && trials[7] as u64 <= all);
        tokens.set(0);
        assert_eq!(tokens.trials(), 0);
        for _ in 0..1000 {
            tokens.charge_fault(FAULT_NS);
        }
        tokens.set(1);
        assert_eq!(tokens.trials(), 0);
    }

    #[test]
    fn the_fewer_are_left_the_larger_the_piece() {
        let tokens = Tokens::new(0);
        let mut pieces = Vec::new();
        for left in (-20..=50).rev() {
            tokens.set(left * 1_000_000);
            pieces.push(tokens.piece());
        }
        pieces.dedup();
        assert_eq!(pieces, [1, 8, SMALL, LARGE]);
    }
}
