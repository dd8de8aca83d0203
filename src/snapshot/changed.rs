//! Which pages were written between two snapshots.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;
use crate::page::{PageIndex, PageRange};
use crate::snapshot::Snapshot;
use crate::snapshot::source::Source;

impl Snapshot {
    /// The pages that were written after `older` and before this snapshot, as ranges of page
    /// indices, ascending, not touching each other.
    ///
    /// Never misses a page that was written. (With [`Engine::Remap`](crate::Engine::Remap), between
    /// a snapshot and one that was taken while it lived, it names the pages whose bytes differ.)
    /// May name pages that were not: such as were saved and disarmed along with a neighbour (a
    /// [`Window`](crate::Window) of one page avoids that until mappings run short), or made
    /// writable by [`writable`](crate::Arena::writable). Costs time for the copies in the store,
    /// not for pages.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// let page = arena.page_size();
    /// let older = arena.snapshot()?;
    /// arena[3 * page] = 1;
    /// arena[4 * page] = 1;
    /// let newer = arena.snapshot()?;
    /// assert_eq!(newer.changed_since(&older)?, [3..5]);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotOlder`] when `older` is newer, or of another arena; [`Error::StoreExhausted`]
    /// when one of the two has failed.
    pub fn changed_since(&self, older: &Self) -> Result<Vec<Range<usize>>, Error> {
        let number = self.source().number();
        let other = older.source().number();
        let same_arena = Arc::ptr_eq(&self.held.registered, &older.held.registered);
        if !same_arena || other > number {
            return Err(Error::NotOlder {
                snapshot: number.get(),
                other: same_arena.then_some(other.get()),
            });
        }
        let pages = match (older.source(), self.source()) {
            (Source::Copies(older), Source::Copies(newer)) => {
                self.core().changed_between(older, newer)?
            }
            // They are one: nothing was written in between.
            (Source::Frozen { .. }, Source::Frozen { .. }) => Vec::new(),
            (Source::Frozen { frozen, .. }, _) => self.differing(older, frozen.copied())?,
            _ => self.differing(older, None)?,
        };
        let runs = pages.chunk_by(|a, b| a.get() + 1 == b.get());
        Ok(runs
            .map(|run| run[0].get()..run[0].get() + run.len())
            .collect())
    }

    /// Those of these pages, or of all, whose bytes differ.
    fn differing(
        &self,
        older: &Self,
        pages: Option<Vec<PageIndex>>,
    ) -> Result<Vec<PageIndex>, Error> {
        let page_size = self.core().page_size();
        let pages = pages.unwrap_or_else(|| PageRange::all(self.core().pages()).iter().collect());
        let mut one = vec![0; page_size.bytes()];
        let mut two = one.clone();
        let mut differing = Vec::new();
        for page in pages {
            older.read_at(page_size.offset_of(page), &mut one)?;
            self.read_at(page_size.offset_of(page), &mut two)?;
            if one != two {
                differing.push(page);
            }
        }
        Ok(differing)
    }
}
