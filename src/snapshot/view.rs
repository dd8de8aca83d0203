//! A snapshot as memory that lies in one piece.

use std::ops::Deref;
use std::sync::Arc;

use crate::error::Error;
use crate::process::frozen::Frozen;
use crate::snapshot::Snapshot;
use crate::snapshot::whole::Whole;

/// The frozen bytes of a snapshot in one piece, made by [`Snapshot::view`]: it derefs to `&[u8]`,
/// and may be kept for longer than the snapshot and the arena, on any thread.
#[derive(Clone)]
pub struct View {
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Frozen(Frozen),
    Whole(Arc<Whole>),
}

impl Snapshot {
    /// All frozen bytes in one piece.
    ///
    /// With [`Engine::Remap`](crate::Engine::Remap) this is free of charge, and nothing is copied:
    /// the view is the snapshot's own memory. It keeps the snapshot's memory as it is, like the
    /// snapshot itself: while it lives, and once something was stored, further snapshots are taken
    /// as with [`Engine::Mprotect`](crate::Engine::Mprotect). Reading a page that was never written
    /// makes it resident.
    ///
    /// With the other engines all pages that were ever touched are copied: about 0.3 ms and 1 MiB
    /// for each MiB of them. [`pages`](Self::pages), [`reader`](Self::reader) and
    /// [`copy_to`](Self::copy_to) need no memory for that.
    ///
    /// ```
    /// use pagecow::{Arena, Engine};
    /// for engine in [Engine::Mprotect, Engine::Remap] {
    ///     let mut arena = Arena::builder().engine(engine).build(1 << 20)?;
    ///     arena[..5].copy_from_slice(b"hello");
    ///     let view = arena.snapshot()?.view()?;
    ///     arena[..5].copy_from_slice(b"HELLO");
    ///     drop(arena);
    ///     assert_eq!(&view[..5], b"hello");
    /// }
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// With the fault engines: [`Error::Reserve`] when the system has not the address space,
    /// [`Error::StoreExhausted`] and [`Error::Engine`] as [`read_at`](Self::read_at).
    pub fn view(&self) -> Result<View, Error> {
        let bytes = match self.frozen() {
            Some(frozen) => Bytes::Frozen(frozen.clone()),
            None => Bytes::Whole(Arc::new(self.copy_whole()?)),
        };
        Ok(View { bytes })
    }
}

impl Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Frozen(frozen) => frozen,
            Bytes::Whole(whole) => whole,
        }
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("address", &self.as_ptr())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
