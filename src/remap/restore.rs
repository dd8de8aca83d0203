//! Putting live memory back to the frozen bytes: the pages that were stored to are thrown away.
//!
//! A page that two restores in a row brought back is likely to be stored to again. It keeps its
//! copy, and gets the frozen bytes stored over it, which costs less than having the kernel make
//! another.

use crate::page::{PageIndex, PageRange, push_page};
use crate::remap::Remap;

impl Remap {
    /// Brings back what was stored since the memory was frozen, for one of its holders. Returns how
    /// many pages that were. `None` where it is to be done page by page, since the memory is lent:
    /// copies have to be made for others.
    ///
    /// Live memory that is held and not lent is private, all of it (the diagram in
    /// [`crate::remap`]), so that a page without a copy of its own is the file's.
    pub fn restore(&self) -> Option<usize> {
        let mut state = self.state();
        if self.is_lent() || self.is_forsaken() {
            return None;
        }
        let private = self.private(&state)?;
        let before = std::mem::take(&mut state.brought_back);
        let mut before = before.into_iter().peekable();
        let mut brought_back: Vec<PageIndex> = Vec::new();
        let mut dropped: Vec<PageRange> = Vec::new();
        self.views.copied(private, |page| {
            while before.next_if(|before| *before < page).is_some() {}
            if before.next_if_eq(&page).is_none() {
                push_page(&mut dropped, page);
                brought_back.push(page);
            } else if self.views.put_back(page) {
                brought_back.push(page);
            } else {
                // Not this time.
                push_page(&mut dropped, page);
            }
        });
        self.views.drop_copies(&dropped);
        let pages = brought_back.len();
        state.brought_back = brought_back;
        Some(pages)
    }
}
