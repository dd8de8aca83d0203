//! Memory for a program's own allocator, which a `fork()` freezes instead of copying its page
//! tables: the fork takes as long whatever its size. It is what `pagecow-preload` serves programs
//! from that know nothing of it.
//!
//! Parts of the memory that are in use lie below a border, `used`, which the caller keeps. Around
//! each fork the caller calls [`before_fork`](Forkable::before_fork), then
//! [`in_parent`](Forkable::in_parent) or [`in_child`](Forkable::in_child), one fork at a time, and
//! takes nothing above the border into use in between. Afterwards, on a thread of its own, it calls
//! [`merge_some`](Forkable::merge_some) until all is [`Merged::All`]. A store to a page that is
//! being merged is refused by SIGSEGV; the caller's handler calls
//! [`wait_if_refused`](Forkable::wait_if_refused).
//!
//! Only for that: not covered by the promises that the crate makes about versions.

use std::ffi::CStr;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::page::{MAX_PAGES, PageCount, PageIndex, PageRange, PageSize};
use crate::remap::children::{self, Since};
use crate::remap::{self, Remap};
use crate::sys::{self, Views};

/// Starts a thread of this name, at most 15 bytes, which gets no signals but faults, and runs when
/// and where the process's first thread does. `false` when the system refuses it.
pub fn start_thread(name: &'static CStr, run: fn() -> !) -> bool {
    let _masked = sys::signal::Masked::all_but_faults();
    sys::thread::start(name, run)
}

/// How a call to merge went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Nothing is left to merge.
    All,
    /// A slice was merged, and there are more.
    Some,
    /// A child looks at what was frozen, or a fork is under way.
    LookedAt,
}

/// Bytes that are mapped ahead at one time: some ten microseconds.
const PIECE: usize = 2 << 20;

/// Memory that a fork freezes.
pub struct Forkable {
    remap: Remap,
    page_size: PageSize,
    made: Since,
}

impl Forkable {
    /// `len` bytes of zeros, a whole number of pages: address space that is reserved three times,
    /// and resident as it is touched.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] for no pages, or for more than 2^32 - 2; [`Error::Reserve`] when the system
    /// refuses the memory, or what is done with it later.
    pub fn new(len: usize) -> Result<Self> {
        let page_size = PageSize::host();
        let most = MAX_PAGES * page_size.bytes();
        if len < page_size.bytes() || len > most {
            return Err(Error::Size { bytes: len, most });
        }
        Views::probe().map_err(|source| Error::Reserve { bytes: len, source })?;
        let pages = PageCount::new(len / page_size.bytes());
        let made = children::now();
        let views = Views::new(pages, page_size, false);
        let views = views.map_err(|source| Error::Reserve { bytes: len, source })?;
        Ok(Self {
            remap: Remap::new(Arc::new(views), pages, page_size).unused(),
            page_size,
            made,
        })
    }

    /// Where it is.
    pub fn addresses(&self) -> Range<usize> {
        let start = self.remap.views().live() as usize;
        start..start + self.remap.views().len()
    }

    /// Freezes the first `used` bytes, so that a process that is forked next has a view of its own
    /// of them.
    ///
    /// # Errors
    ///
    /// When the system refuses it. All is as it was then, and a child must not be made: it would
    /// not have the memory.
    pub fn before_fork(&self, used: usize) -> Result<()> {
        children::hold().before();
        let frozen = self.remap.before_fork(used / self.page_size.bytes());
        if frozen.is_err() {
            let _ = self.remap.in_parent_of_fork();
            children::hold().refused();
        }
        frozen
    }

    /// After the fork, or when there was none.
    pub fn in_parent(&self) {
        // Children that nobody knows of crash then where they would do damage else.
        let _ = self.remap.in_parent_of_fork();
        children::hold().in_parent();
    }

    /// In the child, whose memory is its own, and ordinary, from now on. Async-signal-safe.
    pub fn in_child(&self) {
        self.remap.in_child_of_fork();
    }

    /// Maps the first pages from `from` on, in bytes, that are frozen and hold anything, 2 MiB at
    /// most, so that they need not be mapped one by one as they are touched. Returns which; `None`
    /// when there are no more, or the system does not do it.
    pub fn populate_some(&self, from: usize) -> Option<Range<usize>> {
        let page = self.page_size.bytes();
        let most = (PIECE / page).max(1);
        let mapped = self.remap.populate_some(from / page, most)?;
        Some(mapped.start() * page..mapped.end() * page)
    }

    /// Merges a slice of what was frozen, once no child looks at it.
    ///
    /// # Errors
    ///
    /// When the system refuses it. The slice is as it was.
    pub fn merge_some(&self) -> Result<Merged> {
        let is_looked_at = || children::any_since(self.made);
        Ok(match self.remap.merge_some(|| Ok(true), is_looked_at)? {
            remap::Merged::All => Merged::All,
            remap::Merged::Some => Merged::Some,
            remap::Merged::Held | remap::Merged::ByChild => Merged::LookedAt,
        })
    }

    /// Whether nothing is left to merge.
    pub fn is_merged(&self) -> bool {
        self.remap.left() == 0
    }

    /// After a store to this address, which is one of its own, was refused: waits while the page is
    /// being merged. Returns whether it was. Async-signal-safe.
    pub fn wait_if_refused(&self, address: usize) -> bool {
        let page = (address - self.addresses().start) / self.page_size.bytes();
        self.remap.refused(PageIndex::new(page))
    }

    /// Whether a slice is being merged.
    pub fn is_merging(&self) -> bool {
        self.remap.is_merging()
    }

    /// Waits until the slice that is being merged is. Async-signal-safe.
    pub fn wait_until_merged(&self) {
        self.remap.wait_until_merged();
    }

    /// Slices whose merging was begun so far.
    pub fn slices_begun(&self) -> u64 {
        self.remap.slices_begun()
    }

    /// Makes these bytes, whole pages by their distance from the start, zeros, and gives their
    /// memory back; those that [left](Self::leave) are of this memory again. `false` when they are
    /// frozen and not merged yet, or the system refuses it: then nothing is done, but those that
    /// left may not be touched any more.
    pub fn give_back(&self, bytes: Range<usize>) -> bool {
        self.remap.give_back(self.pages_of(&bytes))
    }

    /// Puts ordinary memory of the process in the place of these bytes, whole pages by their
    /// distance from the start, with what they hold. They are neither frozen nor merged from then
    /// on, and the caller may map there what he likes.
    ///
    /// # Errors
    ///
    /// When the system refuses it, or more than 256 pieces have left. Those that have not left are
    /// as they were.
    pub fn leave(&self, bytes: Range<usize>) -> Result<()> {
        self.remap.leave(self.pages_of(&bytes))
    }

    /// The first piece that has [left](Self::leave) and ends after `from`, in bytes.
    pub fn next_that_left(&self, from: usize) -> Option<Range<usize>> {
        let page = self.page_size.bytes();
        let run = self.remap.next_that_left(from / page)?;
        Some(run.start * page..run.end * page)
    }

    fn pages_of(&self, bytes: &Range<usize>) -> PageRange {
        let page = self.page_size.bytes();
        PageRange::from(bytes.start / page..bytes.end / page)
    }

    /// Pages that were copied for children so far, as far as they were merged.
    pub fn pages_copied(&self) -> u64 {
        self.remap.copies_merged()
    }
}
