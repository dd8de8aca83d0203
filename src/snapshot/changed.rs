//! Which pages were written between two points in time.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result as OurResult};
use crate::page::{PageIndex, PageRange};
use crate::process::registered::Registered;
use crate::snapshot::source::Source;
use crate::snapshot::{Mark, Snapshot};

/// From where changes are counted: `&Snapshot` or `&Mark`, which are made one by `into()`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Since<'a> {
    /// From a snapshot.
    Snapshot(&'a Snapshot),
    /// From a mark.
    Mark(&'a Mark),
}

impl<'a> From<&'a Snapshot> for Since<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        Self::Snapshot(snapshot)
    }
}

impl<'a> From<&'a Mark> for Since<'a> {
    fn from(mark: &'a Mark) -> Self {
        Self::Mark(mark)
    }
}

impl Since<'_> {
    /// The number of the snapshot that it is, or at which it was made.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Snapshot(snapshot) => snapshot.id(),
            Self::Mark(mark) => mark.snapshot_id(),
        }
    }

    fn registered(&self) -> &Arc<Registered> {
        match self {
            Self::Snapshot(snapshot) => &snapshot.held.registered,
            Self::Mark(mark) => mark.registered(),
        }
    }

    /// The pages that were written since, up to now.
    pub(crate) fn changed(self, registered: &Arc<Registered>) -> OurResult<Vec<Range<usize>>> {
        if !Arc::ptr_eq(registered, self.registered()) {
            return Err(Error::OtherArena {
                snapshot: self.number(),
            });
        }
        let pages = match self {
            Self::Mark(mark) => mark.changed(),
            Self::Snapshot(snapshot) => match snapshot.source() {
                Source::Copies(live) => registered.core().changed_since(live)?,
                Source::Frozen { frozen, .. } => frozen.may_differ(),
            },
        };
        Ok(runs(&pages))
    }
}

fn runs(pages: &[PageIndex]) -> Vec<Range<usize>> {
    let runs = pages.chunk_by(|a, b| a.get() + 1 == b.get());
    runs.map(|run| run[0].get()..run[0].get() + run.len())
        .collect()
}

impl Snapshot {
    /// The pages that were written after `older`, a snapshot or a [`Mark`], and before this
    /// snapshot, as ranges of page indices, ascending, not touching each other.
    ///
    /// Never misses a page that was written. (With [`Engine::Remap`](crate::Engine::Remap), between
    /// a snapshot and one that was taken while it lived, it names the pages whose bytes differ.)
    /// May name pages that were not: such as were saved and disarmed along with a neighbour (a
    /// [`Window`](crate::Window) of one page avoids that until mappings run short), or made
    /// writable by [`writable`](crate::Arena::writable).
    /// [`pages_that_differ`](Self::pages_that_differ) leaves these out. Costs time for the copies
    /// that were made in between, not for pages; with a mark, for 8 bytes of bookkeeping a page:
    /// some 0.2 ms per GiB.
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
    pub fn changed_since<'a>(
        &self,
        older: impl Into<Since<'a>>,
    ) -> Result<Vec<Range<usize>>, Error> {
        Ok(runs(&self.pages_since(older.into())?))
    }

    /// The pages whose bytes differ between `older` and this snapshot, as ranges of page indices;
    /// as [`changed_since`](Self::changed_since), the pages of which are compared. So a page that
    /// was written and holds the same again is left out, and none is named that was only saved
    /// ahead, whatever the [`Window`](crate::Window).
    ///
    /// # Errors
    ///
    /// As [`changed_since`](Self::changed_since), and as [`read_at`](Self::read_at).
    pub fn pages_that_differ(&self, older: &Self) -> Result<Vec<Range<usize>>, Error> {
        let pages = match (older.source(), self.source()) {
            (Source::Copies(one), Source::Copies(two)) => {
                self.check_older(Since::Snapshot(older))?;
                self.core().differing_between(one, two)?
            }
            // These are compared.
            _ => self.pages_since(Since::Snapshot(older))?,
        };
        Ok(runs(&pages))
    }

    fn check_older(&self, older: Since<'_>) -> OurResult<()> {
        let number = self.source().number();
        let other = older.number();
        let same_arena = Arc::ptr_eq(&self.held.registered, older.registered());
        if !same_arena || other > number.get() {
            return Err(Error::NotOlder {
                snapshot: number.get(),
                other: same_arena.then_some(other),
            });
        }
        Ok(())
    }

    fn pages_since(&self, older: Since<'_>) -> OurResult<Vec<PageIndex>> {
        self.check_older(older)?;
        let older = match older {
            Since::Mark(mark) => return mark.changed_until(self),
            Since::Snapshot(older) => older,
        };
        match (older.source(), self.source()) {
            (Source::Copies(older), Source::Copies(newer)) => {
                self.core().changed_between(older, newer)
            }
            // They are one: nothing was written in between.
            (Source::Frozen { .. }, Source::Frozen { .. }) => Ok(Vec::new()),
            (Source::Frozen { frozen, .. }, _) => self.differing(older, frozen.copied()),
            _ => self.differing(older, None),
        }
    }

    /// Those of these pages, or of all, whose bytes differ.
    fn differing(&self, older: &Self, pages: Option<Vec<PageIndex>>) -> OurResult<Vec<PageIndex>> {
        let page_size = self.core().page_size();
        let pages = pages.unwrap_or_else(|| PageRange::all(self.core().pages()).iter().collect());
        let mut one = vec![0; page_size.bytes()];
        let mut two = one.clone();
        let mut differing = Vec::new();
        for page in pages {
            let offset = page_size.offset_of(page);
            older.read_unconfirmed(offset, &mut one)?;
            self.read_unconfirmed(offset, &mut two)?;
            if one != two {
                differing.push(page);
            }
        }
        older.confirm()?;
        self.confirm()?;
        Ok(differing)
    }
}
