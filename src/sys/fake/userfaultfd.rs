//! userfaultfd of the models: each page has a permission of its own.

use std::io;
// Counts nothing that models are about.
use std::sync::Arc;
use std::sync::atomic::Ordering as Plain;

use loom::sync::atomic::{AtomicBool, Ordering};

use super::{Memory, set};
use crate::page::{PageRange, PageSize};
use crate::sys::{Permission, ProtectError};

/// One of its own for each arena.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    closed: Arc<AtomicBool>,
}

impl Descriptor {
    pub fn shared() -> io::Result<Self> {
        Ok(Self {
            closed: Arc::new(AtomicBool::new(false)),
        })
    }

    pub fn register(&self, memory: &Memory) -> io::Result<()> {
        memory.descriptor.get_or_init(|| self.clone());
        Ok(())
    }

    pub fn check(&self) -> io::Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            Err(io::Error::from_raw_os_error(libc::EBADF))
        } else {
            Ok(())
        }
    }

    pub fn protect(
        &self,
        memory: &Memory,
        range: PageRange,
        _page_size: PageSize,
        permission: Permission,
    ) -> Result<(), ProtectError> {
        if self.check().is_err() {
            return Err(ProtectError::Refused(libc::EBADF));
        }
        if permission == Permission::ReadOnly && memory.no_pages.load(Plain::Relaxed) {
            return Err(ProtectError::Refused(libc::ENOMEM));
        }
        for page in range.iter() {
            set(&memory.pages[page.get()].own, permission);
        }
        Ok(())
    }

    /// What a program does that closes descriptors that it does not know.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}
