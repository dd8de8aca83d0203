//! Pages that [leave](crate::remap::foreign): what they hold moves to ordinary memory at the same
//! address, of which the program may make what it likes. They come back when it needs them no more.
//!
//! As while a slice is merged, stores to them are refused meanwhile, and wait.

#[cfg(not(loom))]
use std::ops::Range;

use crate::error::Result;
use crate::page::PageRange;
use crate::remap::{Remap, refused};
use crate::sys::ProtectError;

impl Remap {
    /// Has these pages leave; those that did already stay.
    pub fn leave(&self, pages: PageRange) -> Result<()> {
        let mut state = self.state();
        let mut rest = pages.start()..pages.end();
        while let Some(part) = state.foreign.next_part(rest.clone()) {
            rest.start = part.end;
            let leaving = PageRange::from(part.clone());
            if !state.foreign.add(part.clone()) {
                return Err(refused(leaving, ProtectError::NoMappings));
            }
            let moved = self.refuse_while(leaving, || self.views.move_out(leaving));
            if let Err(error) = moved {
                // There are no more runs than before.
                state.foreign.remove(part);
                return Err(refused(leaving, error));
            }
        }
        Ok(())
    }
}

#[cfg(not(loom))]
impl Remap {
    /// The first run of pages that have left which ends after `from`.
    pub fn next_that_left(&self, from: usize) -> Option<Range<usize>> {
        self.state().foreign.next(from)
    }

    /// The program needs these pages no more: their memory is given back, those that left come
    /// back, and all are zeros. `false` when that is not possible now, since some are private, or
    /// the system refuses it. Nobody may use those that left then.
    pub fn give_back(&self, pages: PageRange) -> bool {
        let mut state = self.state();
        let mut rest = pages.start()..pages.end();
        let is_shared = state.is_shared() || rest.end <= state.shared || rest.start >= state.end;
        let mut all_back = is_shared;
        while let Some(run) = state
            .foreign
            .next(rest.start)
            .filter(|run| run.start < rest.end)
        {
            let part = run.start.max(rest.start)..run.end.min(rest.end);
            rest.start = part.end;
            let is_back = is_shared
                && self.views.move_in(part.clone().into()).is_ok()
                && state.foreign.remove(part.clone());
            if !is_back {
                self.views.fence(part.into());
            }
            all_back &= is_back;
        }
        all_back && self.views.give_back(pages).is_ok()
    }
}
