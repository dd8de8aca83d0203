//! Which pages of an arena were written since a snapshot, or a mark.

use std::ops::Range;

use crate::arena::Arena;
use crate::error::Error;
use crate::snapshot::{Mark, Since};

impl Arena {
    /// A [`Mark`] at this point in time: that of a snapshot that is taken, and dropped, for it.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// let page = arena.page_size();
    /// let mut mark = arena.mark()?;
    /// for round in 0..3 {
    ///     arena[round * page] = 1;
    ///     assert_eq!(arena.changed_since(&mark)?, [round..round + 1]);
    ///     mark = arena.mark()?;
    /// }
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn mark(&self) -> Result<Mark, Error> {
        self.snapshot()?.mark()
    }

    /// The pages that were written after `since`, a snapshot or a [`Mark`], as ranges of page
    /// indices, ascending, not touching each other. Never misses a page that was written before the
    /// call; of one that is written by another thread meanwhile it may say either. May name others,
    /// as [`Snapshot::changed_since`](crate::Snapshot::changed_since), which says also what it
    /// costs; after [`open_all`](Self::open_all) a mark from before it names all pages.
    ///
    /// # Errors
    ///
    /// [`Error::OtherArena`]; [`Error::StoreExhausted`] when the snapshot has failed.
    pub fn changed_since<'a>(
        &self,
        since: impl Into<Since<'a>>,
    ) -> Result<Vec<Range<usize>>, Error> {
        since.into().changed(&self.registered)
    }
}
