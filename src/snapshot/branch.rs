//! A snapshot that goes on: memory that begins as it was, and is written on its own.

#![allow(unsafe_code, reason = "hands out references into mapped memory")]

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::error::Error;
use crate::process::frozen::Frozen;
use crate::snapshot::Snapshot;
use crate::snapshot::whole::Whole;
use crate::sys;

/// Memory that begins as a snapshot was, made by [`Snapshot::branch`]: it derefs to `&mut [u8]`.
/// What is stored to it is seen nowhere else, and nothing that is stored to the arena or to another
/// branch is seen in it.
///
/// It may be kept for longer than the snapshot and the arena, and given to another thread.
pub struct Branch {
    bytes: Bytes,
}

enum Bytes {
    Private(Private),
    Whole(Whole),
}

/// A private view of a frozen arena's file.
struct Private {
    view: Arc<sys::Branch>,
    /// Whose file it is: let go after the view.
    frozen: Frozen,
}

impl Snapshot {
    /// Memory that begins as the snapshot is, and can be written: as after a fork(2), but in one
    /// process.
    ///
    /// With [`Engine::Remap`](crate::Engine::Remap) it costs one mapping of the process, some
    /// microseconds at any size; then a copy by the kernel for each page that is written. Any
    /// number can be made. While one lives the snapshot's memory stays as it is, as with a
    /// [`view`](Self::view). `madvise(MADV_DONTNEED)` on it brings the snapshot's bytes back.
    ///
    /// With the other engines all pages that were ever touched are copied, as by
    /// [`view`](Self::view).
    ///
    /// ```
    /// use pagecow::{Arena, Engine};
    /// let mut arena = Arena::builder().engine(Engine::Remap).build(1 << 20)?;
    /// arena[..5].copy_from_slice(b"hello");
    /// let snapshot = arena.snapshot()?;
    /// let mut what_if = snapshot.branch()?;
    /// what_if[0] = b'j';
    /// arena[0] = b'c';
    /// assert_eq!(&what_if[..5], b"jello");
    /// assert_eq!(&arena[..5], b"cello");
    /// assert_eq!(snapshot.view()?[..5], *b"hello");
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Reserve`] when the system has not the address space or the mapping; with the fault
    /// engines also [`Error::StoreExhausted`] and [`Error::Engine`] as
    /// [`read_at`](Self::read_at).
    pub fn branch(&self) -> Result<Branch, Error> {
        let bytes = match self.frozen() {
            Some(frozen) => {
                let frozen = frozen.clone();
                let view = frozen.branch().map_err(|source| Error::Reserve {
                    bytes: self.len(),
                    source,
                })?;
                Bytes::Private(Private { view, frozen })
            }
            None => Bytes::Whole(self.copy_whole()?),
        };
        Ok(Branch { bytes })
    }
}

impl Branch {
    fn start(&self) -> *const u8 {
        match &self.bytes {
            Bytes::Private(private) => private.view.start(),
            Bytes::Whole(whole) => whole.as_ptr(),
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Its mapping goes with the last reference, which is this one, before the file is let go.
        self.frozen.forget(&self.view);
    }
}

impl Deref for Branch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Private(Private { view, .. }) => {
                // SAFETY: mapped and initialised for as long as `self` lives, to which nobody else
                // stores.
                unsafe { std::slice::from_raw_parts(view.start(), view.len()) }
            }
            Bytes::Whole(whole) => whole,
        }
    }
}

impl DerefMut for Branch {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.bytes {
            Bytes::Private(Private { view, .. }) => {
                // SAFETY: as above, and exclusively borrowed.
                unsafe { std::slice::from_raw_parts_mut(view.start(), view.len()) }
            }
            Bytes::Whole(whole) => whole,
        }
    }
}

impl std::fmt::Debug for Branch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Branch")
            .field("address", &self.start())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
