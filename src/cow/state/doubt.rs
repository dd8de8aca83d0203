//! Whether a protect call failed half way.
//!
//! Such a call leaves its pages in the dirty set, so that no commit misses them, but some of them
//! may be armed. While there is doubt, "in the dirty set" does not mean "open", and a fault on such
//! a page disarms it. A commit that arms everything ends the doubt.

use crate::sync::{AtomicBool, Ordering};

pub(crate) struct Doubt(AtomicBool);

impl Doubt {
    pub fn none() -> Self {
        Self(AtomicBool::new(false))
    }

    /// A call failed. Inside the gate, before its pages' claims end, or with the gate closed.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// All pages were armed, or opened, by a call that worked. Gate closed and drained.
    pub fn settle(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Relaxed: a thread with a claim on a page has synchronised with whoever had it before.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
