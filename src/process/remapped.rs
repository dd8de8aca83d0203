//! An arena whose snapshots are taken by remapping ([`crate::remap`]): what the process adds to it.
//!
//! The arena's [`Core`] is there as well. It has the guards and the numbers, and in the child of a
//! fork it takes over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::cow::budget::Budget;
use crate::cow::core::Core;
use crate::cow::elsewhere::Unguarded;
use crate::cow::tend::Tended;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::page::{PageCount, PageSize};
use crate::process::registered::Registered;
use crate::protect::Protection;
use crate::remap::children::{self, Since};
use crate::remap::{Merged, Remap};
use crate::stats::Stats;
use crate::sys::signal::Refusal;
use crate::sys::{self, Memory, Views};

pub(crate) struct Remapped {
    pub(super) remap: Remap,
    pages: PageCount,
    page_size: PageSize,
    made: Since,
    /// Frozen ones that live.
    snapshots: AtomicUsize,
}

/// The memory of an arena on loan to its core, which takes snapshots that overlap with others.
pub(crate) struct Loan(Weak<Registered>);

impl Loan {
    /// `None` where the memory is the core's anyway.
    pub fn new(registered: &Arc<Registered>) -> Result<Option<Self>> {
        let Some(remapped) = registered.remap() else {
            return Ok(None);
        };
        if remapped.remap.lend()? {
            registered.core().get_ready_to_arm();
        }
        Ok(Some(Self(Arc::downgrade(registered))))
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(registered) = self.0.upgrade() else {
            return;
        };
        if let Some(remapped) = registered.remap_once() {
            remapped.remap.end_loan();
            registered.wake_keeper();
        }
    }
}

impl std::fmt::Debug for Loan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loan")
    }
}

/// How often to look whether a guard has ended, a forked process is gone, or the system grants
/// again what it has refused, in nanoseconds.
const GUARDED: u64 = 10_000_000;
const LOOKED_AT: u64 = 20_000_000;
const REFUSED: u64 = 200_000_000;

impl Remapped {
    pub fn new(page_size: PageSize, pages: PageCount, options: &Options) -> Result<Self> {
        let made = children::now();
        let views = Views::new(pages, page_size, options.huge_pages);
        let views = views.map_err(|source| Error::Reserve {
            bytes: pages.get() * page_size.bytes(),
            source,
        })?;
        let mut remap = Remap::new(Arc::new(views), pages, page_size);
        if options.huge_pages {
            remap = remap.in_huge_pages();
        }
        Ok(Self {
            remap,
            pages,
            page_size,
            made,
            snapshots: AtomicUsize::new(0),
        })
    }

    /// A core over the same memory.
    pub fn core(&self, options: &Options) -> Result<Core> {
        let memory = Memory::of_views(self.remap.views());
        let engine = Protection::over(memory, self.pages, self.page_size, options)?;
        // It is ready at any time without being armed, and arms only what is lent.
        let options = Options {
            stand_ready: false,
            ..options.clone()
        };
        Core::over(engine, self.page_size, self.pages, &options)
    }

    /// Whether a forked process may look at the file.
    fn is_looked_at(&self) -> bool {
        children::any_since(self.made)
    }

    /// Freezes the memory for one more holder, if it can.
    pub fn freeze(&self, core: &Unguarded<'_>) -> Result<bool> {
        self.remap
            .freeze(|| core.open_all(), || self.is_looked_at())
    }

    fn merge(&self, core: &Unguarded<'_>) -> Result<Merged> {
        if !sys::signal::is_installed(Refusal::Mapping) {
            // Stores to what is being merged could not wait.
            return Err(Error::HandlerReplaced);
        }
        let looked_at = || self.is_looked_at();
        self.remap.merge_some(|| core.open_all(), looked_at)
    }

    /// Whether a snapshot of its own can be expected to be taken: nobody holds the memory, here or
    /// where it is lent.
    pub fn can_freeze(&self) -> bool {
        self.remap.holders() == 0 && !self.remap.is_lent() && !self.is_looked_at()
    }

    /// `Err` when the process may not have the address space that freezing takes for a moment.
    pub fn check_room(&self) -> Result<()> {
        let bytes = self.remap.views().len();
        sys::has_room(bytes).map_err(|source| Error::Reserve {
            bytes,
            source: source.into(),
        })
    }

    /// A frozen snapshot began or ended.
    pub fn count_snapshots(&self, change: isize) {
        self.snapshots.fetch_add(change as usize, Ordering::Relaxed);
    }

    /// Whether a snapshot takes two calls, with nothing to merge before.
    pub fn is_ready(&self) -> bool {
        self.remap.is_ready()
    }

    /// Pages to be merged before that, at most.
    pub fn left(&self) -> usize {
        self.remap.left()
    }

    /// Merges all, so that system calls can write to any page from then on, unless a snapshot, view
    /// or branch lives; returns whether none does.
    pub fn open_all(&self, core: &Core) -> Result<bool> {
        loop {
            match core.unguarded(|core| self.merge(core)).transpose()? {
                Some(Merged::Some) => {}
                Some(Merged::Held) => return Ok(false),
                None | Some(Merged::All | Merged::ByChild) => return Ok(true),
            }
        }
    }

    /// Compares what is said to be shared with the kernel's mappings, and of what is lent what the
    /// core says of it. With no writer running.
    pub fn check_invariants(&self, core: &Core) -> std::result::Result<(), String> {
        self.remap.check_invariants()?;
        if self.remap.is_lent() {
            core.check_invariants()?;
        }
        Ok(())
    }

    /// The arena's counts: those of the core, with what is known of copies from the page tables.
    pub fn stats(&self, core: Stats) -> Stats {
        let bytes = |pages: u64| pages * self.page_size.bytes() as u64;
        let copies = self.remap.copies();
        Stats {
            pages_saved: core.pages_saved + copies.ever,
            bytes_saved: core.bytes_saved + bytes(copies.ever),
            live_snapshots: core.live_snapshots + self.snapshots.load(Ordering::Relaxed) as u64,
            store_bytes: core.store_bytes + bytes(copies.now),
            store_bytes_peak: core.store_bytes_peak.max(bytes(copies.most)),
            store_resident_bytes: core.store_resident_bytes + bytes(copies.now),
            ..core
        }
    }
}

impl Registered {
    /// A step of what is to be done for the arena between snapshots.
    pub fn tend_once(&self) -> Tended {
        let Some(remapped) = self.remap() else {
            return self.core().tend_once(self.may_arm());
        };
        if self.is_abandoned() {
            return Tended::Idle;
        }
        let merged = match self.core().unguarded(|core| remapped.merge(core)) {
            None => Tended::Later(GUARDED),
            Some(Ok(Merged::Some)) => Tended::Merge,
            Some(Ok(Merged::All | Merged::Held)) => Tended::Idle,
            Some(Ok(Merged::ByChild)) => Tended::Later(LOOKED_AT),
            Some(Err(_)) => Tended::Later(REFUSED),
        };
        merged.min(self.core().tend_once(false))
    }

    /// Steps until nothing is left to do now, or the budget is used up.
    pub fn tend(&self, budget: Duration) {
        let budget = Budget::new(budget);
        while self.tend_once().is_more() && !budget.is_used_up() {}
    }
}
