//! Freezing by remapping: the kernel's own copy-on-write keeps what was, and nothing is armed.
//!
//! Live memory is a view of a file. Two system calls [freeze] it, whatever its size: the first
//! moves its page tables to another address, where they are the snapshot; the second makes the live
//! view a private one, so that a store to it gets a page of its own, and the file stays as it is.
//! Once nobody looks at the file any more, [merge] brings the pages that were stored to meanwhile
//! back into it, slice by slice, until all of the live view is shared again.
//!
//! ```text
//!              freeze                     the last holder goes
//!   shared -------------> frozen, held -------------------------> frozen, not held
//!     ^                        ^                                     |         |
//!     |                        '---- freeze, while all of it --------'         |
//!     |                               is still unwritten                       |
//!     |                                                                        v
//!     '---- the last slice ---- merging: pages below a border are shared <-- merge
//!                                   |
//!                                   '--> frozen, not held: a fork
//! ```
//!
//! - *Holders* are snapshots, views and branches: all that looks at the file. A held file does not
//!   change: only merging stores to it, and shared pages of the live view, and with a holder there
//!   are neither.
//! - *A fork* freezes what is shared, so that parent and child have private views of one file. The
//!   parent's does not change while a process that was forked looks at it ([`children`]). The child
//!   does not merge: it goes on with another engine.
//! - *Lent*, all of it private, the memory is protected by another engine, which takes snapshots
//!   of it that overlap with others. It is taken back ([`lend`]) once that one has none left.
//! - *While a slice is merged* stores to it are refused, and wait for the end of it
//!   ([`Remap::refused`]). At all other times a store needs nobody's help.
//! - *Foreign* pages have left (`leave`): they are ordinary memory, neither frozen nor merged.
//!
//! Nothing here allocates but the list of branches. Each operation takes the state's lock for
//! itself; a fork keeps it.

mod foreign;
mod freeze;
mod lend;
mod merge;
#[cfg(not(loom))]
mod restore;
mod still;

#[cfg(not(loom))]
pub(crate) mod children;
#[cfg(any(feature = "forkable", loom))]
mod leave;
#[cfg(all(test, loom))]
mod models;

// These order nothing, so they are plain in models too.
use std::sync::atomic::AtomicBool as PlainBool;
use std::sync::atomic::AtomicU64 as Plain64;

use self::foreign::Foreign;
#[cfg(not(loom))]
pub(crate) use self::merge::Merged;
#[cfg(not(loom))]
pub(crate) use self::still::Still;
use crate::error::Error;
#[cfg(not(loom))]
use crate::page::PageIndex;
use crate::page::{PageCount, PageRange, PageSize};
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, lock};
use crate::sys::{Branch, ProtectError, Views};

pub(crate) struct Remap {
    views: Arc<Views>,
    page_size: PageSize,
    pages: PageCount,
    /// Pages of a slice.
    slice: usize,
    state: Mutex<State>,
    /// A number for the slice that is being merged; or 0.
    merging: AtomicU32,
    /// Its pages: the first, and the one after the last in the lower half.
    merging_pages: AtomicU64,
    /// Slices whose merging was begun.
    slices: Plain64,
    /// Copies of pages that merging found, and the most that there were at one time.
    copies: Plain64,
    most_copies: Plain64,
    /// In the child of a fork: another engine has taken over.
    forsaken: PlainBool,
    /// Lent: another engine may arm pages, all of which are private. Changes under the lock.
    lent: AtomicBool,
}

pub(crate) struct State {
    /// The pages below are shared,
    shared: usize,
    /// from there to here private, and those from here on shared, too: they were not in use yet
    /// when the others were made private. For an arena it is the end of all pages.
    end: usize,
    /// Snapshots, views and branches that look at the file.
    holders: usize,
    /// Those who are using, or about to use, the memory with another engine.
    loans: usize,
    /// How many pages are to be merged next; those of a slice at least.
    step: usize,
    /// Copies that were merged since the last snapshot was taken.
    merged: u64,
    /// The pages that the last restore brought back, ascending.
    #[cfg(not(loom))]
    brought_back: Vec<PageIndex>,
    /// Private views besides the live one.
    branches: Vec<Arc<Branch>>,
    /// Pages at whose addresses something else is.
    foreign: Foreign,
}

impl Remap {
    pub fn new(views: Arc<Views>, pages: PageCount, page_size: PageSize) -> Self {
        Self {
            views,
            page_size,
            pages,
            slice: slice_pages(page_size),
            state: Mutex::new(State {
                shared: pages.get(),
                end: pages.get(),
                holders: 0,
                loans: 0,
                step: 0,
                merged: 0,
                #[cfg(not(loom))]
                brought_back: Vec::new(),
                branches: Vec::new(),
                foreign: Foreign::none(),
            }),
            merging: AtomicU32::new(0),
            merging_pages: AtomicU64::new(0),
            slices: Plain64::new(0),
            copies: Plain64::new(0),
            most_copies: Plain64::new(0),
            forsaken: PlainBool::new(false),
            lent: AtomicBool::new(false),
        }
    }

    /// Merges as many pages at a time as a huge page has, so that none has to be split for it.
    #[cfg(not(loom))]
    pub fn in_huge_pages(mut self) -> Self {
        self.slice = self.page_size.pages_of_table();
        self
    }

    pub fn views(&self) -> &Arc<Views> {
        &self.views
    }

    /// Whether it is another engine's memory now.
    pub fn is_forsaken(&self) -> bool {
        self.forsaken.load(Ordering::Relaxed)
    }

    /// Slices whose merging was begun so far: if none was between two refused stores, then
    /// somebody else has refused the second.
    pub fn slices_begun(&self) -> u64 {
        self.slices.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The pages that are private; none when all are shared.
    fn private(&self, state: &State) -> Option<PageRange> {
        (!state.is_shared()).then(|| PageRange::from(state.shared..state.end))
    }
}

impl State {
    /// Whether all pages are.
    fn is_shared(&self) -> bool {
        self.shared == self.end
    }
}

/// A quarter of those whose page table could be moved whole. A store waits for a slice: with all of
/// it written 0.1 ms, instead of 0.4, and fewer stores meet it. All together take a tenth longer.
fn slice_pages(page_size: PageSize) -> usize {
    let table = page_size.pages_of_table();
    if cfg!(loom) { table } else { table / 4 }
}

fn refused(pages: PageRange, error: ProtectError) -> Error {
    Error::Protect {
        pages: pages.count().get(),
        source: error.into(),
    }
}
