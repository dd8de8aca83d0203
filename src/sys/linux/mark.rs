//! Whether other processes still have an address space that was copied from this one.
//!
//! A mark is a page of a file of its own, mapped shared and writable across a fork, and unmapped
//! then by the parent. The kernel counts such mappings: it refuses to seal the file against writing
//! (`fcntl(2)`, `F_SEAL_WRITE`) while there is one, in a child, or in a child of it, until they
//! exit or execute another program. A pipe whose end children inherit would not do: programs close
//! descriptors that they do not know.

#![allow(unsafe_code, reason = "system calls")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use memmap2::{MmapOptions, MmapRaw};

use super::descriptor::Descriptor;

pub(crate) struct Mark {
    file: Descriptor,
    page: Option<MmapRaw>,
}

impl Mark {
    /// One that children get.
    pub fn new() -> io::Result<Self> {
        // Any size serves.
        const BYTES: u64 = 1;
        let file = super::descriptor::file_of_memory(BYTES, libc::MFD_ALLOW_SEALING)?;
        let mut mark = Self {
            file: Descriptor::new(file)?,
            page: None,
        };
        mark.show()?;
        Ok(mark)
    }

    /// Children of the next fork get it.
    pub fn show(&mut self) -> io::Result<()> {
        if !self.file.is_open() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let file: &File = self.file.file();
        self.page = Some(MmapOptions::new().len(1).map_raw(file)?);
        Ok(())
    }

    /// In the parent: those of later forks do not.
    pub fn hide(&mut self) {
        self.page = None;
    }

    /// In the child: it has the mark until it exits.
    pub fn keep(self) {
        std::mem::forget(self.page);
    }

    /// Whether a process has it; in doubt it has. Once none has, none ever will: it serves no more.
    pub fn is_seen(&self) -> bool {
        if !self.file.is_open() {
            return true;
        }
        let file = self.file.file().as_raw_fd();
        // SAFETY: a plain system call.
        unsafe { libc::fcntl(file, libc::F_ADD_SEALS, libc::F_SEAL_WRITE) != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_seen_while_it_is_shown() {
        let mut mark = Mark::new().unwrap();
        assert!(mark.is_seen());
        mark.hide();
        mark.show().unwrap();
        assert!(mark.is_seen());
        mark.hide();
        assert!(!mark.is_seen());
        assert!(mark.show().is_err());
    }
}
