//! How long a step may take.

use std::time::Duration;

use crate::sys;

/// A time allowed, which runs from when it was made.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    begin: u64,
    nanoseconds: u64,
}

impl Budget {
    pub fn new(budget: Duration) -> Self {
        Self {
            begin: sys::clock::now(),
            nanoseconds: u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    pub fn left(self) -> u64 {
        self.nanoseconds
            .saturating_sub(sys::clock::since(self.begin))
    }

    pub fn is_used_up(self) -> bool {
        self.left() == 0
    }
}
