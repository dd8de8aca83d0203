//! A new arena that begins as a snapshot was.

use crate::arena::{Arena, ArenaBuilder};
use crate::error::Error;
use crate::snapshot::Snapshot;

impl Snapshot {
    /// A new arena, of the same length and engine, that begins as the snapshot is. All pages that
    /// were ever touched are copied. [`ArenaBuilder::build_from`] takes options.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// arena[..5].copy_from_slice(b"hello");
    /// let other = arena.snapshot()?.to_arena()?;
    /// assert_eq!(&other[..5], b"hello");
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Arena::new`], and as [`read_at`](Self::read_at).
    pub fn to_arena(&self) -> Result<Arena, Error> {
        Arena::builder().engine(self.engine()).build_from(self)
    }
}

impl ArenaBuilder {
    /// An arena of the same length as a snapshot's, that begins as the snapshot is. All pages that
    /// were ever touched are copied.
    ///
    /// # Errors
    ///
    /// As [`Arena::new`], and as [`Snapshot::read_at`].
    pub fn build_from(self, snapshot: &Snapshot) -> Result<Arena, Error> {
        let mut arena = self.build(snapshot.requested_len())?;
        snapshot.copy_into(&mut arena)?;
        Ok(arena)
    }
}
