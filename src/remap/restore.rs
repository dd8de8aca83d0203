//! Putting live memory back to the frozen bytes: the pages that were stored to are thrown away.

use crate::page::{PageRange, push_page};
use crate::remap::Remap;

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
        let mut runs: Vec<PageRange> = Vec::new();
        let mut pages = 0;
        self.views.copied(private, |page| {
            pages += 1;
            push_page(&mut runs, page);
        });
        self.views.drop_copies(&runs).ok()?;
        Some(pages)
    }
}
