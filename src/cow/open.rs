//! The whole arena is made writable at once, on request, when no snapshot lives, so that there are
//! no more faults and system calls may write to it.

use crate::cow::core::Core;
use crate::cow::state::ledger::Ledger;
use crate::error::{Error, Result};
use crate::sys;

impl Core {
    /// Opens the arena; `false`, and nothing is done, while a snapshot lives.
    pub fn open_all(&self) -> Result<bool> {
        // Held until all is open: a snapshot that is taken meanwhile would need the pages.
        let ledger = self.ledger();
        if !ledger.live.is_empty() {
            return Ok(false);
        }
        self.open_with(&ledger)?;
        Ok(true)
    }

    /// Opens the arena, of which no snapshot lives.
    pub(super) fn open_with(&self, _ledger: &Ledger) -> Result<()> {
        self.marks.all_opened(self.epoch());
        let masked = sys::signal::Masked::new();
        self.gate.close();
        let opened = self.disarm_everything();
        self.gate.open();
        drop(masked);
        opened.map_err(|error| Error::Protect {
            pages: self.pages.get(),
            source: error.into(),
        })
    }
}
