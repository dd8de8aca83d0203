//! All of a snapshot's bytes, copied into memory of one's own.

#![allow(unsafe_code, reason = "hands out references into mapped memory")]

use std::ops::{Deref, DerefMut};

use crate::error::Error;
use crate::snapshot::Snapshot;
use crate::snapshot::touched::Touched;
use crate::sys::Memory;

pub(crate) struct Whole(Memory);

impl Snapshot {
    /// Copies all pages that were ever touched into memory that begins as zeros.
    pub(crate) fn copy_whole(&self) -> Result<Whole, Error> {
        let core = self.core();
        let memory = Memory::new(core.pages(), core.page_size());
        let memory = memory.map_err(|source| Error::Reserve {
            bytes: self.len(),
            source,
        })?;
        let mut whole = Whole(memory);
        self.copy_into(&mut whole)?;
        Ok(whole)
    }

    /// Copies all pages that were ever touched to where zeros are.
    pub(crate) fn copy_into(&self, zeros: &mut [u8]) -> Result<(), Error> {
        let page_size = self.page_size();
        let mut touched = Touched::default();
        let mut next = 0;
        while let Some(pages) = touched.next_from(self, next) {
            let bytes = pages.start * page_size..pages.end * page_size;
            self.read_at(bytes.start, &mut zeros[bytes])?;
            next = pages.end;
        }
        self.check()
    }
}

impl Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped and initialised for as long as `self` lives, which nobody else knows of.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

impl DerefMut for Whole {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr(), self.0.len()) }
    }
}
