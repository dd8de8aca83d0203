//! Pages that are mapped before anybody touches them.

use std::io;

use super::Views;
use crate::page::PageRange;
use crate::sys::linux::result::check;

impl Views {
    /// Maps private pages of the live view, so that the first load of each is no fault, and the
    /// first store a short one.
    pub fn populate(&self, pages: PageRange) -> io::Result<()> {
        let (offset, len) = self.bytes_of(pages);
        let live = self.live.wrapping_add(offset).cast();
        // Since Linux 5.14.
        // SAFETY: inside the live view; contents stay.
        check(unsafe { libc::madvise(live, len, libc::MADV_POPULATE_READ) })
    }
}
