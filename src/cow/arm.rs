//! Arming: write permission is taken from a part of the dirty set, with the gate closed and
//! drained.
//!
//! While the gate is closed the caller allocates nothing, calls nobody back, touches no arena and
//! has signals masked: a writer that waits at the gate may hold any lock but ours.

use crate::cow::core::Core;
use crate::cow::state::dirty::Slice;
use crate::error::{Error, Result};
use crate::page::PageRange;
use crate::sync::Ordering;
use crate::sys::{self, ProtectError};

impl Core {
    /// Arms everything, between closing the gate and opening it.
    pub(super) fn arm_everything(&self) -> Result<u64> {
        let masked = sys::signal::Masked::new();
        self.gate.close();
        let armed = self.arm(self.all_dirty());
        self.gate.open();
        drop(masked);
        armed
    }

    pub fn all_dirty(&self) -> Option<Slice> {
        self.dirty.slice(0, self.pages.get(), self.pages.get())
    }

    /// Arms a part of the dirty set; returns how many nanoseconds that took. Gate closed and
    /// drained.
    pub(super) fn arm(&self, slice: Option<Slice>) -> Result<u64> {
        let Some(slice) = slice else {
            return Ok(0);
        };
        let begin = sys::clock::now();
        self.count_arming();
        if let Err(error) = self.arm_pages(slice.range) {
            // Some of it may be armed; the pages stay in the dirty set.
            self.doubt.raise();
            return Err(Error::Protect {
                pages: slice.range.count().get(),
                source: error.into(),
            });
        }
        self.baseline.armed(&self.dirty, slice.range);
        self.dirty.remove(slice.range);
        if self.engine.splits_mappings() {
            self.mappings.joined(slice.runs);
        }
        // Blocks that are opened without a copy would undo what was armed.
        self.free_faults.store(0, Ordering::Relaxed);
        let took = sys::clock::since(begin);
        self.counters.armed(took);
        Ok(took)
    }

    /// Where each border of armed pages is one of mappings, by one call: what lies between and is
    /// armed already costs nothing, while several calls cost a TLB shootdown each. Elsewhere what
    /// is armed already costs as much as what is not, so only runs that are close to each other
    /// share a call.
    fn arm_pages(&self, range: PageRange) -> std::result::Result<(), ProtectError> {
        const CLOSE: usize = 16;
        if self.engine.splits_mappings() {
            return self.engine.arm(range);
        }
        let mut next = range.start();
        while let Some(run) = self.dirty.run_from(next..range.end(), CLOSE) {
            self.engine.arm(run)?;
            next = run.end();
        }
        Ok(())
    }
}
