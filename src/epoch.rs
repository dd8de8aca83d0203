//! Epochs: the numbers of an arena's snapshots.

/// Number of a snapshot: 0 before the first, then 1, 2, ... 62 bits never wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

impl Epoch {
    pub const ZERO: Self = Self(0);
    pub const NEVER: Self = Self(u64::MAX);

    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
