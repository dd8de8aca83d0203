//! The whole arena is made writable at once: on request, when no snapshot lives, so that there are
//! no more faults and system calls may write to it; and by a fault that finds no other way
//! ([`crate::cow::fault`]).

use crate::cow::core::Core;
use crate::error::{Error, Result};
use crate::sync::{Ordering, fence, lock};
use crate::sys::{self, ProtectError};

impl Core {
    /// Opens the arena; `false`, and nothing is done, while a snapshot lives.
    pub fn open_all(&self) -> Result<bool> {
        // Held until all is open: a snapshot that is taken meanwhile would need the pages.
        let ledger = lock(&self.ledger);
        if !ledger.live.is_empty() {
            return Ok(false);
        }
        let masked = sys::signal::Masked::new();
        self.gate.close();
        let opened = self.disarm_everything();
        self.gate.open();
        drop(masked);
        drop(ledger);
        opened.map(|()| true).map_err(|error| Error::Protect {
            pages: self.pages,
            source: error.into(),
        })
    }

    /// Disarms the arena as a whole, by one call, which splits no mapping. Gate closed and drained,
    /// and no snapshot needs what is in live memory. When it fails some pages may be open: a commit
    /// arms them all, and faults on those that are not open disarm them.
    pub fn disarm_everything(&self) -> std::result::Result<(), ProtectError> {
        // As in `Run::disarm`: who reads a byte that is stored from here on sees the raised words.
        fence(Ordering::Release);
        let disarmed = self.engine.disarm(self.all_pages());
        self.dirty.add_everything();
        self.half_armed.store(disarmed.is_err(), Ordering::Relaxed);
        if disarmed.is_ok() {
            self.mappings.reset();
        }
        disarmed
    }
}
