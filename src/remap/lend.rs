//! Lending the memory to another engine, for snapshots that overlap with others.
//!
//! What is lent is private, all of it, and stays so: it is neither frozen nor merged. So protection
//! that the other engine changes page by page never stands in the way of moving page tables, and a
//! fork finds nothing that is shared.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::page::PageRange;
use crate::remap::{Remap, State, refused};
use crate::sync::Ordering;
use crate::sys::ProtectError;

impl Remap {
    /// Lends the memory until every loan [ends](Self::end_loan) and it is taken back. Returns
    /// whether it was at home before.
    pub fn lend(&self) -> Result<bool> {
        let mut state = self.state();
        let was_lent = self.is_lent();
        if !was_lent {
            self.make_private(&mut state)?;
            self.lent.store(true, Ordering::SeqCst);
        }
        state.loans += 1;
        Ok(!was_lent)
    }

    pub fn end_loan(&self) {
        self.state().loans -= 1;
    }

    /// Whether another engine may have armed pages. Async-signal-safe.
    pub fn is_lent(&self) -> bool {
        self.lent.load(Ordering::SeqCst)
    }

    /// Makes what is shared private as well.
    pub(super) fn make_private(&self, state: &mut State) -> Result<()> {
        self.make_private_below(state, self.pages.get())
    }

    /// The same with what is below `end`.
    pub(super) fn make_private_below(&self, state: &mut State, end: usize) -> Result<()> {
        let end = end.max(state.end);
        if state.is_shared() {
            // All in one.
            state.shared = end;
            state.end = end;
        }
        // Away from what is private already, so that this is in one piece also when the system
        // refuses one of the parts.
        while let Some(part) = state.foreign.next_part(state.end..end) {
            self.make_pages_private(part.clone())?;
            state.end = part.end;
        }
        state.end = end;
        while let Some(part) = state.foreign.last_part(state.shared) {
            self.make_pages_private(part.clone())?;
            state.shared = part.start;
        }
        state.shared = 0;
        state.step = 0;
        Ok(())
    }

    fn make_pages_private(&self, pages: Range<usize>) -> Result<()> {
        let pages = PageRange::from(pages);
        self.views.freeze(pages).map_err(|error| match error {
            ProtectError::NoMappings => Error::Reserve {
                bytes: pages.count().get() * self.page_size.bytes(),
                source: error.into(),
            },
            ProtectError::Refused(_) => refused(pages, error),
        })
    }

    /// Takes the memory back, if it was lent; `false` when it is needed there. `open` makes sure
    /// that no page is armed, or says that a snapshot needs them armed.
    pub(super) fn take_back(
        &self,
        state: &State,
        open: impl FnOnce() -> Result<bool>,
    ) -> Result<bool> {
        if !self.is_lent() {
            return Ok(true);
        }
        if state.loans > 0 || !open()? {
            return Ok(false);
        }
        self.lent.store(false, Ordering::SeqCst);
        Ok(true)
    }
}
