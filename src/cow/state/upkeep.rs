//! How many free frames stay resident, and until when.
//!
//! Frames are recycled: as many stay as were used in the last period. Where that is fewer than were
//! kept before, the surplus halves with each period. When no snapshot is taken or dropped for the
//! decay time, the rest goes too.

// Advice only, so it is plain in models too.
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::options::Options;
use crate::sys;

pub(crate) struct Upkeep {
    /// In nanoseconds.
    decay: u64,
    /// Frames that stay resident.
    kept: AtomicUsize,
    /// When a snapshot was last taken or dropped.
    used_at: AtomicU64,
}

impl Upkeep {
    pub fn new(options: &Options) -> Self {
        Self {
            decay: u64::try_from(options.decay.as_nanos()).unwrap_or(u64::MAX),
            kept: AtomicUsize::new(0),
            used_at: AtomicU64::new(sys::clock::now()),
        }
    }

    /// A snapshot was taken or dropped.
    pub fn is_used(&self) {
        self.used_at.store(sys::clock::now(), Ordering::Relaxed);
    }

    /// A period ended, in which `used` copies were made. One caller at a time.
    pub fn period_ended(&self, used: usize) {
        let kept = self.kept.load(Ordering::Relaxed);
        let surplus = kept.saturating_sub(used);
        self.kept.store(used + surplus / 2, Ordering::Relaxed);
        self.is_used();
    }

    /// Frames that stay resident for the next periods. `None` when nothing does for longer than the
    /// snapshot that it was used for.
    pub fn kept(&self) -> Option<usize> {
        (self.decay > 0).then(|| self.kept.load(Ordering::Relaxed))
    }

    /// Nanoseconds until the memory of free frames decays; 0 when it is time.
    pub fn left(&self) -> u64 {
        let used_at = self.used_at.load(Ordering::Relaxed);
        self.decay.saturating_sub(sys::clock::since(used_at))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_surplus_halves_with_each_period() {
        let upkeep = Upkeep::new(&Options::default());
        let kept = |used| {
            upkeep.period_ended(used);
            upkeep.kept()
        };
        assert_eq!(
            [1000, 200, 200, 200].map(kept),
            [1000, 600, 400, 300].map(Some)
        );
        assert_eq!(kept(5000), Some(5000));
    }
}
