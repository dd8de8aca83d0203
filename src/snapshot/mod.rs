//! The snapshot: a point in time of one arena.

pub(crate) mod aligned;
pub(crate) mod page;
pub(crate) mod reader;
pub(crate) mod touched;

use std::ops::Range;
use std::sync::Arc;

use crate::cow::core::Core;
use crate::cow::state::ledger::Live;
use crate::error::Error;
use crate::page::PageIndex;
use crate::process::registered::Registered;
use crate::snapshot::page::{Page, Pages};
use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::touched::Touched;

/// A point in time of one arena: its bytes as they were then, whatever was written since.
///
/// Cheap to clone; all clones are the same snapshot, which goes when the last of them is dropped. Any
/// number of snapshots may live at once, be used on any thread, be dropped in any order and outlive
/// their arena.
///
/// Reading never holds up writers. A page that was overwritten is read from the copy that was saved; all
/// others are read from the arena's memory.
///
/// Dropping a snapshot takes time for the copies that it holds (well under a microsecond each).
#[derive(Clone)]
pub struct Snapshot {
    held: Arc<Held>,
}

/// What goes with the last handle.
struct Held {
    registered: Arc<Registered>,
    live: Arc<Live>,
}

/// What one snapshot is and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotStats {
    /// The snapshot's number, counted from 1 within its arena.
    pub number: u64,
    /// Its length in pages.
    pub pages: u64,
    /// Pages that it reads from saved copies, some of which other snapshots may share.
    pub pages_saved: u64,
    /// The same in bytes.
    pub bytes_saved: u64,
    /// It lost a page to an exhausted store; reads fail.
    pub failed: bool,
}

impl Snapshot {
    pub(crate) fn new(registered: Arc<Registered>, live: Arc<Live>) -> Self {
        Self {
            held: Arc::new(Held { registered, live }),
        }
    }

    pub(crate) fn core(&self) -> &Core {
        self.held.registered.core()
    }

    pub(crate) fn live(&self) -> &Live {
        &self.held.live
    }

    /// The snapshot's number, counted from 1 within its arena: of two, the newer one has the
    /// larger.
    ///
    /// ```
    /// let arena = pagecow::Arena::new(4096)?;
    /// let (first, second) = (arena.snapshot()?, arena.snapshot()?);
    /// assert_eq!((first.id(), second.id()), (1, 2));
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn id(&self) -> u64 {
        self.live().epoch.get()
    }

    /// Whether it still holds all of the arena's bytes. `false`, and so for good, once it lost a
    /// page to a store that was used up: reads fail then. Costs two loads; writers may change the
    /// answer at any moment from `true` to `false`.
    pub fn is_exact(&self) -> bool {
        !self.core().has_failed(self.live())
    }

    /// Length in bytes: that of the arena, whole pages.
    #[expect(clippy::len_without_is_empty, reason = "an arena is never empty")]
    pub fn len(&self) -> usize {
        self.core().memory().len()
    }

    /// The length that was asked for when the arena was made, in bytes; [`len`](Self::len) is that,
    /// rounded up to whole pages.
    pub fn requested_len(&self) -> usize {
        self.held.registered.requested_len()
    }

    /// Size of a page in bytes.
    pub fn page_size(&self) -> usize {
        self.core().page_size().bytes()
    }

    /// Length in pages.
    pub fn page_count(&self) -> usize {
        self.core().pages()
    }

    /// Copies the frozen bytes from `offset` on into `buf`, all of it. That may be a part of the
    /// arena itself, which so gets back what it held: see
    /// [`docs/soundness.md`](crate::docs::soundness).
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(4096)?;
    /// arena[10] = 1;
    /// let snapshot = arena.snapshot()?;
    /// arena[10] = 2;
    /// let mut byte = [0];
    /// snapshot.read_at(10, &mut byte)?;
    /// assert_eq!(byte, [1]);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] when that is not inside the arena; [`Error::StoreExhausted`] when the
    /// snapshot has failed, in which case `buf` holds nothing of use, also where it is a part of
    /// the arena.
    pub fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<(), Error> {
        let len = self.len();
        let end = offset.saturating_add(buf.len());
        if end > len {
            return Err(Error::OutOfBounds {
                start: offset,
                end,
                len,
            });
        }
        if self.read_unconfirmed(offset, buf)? {
            return Ok(());
        }
        self.core().confirm()
    }

    /// As [`read_at`](Self::read_at), inside the arena. Returns whether all bytes came from copies; others
    /// count once the engine has [confirmed](crate::cow::core::Core::confirm) it.
    pub(crate) fn read_unconfirmed(&self, offset: usize, buf: &mut [u8]) -> Result<bool, Error> {
        let page_size = self.core().page_size();
        let mut at = offset;
        let mut rest = buf;
        let mut all_saved = true;
        while !rest.is_empty() {
            let page = page_size.page_of(at);
            let within = at - page_size.offset_of(page);
            let (now, later) = rest.split_at_mut(rest.len().min(page_size.bytes() - within));
            all_saved &= self.core().read(self.live(), page, within, now)?;
            at += now.len();
            rest = later;
        }
        Ok(all_saved)
    }

    /// One frozen page.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPage`]; [`Error::StoreExhausted`] when the snapshot has failed.
    pub fn page(&self, index: usize) -> Result<Page, Error> {
        let count = self.page_count();
        let page = PageIndex::checked(index, count).ok_or(Error::NoSuchPage { index, count })?;
        Page::read(self, page)
    }

    /// All frozen pages, from the first to the last.
    ///
    /// Ends after the first error: a snapshot that has failed stays so.
    pub fn pages(&self) -> Pages {
        Pages::new(self.clone(), false)
    }

    /// The frozen pages that may hold something other than zeros, from the first to the last; as
    /// [`pages`](Self::pages), leaving out those that were never touched. What that means is said
    /// at [`next_touched`](Self::next_touched).
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(64 << 30)?; // hardly any of it in use
    /// let page = arena.page_size();
    /// arena[1000 * page] = 7;
    /// let snapshot = arena.snapshot()?;
    /// for page in snapshot.touched_pages() {
    ///     let page = page?; // a few, not sixteen million
    ///     assert_eq!(page.bytes()[0], if page.index() == 1000 { 7 } else { 0 });
    /// }
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn touched_pages(&self) -> Pages {
        Pages::new(self.clone(), true)
    }

    /// The first pages from `page` on, in a row, that may hold something other than zeros, as page
    /// indices; `None` when all pages from there on are zeros. As lseek's `SEEK_DATA`, for holes. A
    /// long row comes in pieces of some thousand pages: go on with the end of the one before.
    ///
    /// Names each page that was ever written, and may name others: such as were read, that share a
    /// huge page with others, or that lie near others and were protected one by one (userfaultfd);
    /// and, without `/proc` or without a file descriptor to spare, all pages.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(1 << 30)?;
    /// let page = arena.page_size();
    /// arena[1000 * page] = 7;
    /// let snapshot = arena.snapshot()?;
    /// let mut next = 0;
    /// while let Some(pages) = snapshot.next_touched(next) {
    ///     next = pages.end; // Here pages are sent that the other side does not have.
    /// }
    /// assert!(next > 1000);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn next_touched(&self, page: usize) -> Option<Range<usize>> {
        let core = self.core();
        Touched::default().next_from(core.memory(), core.page_size(), page)
    }

    /// The frozen bytes as a stream.
    ///
    /// ```
    /// use std::io::Read;
    /// let mut arena = pagecow::Arena::new(4096)?;
    /// arena[..3].copy_from_slice(b"abc");
    /// let snapshot = arena.snapshot()?;
    /// let mut bytes = Vec::new();
    /// snapshot.reader().take(3).read_to_end(&mut bytes)?;
    /// assert_eq!(bytes, b"abc");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader::new(self.clone())
    }

    /// The pages that were written after `older` and before this snapshot, as ranges of page indices,
    /// ascending, not touching each other.
    ///
    /// Never misses a page that was written. May name pages that were not: such as were saved and
    /// disarmed along with a neighbour (a [`Window`](crate::Window) of one page avoids that until mappings run
    /// short), or made writable by [`writable`](crate::Arena::writable). Costs time for the copies in the store, not for pages.
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
    /// [`Error::NotOlder`] when `older` is newer, or of another arena; [`Error::StoreExhausted`] when
    /// one of the two has failed.
    pub fn changed_since(&self, older: &Self) -> Result<Vec<Range<usize>>, Error> {
        let number = self.live().epoch;
        let other = older.live().epoch;
        let same_arena = Arc::ptr_eq(&self.held.registered, &older.held.registered);
        if !same_arena || other > number {
            return Err(Error::NotOlder {
                snapshot: number.get(),
                other: same_arena.then_some(other.get()),
            });
        }
        let pages = self.core().changed_between(older.live(), self.live())?;
        let runs = pages.chunk_by(|a, b| a.get() + 1 == b.get());
        Ok(runs
            .map(|run| run[0].get()..run[0].get() + run.len())
            .collect())
    }

    /// What this snapshot holds. Takes time for the copies in the store, all snapshots' together,
    /// which are walked; [`id`](Self::id) and [`is_exact`](Self::is_exact) cost nothing.
    pub fn stats(&self) -> SnapshotStats {
        let saved = self.core().copies_of(self.live()) as u64;
        SnapshotStats {
            number: self.id(),
            pages: self.page_count() as u64,
            pages_saved: saved,
            bytes_saved: saved * self.page_size() as u64,
            failed: !self.is_exact(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.registered.core().release(&self.live);
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("number", &self.id())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
