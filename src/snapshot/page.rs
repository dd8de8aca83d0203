//! Single pages of a snapshot.

#![allow(unsafe_code, reason = "a page may be a view of a frame")]

use std::collections::VecDeque;

use crate::cow::supply::Refill;
use crate::error::Error;
use crate::page::PageIndex;
use crate::snapshot::Snapshot;
use crate::snapshot::aligned::AlignedPage;
use crate::snapshot::source::Source;
use crate::snapshot::touched::Touched;

/// One frozen page.
///
/// Owns its bytes, or shares the saved copy and keeps its snapshot alive for that: a page that is
/// kept is a snapshot that is kept. It never refers to live memory.
#[derive(Clone, Debug)]
pub struct Page {
    index: usize,
    bytes: Bytes,
}

#[derive(Clone)]
enum Bytes {
    Owned {
        bytes: AlignedPage,
        saved: bool,
    },
    Shared {
        start: *const u8,
        saved: bool,
        snapshot: Snapshot,
    },
}

// SAFETY: the pointer is to a frame, whose bytes do not change while the snapshot beside it lives.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Snapshot {
    /// One frozen page.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPage`]; [`Error::StoreExhausted`] when the snapshot has failed.
    pub fn page(&self, index: usize) -> Result<Page, Error> {
        let count = self.core().pages();
        let page = PageIndex::checked(index, count).ok_or(Error::NoSuchPage {
            index,
            count: count.get(),
        })?;
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
}

impl Page {
    pub(crate) fn read(snapshot: &Snapshot, page: PageIndex) -> Result<Self, Error> {
        let read = Self::read_unconfirmed(snapshot, page)?;
        if !read.is_saved() {
            snapshot.confirm()?;
        }
        Ok(read)
    }

    /// The same; bytes that are not from a copy count once the engine has
    /// [confirmed](crate::cow::core::Core::confirm) it.
    fn read_unconfirmed(snapshot: &Snapshot, page: PageIndex) -> Result<Self, Error> {
        let core = snapshot.core();
        let shared = |start: *const u8, saved| Bytes::Shared {
            start,
            saved,
            snapshot: snapshot.clone(),
        };
        let bytes = match snapshot.source() {
            Source::Frozen { frozen, .. } => {
                let offset = core.page_size().offset_of(page);
                shared(frozen[offset..].as_ptr(), false)
            }
            Source::Copies(live) => {
                if let Some(frame) = core.saved_frame(live, page)? {
                    shared(core.copy(frame), true)
                } else {
                    let mut bytes = AlignedPage::zeroed(snapshot.page_size());
                    let saved = core.read(live, page, 0, &mut bytes)?;
                    Bytes::Owned { bytes, saved }
                }
            }
        };
        Ok(Self {
            index: page.get(),
            bytes,
        })
    }

    /// A page that was never touched.
    fn zeros(snapshot: &Snapshot, page: PageIndex) -> Result<Self, Error> {
        snapshot.check()?;
        let bytes = AlignedPage::zeroed(snapshot.page_size());
        let saved = false;
        Ok(Self {
            index: page.get(),
            bytes: Bytes::Owned { bytes, saved },
        })
    }

    /// The page's number within the arena, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The frozen bytes, one page of them. Their address is a multiple of the page size, whether
    /// they are shared or owned, as in the arena: what could be cast to a type of larger alignment
    /// there can be cast here.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned { bytes, .. } => bytes,
            Bytes::Shared {
                start, snapshot, ..
            } => {
                // SAFETY: a frame that serves a live snapshot, and frozen memory, hold initialised
                // bytes that nobody writes, a page of them from here on; and the snapshot beside
                // the pointer lives as long as `self`.
                unsafe { std::slice::from_raw_parts(*start, snapshot.page_size()) }
            }
        }
    }

    /// Whether the bytes came from a saved copy: the page had been written since the snapshot (or
    /// saved ahead of a write) when it was read.
    pub fn is_saved(&self) -> bool {
        match &self.bytes {
            Bytes::Owned { saved, .. } | Bytes::Shared { saved, .. } => *saved,
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Owned { .. } => "owned",
            Self::Shared { .. } => "shared",
        })
    }
}

/// Iterator over the pages of a snapshot, made by [`Snapshot::pages`] or
/// [`Snapshot::touched_pages`].
///
/// Where it costs a system call to know that a page is right, up to 4 are read at a time.
#[derive(Clone, Debug)]
pub struct Pages {
    snapshot: Snapshot,
    /// The next page to read.
    next: usize,
    /// Pages that were read and not handed out yet.
    ahead: VecDeque<Page>,
    /// How many are read at a time: more and more, since some callers want but one.
    batch: usize,
    /// Leave out what was never touched.
    only_touched: bool,
    touched: Touched,
    refill: Refill,
}

const MOST_AHEAD: usize = 4;

impl Pages {
    pub(crate) fn new(snapshot: Snapshot, only_touched: bool) -> Self {
        Self {
            snapshot,
            next: 0,
            ahead: VecDeque::new(),
            batch: 1,
            only_touched,
            touched: Touched::default(),
            refill: Refill::default(),
        }
    }

    /// Reads some pages ahead: none at the end.
    fn read_ahead(&mut self) -> Result<(), Error> {
        let mut all_saved = true;
        while self.ahead.len() < self.batch
            && let Some(page) = self.read()?
        {
            all_saved &= page.is_saved();
            self.ahead.push_back(page);
        }
        let core = self.snapshot.core();
        if all_saved || !core.uses_userfaultfd() {
            return Ok(());
        }
        self.batch = (self.batch * 2).min(MOST_AHEAD);
        core.confirm()
    }

    /// Reads the next page, if there is one.
    fn read(&mut self) -> Result<Option<Page>, Error> {
        let core = self.snapshot.core();
        let count = core.pages();
        let touched = self
            .touched
            .next_from(&self.snapshot, self.next)
            .map_or(count.get(), |pages| pages.start);
        if self.only_touched {
            self.next = touched;
        }
        let Some(page) = PageIndex::checked(self.next, count) else {
            return Ok(None);
        };
        let read = if touched > self.next {
            Page::zeros(&self.snapshot, page)?
        } else {
            if self.snapshot.frozen().is_none() {
                self.refill.after(1, core);
            }
            Page::read_unconfirmed(&self.snapshot, page)?
        };
        self.next += 1;
        Ok(Some(read))
    }
}

impl Iterator for Pages {
    type Item = Result<Page, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ahead.is_empty()
            && let Err(error) = self.read_ahead()
        {
            // It was the last.
            self.ahead.clear();
            self.next = self.snapshot.page_count();
            return Some(Err(error));
        }
        self.ahead.pop_front().map(Ok)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let most = self.snapshot.page_count() - self.next + self.ahead.len();
        let least = if self.only_touched { 0 } else { 1 };
        (most.min(least.max(self.ahead.len())), Some(most))
    }
}

impl std::iter::FusedIterator for Pages {}
