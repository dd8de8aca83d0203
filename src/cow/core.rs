//! What an arena's handle, its snapshots and the fault handler share.
//!
//! The operations on it are one file each: [`crate::cow::fault`] (a page is made writable),
//! [`crate::cow::commit`] (a snapshot is taken), [`crate::cow::release`] (one goes), [`crate::cow::read`] (a
//! frozen page is read), [`crate::cow::guard`] (a range is kept writable), [`crate::cow::open`] (all of it is
//! made writable).

// Orders nothing, so it is plain in models too.
use std::sync::atomic::AtomicU64 as Plain64;

use crate::cow::commit::Ledger;
#[cfg(not(loom))]
use crate::cow::fault::Opened;
use crate::cow::state::dirty::DirtySet;
use crate::cow::state::mappings::Mappings;
use crate::cow::state::table::Table;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::options::{Options, Window};
use crate::page::{PageRange, PageSize};
use crate::protect::Protection;
use crate::stats::{Counters, Stats};
use crate::store::Store;
use crate::store::versions::Versions;
use crate::sync::gate::Gate;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Condvar, Mutex, Ordering, lock};
use crate::sys::Memory;
use crate::window::density::Density;

pub(crate) struct Core {
    pub(super) page_size: PageSize,
    pub(super) pages: usize,
    pub(super) engine: Protection,
    pub(super) window: Window,
    pub(super) table: Table,
    pub(super) dirty: DirtySet,
    pub(super) density: Density,
    pub(super) store: Store,
    pub(super) versions: Versions,
    /// Passed by everybody who disarms pages; closed by a commit, the drop of the newest snapshot,
    /// the last way out of the mapping wall and the opening of the whole arena. The next three
    /// change only while it is closed.
    pub(super) gate: Gate,
    epoch: AtomicU64,
    newest: AtomicU64,
    /// How often pages were armed. Changes only with the gate closed.
    armings: Plain64,
    /// A protect call failed half way: pages of the dirty set may be armed.
    pub(super) half_armed: AtomicBool,
    /// Faults since the last commit that found no snapshot alive.
    pub(super) free_faults: AtomicU32,
    /// Live snapshots newer than this have lost a page since the last commit; `NEVER` when none has.
    pub(super) fail_floor: AtomicU64,
    pub(super) ledger: Mutex<Ledger>,
    pub(super) guard_gone: Condvar,
    /// Held by the one who drops a snapshot, for as long as that takes.
    pub(super) reclaim: Mutex<()>,
    pub(super) mappings: Mappings,
    pub(super) counters: Counters,
}

impl Core {
    pub fn new(page_size: PageSize, pages: usize, options: &Options) -> Result<Self> {
        let no_memory = |source| Error::Reserve {
            bytes: pages * page_size.bytes(),
            source,
        };
        Ok(Self {
            page_size,
            pages,
            engine: Protection::new(pages, page_size, options)?,
            window: options.window,
            table: Table::new(pages).map_err(no_memory)?,
            dirty: DirtySet::new(pages).map_err(no_memory)?,
            density: Density::new(pages).map_err(no_memory)?,
            store: Store::new(page_size, pages, options.store_limit),
            versions: Versions::new(pages).map_err(no_memory)?,
            gate: Gate::new(),
            epoch: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            armings: Plain64::new(0),
            half_armed: AtomicBool::new(false),
            free_faults: AtomicU32::new(0),
            fail_floor: AtomicU64::new(Epoch::NEVER.get()),
            ledger: Mutex::new(Ledger::default()),
            guard_gone: Condvar::new(),
            reclaim: Mutex::new(()),
            mappings: Mappings::new(),
            counters: Counters::default(),
        })
    }

    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Length in pages.
    #[cfg(not(loom))]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Live memory.
    pub fn memory(&self) -> &Memory {
        self.engine.memory()
    }

    /// As [`Protection::uses_userfaultfd`]; [confirming](Self::confirm) is a check.
    #[cfg(not(loom))]
    pub fn uses_userfaultfd(&self) -> bool {
        self.engine.uses_userfaultfd()
    }

    pub(super) fn all_pages(&self) -> PageRange {
        PageRange::all(self.pages)
    }

    /// Number of the newest snapshot ever taken. Does not change for who is inside the gate.
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch.load(Ordering::Relaxed))
    }

    /// Number of the newest snapshot that lives, or zero. Does not change for who is inside the gate.
    pub fn newest(&self) -> Epoch {
        Epoch::new(self.newest.load(Ordering::Relaxed))
    }

    /// Only with the gate closed and drained.
    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.get(), Ordering::Relaxed);
    }

    /// Only with the gate closed and drained.
    pub(super) fn set_newest(&self, epoch: Epoch) {
        self.newest.store(epoch.get(), Ordering::Relaxed);
    }

    #[cfg(not(loom))]
    pub fn armings(&self) -> u64 {
        self.armings.load(Ordering::Relaxed)
    }

    /// Only with the gate closed and drained.
    pub(super) fn count_arming(&self) {
        self.armings.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a fault that was resolved, which took this many nanoseconds.
    #[cfg(not(loom))]
    pub fn count_fault(&self, opened: Opened, nanoseconds: u64) {
        self.counters.waited(nanoseconds);
        match opened {
            Opened::Saved => self.counters.saved_fault(nanoseconds),
            Opened::Soft => self.counters.soft_fault(),
            Opened::Already => self.counters.spurious_fault(),
        }
    }

    pub fn stats(&self) -> Stats {
        let page = self.page_size.bytes() as u64;
        let live = lock(&self.ledger).live.len() as u64;
        let mut stats = self.counters.read(page);
        stats.live_snapshots = live;
        stats.store_bytes = self.store.in_use() as u64 * page;
        stats.store_bytes_peak = self.store.in_use_peak() as u64 * page;
        stats.store_resident_bytes = self.store.resident() as u64 * page;
        stats.vma_peak = self.mappings.peak() + self.engine.most_borders();
        stats.protect_calls = self.engine.calls();
        stats.drains = self.gate.drains();
        stats
    }
}
