//! The snapshot: a point in time of one arena.

mod aligned;
mod branch;
mod changed;
pub(crate) mod chunks;
mod copy;
mod mark;
mod page;
mod reader;
mod source;
mod timings;
mod touched;
mod view;
mod whole;

use std::io;
use std::sync::{Arc, Mutex};

use crate::cow::commit::Committed;
use crate::cow::core::Core;
use crate::cow::elsewhere::Elsewhere;
use crate::cow::prepare::Preparation;
use crate::error::Error;
use crate::process::frozen::Frozen;
use crate::process::registered::Registered;
pub use crate::snapshot::branch::Branch;
pub use crate::snapshot::changed::Since;
pub use crate::snapshot::mark::Mark;
pub use crate::snapshot::page::{Page, Pages};
pub use crate::snapshot::reader::SnapshotReader;
use crate::snapshot::source::Source;
pub use crate::snapshot::timings::Timings;
use crate::snapshot::touched::Touched;
pub use crate::snapshot::view::View;

/// A point in time of one arena: its bytes as they were then, whatever was written since.
///
/// Cheap to clone; all clones are the same snapshot, which goes when the last of them is dropped.
/// Any number of snapshots may live at once, be used on any thread, be dropped in any order and
/// outlive their arena.
///
/// Reading never holds up writers. A page that was overwritten is read from the copy that was
/// saved; all others are read from the arena's memory.
///
/// Dropping a snapshot takes time for the copies that it holds (well under a microsecond each).
#[derive(Clone)]
pub struct Snapshot {
    held: Arc<Held>,
}

/// What goes with the last handle.
struct Held {
    source: Source,
    registered: Arc<Registered>,
    timings: Timings,
    /// What the last `copy_range_to` found to be touched, for the next one.
    touched: Mutex<Touched>,
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
    /// A snapshot that was committed, and what preparing it had taken.
    pub(crate) fn new(
        registered: Arc<Registered>,
        preparation: &Preparation,
        committed: Committed,
    ) -> Self {
        let timings = Timings::new(preparation, &committed);
        registered.wake_keeper();
        Self {
            held: Arc::new(Held {
                registered,
                source: Source::Copies(committed.snapshot),
                timings,
                touched: Mutex::default(),
            }),
        }
    }

    pub(crate) fn of_frozen(
        registered: Arc<Registered>,
        frozen: Frozen,
        taken: &Elsewhere,
    ) -> Self {
        frozen.count_snapshots(1);
        let source = Source::Frozen {
            frozen,
            number: taken.number,
        };
        Self {
            held: Arc::new(Held {
                registered,
                source,
                timings: Timings::of_frozen(taken),
                touched: Mutex::default(),
            }),
        }
    }

    pub(crate) fn core(&self) -> &Core {
        self.held.registered.core()
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
        self.source().number().get()
    }

    /// What tells the snapshots of its arena from those of all others, in any process.
    pub(crate) fn lineage(&self) -> io::Result<u128> {
        self.held.registered.lineage()
    }

    /// Whether it still holds all of the arena's bytes. `false`, and so for good, once it lost a
    /// page to a store that was used up: reads fail then. Costs two loads; writers may change the
    /// answer at any moment from `true` to `false`.
    pub fn is_exact(&self) -> bool {
        match self.source() {
            Source::Copies(live) => !self.core().has_failed(live),
            Source::Frozen { .. } => true,
        }
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
        self.core().pages().get()
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
        self.confirm()
    }

    /// As [`read_at`](Self::read_at), inside the arena. Returns whether all bytes came from copies;
    /// others count once the engine has [confirmed](crate::cow::core::Core::confirm) it.
    pub(crate) fn read_unconfirmed(&self, offset: usize, buf: &mut [u8]) -> Result<bool, Error> {
        let live = match self.source() {
            Source::Copies(live) => live,
            Source::Frozen { frozen, .. } => {
                buf.copy_from_slice(&frozen[offset..offset + buf.len()]);
                return Ok(true);
            }
        };
        let page_size = self.core().page_size();
        let mut at = offset;
        let mut rest = buf;
        let mut all_saved = true;
        while !rest.is_empty() {
            let page = page_size.page_of(at);
            let within = at - page_size.offset_of(page);
            let (now, later) = rest.split_at_mut(rest.len().min(page_size.bytes() - within));
            all_saved &= self.core().read(live, page, within, now)?;
            at += now.len();
            rest = later;
        }
        Ok(all_saved)
    }

    /// What this snapshot holds. Takes time for its copies and those of newer snapshots, which are
    /// walked; [`id`](Self::id) and [`is_exact`](Self::is_exact) cost nothing.
    pub fn stats(&self) -> SnapshotStats {
        let saved = match self.source() {
            Source::Copies(live) => self.core().copies_of(live) as u64,
            Source::Frozen { frozen, .. } => frozen.copies(),
        };
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
        match &self.source {
            Source::Copies(live) => {
                self.registered.core().release(live);
                self.registered.wake_keeper();
            }
            Source::Frozen { frozen, .. } => frozen.count_snapshots(-1),
        }
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
