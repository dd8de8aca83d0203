//! Passes over the dirty set, and whether further ones help.
//!
//! A pass arms what became dirty during the one before. Unless that is much less, writers dirty
//! pages as fast as they are armed.

/// After this many passes in a row that armed nearly as much as the one before, further ones do not
/// help.
const FRUITLESS: u32 = 2;

/// What passes have armed: pages, and the pages that their runs cost.
#[derive(Debug)]
pub(super) struct Passes {
    /// Passes begun.
    begun: u32,
    /// What this pass armed, and the one before.
    armed: usize,
    before: usize,
    /// Passes in a row that armed nearly as much as the one before.
    fruitless: u32,
    /// The last pass armed less than half as much as the one before.
    halved: bool,
}

impl Passes {
    pub fn new() -> Self {
        Self {
            begun: 0,
            armed: 0,
            before: 0,
            fruitless: 0,
            halved: true,
        }
    }

    /// Passes begun.
    pub fn begun(&self) -> u32 {
        self.begun
    }

    /// What passes found before says nothing of what comes now.
    pub fn caught_up(&mut self) {
        self.armed = 0;
        self.before = 0;
        self.fruitless = 0;
    }

    /// The next pass begins.
    pub fn begin(&mut self) {
        self.begun += 1;
        if self.before > 0 {
            let fruitless = self.armed > self.before / 4 * 3;
            self.fruitless = if fruitless { self.fruitless + 1 } else { 0 };
        }
        self.halved = self.before == 0 || self.armed < self.before / 2;
        self.before = std::mem::take(&mut self.armed);
    }

    /// This pass armed some more.
    pub fn armed(&mut self, pages: usize) {
        self.armed += pages;
    }

    /// Whether further passes would not help, at the rate at which pages were dirtied so far.
    pub fn is_stalled(&self) -> bool {
        self.fruitless >= FRUITLESS
    }

    /// Whether a call that found `begun` passes should go on: unless each of its passes halves what
    /// is left, writers are too fast, and the sooner the commit comes the better. The first two
    /// have nothing to compare with. Never more than `most`.
    pub fn pay(&self, begun: u32, most: u32) -> bool {
        let passes = self.begun - begun;
        (passes <= 2 || self.halved) && passes <= most
    }
}
