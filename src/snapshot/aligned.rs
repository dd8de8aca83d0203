//! A page of bytes of one's own, at an address that is a multiple of the page size, as those of an
//! arena are.

#![allow(unsafe_code, reason = "an allocation with an alignment of its own")]

use std::alloc::{self, Layout};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// One page of initialised bytes.
pub(crate) struct AlignedPage {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: owns its bytes, as a `Box<[u8]>` does.
unsafe impl Send for AlignedPage {}
// SAFETY: as above.
unsafe impl Sync for AlignedPage {}

impl AlignedPage {
    /// A page of zeroes. `page_size` is a power of two.
    pub fn zeroed(page_size: usize) -> Self {
        let layout = Layout::from_size_align(page_size, page_size).expect("a power of two");
        // SAFETY: of `page_size` bytes, which are not none.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            alloc::handle_alloc_error(layout)
        };
        Self { start, layout }
    }
}

impl Deref for AlignedPage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `layout.size()` initialised bytes, which `self` owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedPage {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Clone for AlignedPage {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.layout.size());
        copy.copy_from_slice(self);
        copy
    }
}

impl Drop for AlignedPage {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout, and nobody uses it any more.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}
