//! Putting live memory back to the frozen bytes: the pages that were stored to are thrown away.

use std::ops::Range;

use crate::page::PageRange;
use crate::remap::Remap;

/// With more runs of pages than this, one call over all of them takes less time.
const MOST_RUNS: usize = 4096;

impl Remap {
    /// Throws away what was stored since the memory was frozen, for one of its holders. Returns how
    /// many pages that were. `None` where it is to be done page by page: the memory is lent, so
    /// that copies have to be made for others, or the system refuses (it is locked, perhaps).
    ///
    /// Live memory that is held and not lent is private, all of it (the diagram in
    /// [`crate::remap`]), so that a page without a copy of its own is the file's.
    pub fn restore(&self) -> Option<usize> {
        let state = self.state();
        if self.is_lent() || self.is_forsaken() {
            return None;
        }
        let private = self.private(&state)?;
        let mut runs: Vec<Range<usize>> = Vec::new();
        let mut pages = 0;
        self.views.copied(private, |page| {
            pages += 1;
            match runs.last_mut() {
                Some(run) if run.end == page.get() => run.end += 1,
                _ => runs.push(page.get()..page.get() + 1),
            }
        });
        if runs.len() > MOST_RUNS {
            self.views.drop_copies(private).ok()?;
            return Some(pages);
        }
        for run in runs {
            self.views.drop_copies(PageRange::from(run)).ok()?;
        }
        Some(pages)
    }
}
