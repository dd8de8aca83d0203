//! What an arena's handle, its snapshots and the fault handler share.
//!
//! The operations on it are one file each, listed in [`crate::cow`].

// Orders nothing, so it is plain in models too.
use std::sync::atomic::{AtomicU32 as Plain32, AtomicU64 as Plain64};

use crate::cow::marks::Marks;
use crate::cow::state::baseline::Baseline;
use crate::cow::state::dirty::DirtySet;
use crate::cow::state::doubt::Doubt;
use crate::cow::state::ledger::Ledger;
use crate::cow::state::losses::Losses;
use crate::cow::state::mappings::Mappings;
use crate::cow::state::ready::StandingReady;
use crate::cow::state::table::Table;
use crate::cow::state::upkeep::Upkeep;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::options::{Options, Window};
use crate::page::{PageCount, PageRange, PageSize};
use crate::protect::Protection;
use crate::stats::{Counters, Elsewhere, Stats};
use crate::store::Store;
use crate::store::versions::Versions;
use crate::sync::gate::Gate;
use crate::sync::{AtomicU32, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, spin_until};
use crate::sys::{self, Memory};
use crate::window::density::Density;

pub(crate) struct Core {
    pub(super) page_size: PageSize,
    pub(super) pages: PageCount,
    pub(super) engine: Protection,
    pub(super) window: Window,
    pub(super) table: Table,
    pub(super) dirty: DirtySet,
    pub(super) density: Density,
    pub(super) store: Store,
    pub(super) versions: Versions,
    /// Every thread that disarms pages passes it: a fault, `writable`. It is closed by a commit, by
    /// arming (ahead, or to join mappings), by the drop of the newest snapshot, by the last way out
    /// of the mapping wall, by the opening of the whole arena, and by a fork. The next three change
    /// only while it is closed. The other gate, of the readers of the copies' chains, is in
    /// [`Versions`]; it is closed before frames are recycled, and by a fork.
    pub(super) gate: Gate,
    epoch: AtomicU64,
    newest: AtomicU64,
    /// How often pages were armed. Changes only with the gate closed.
    armings: Plain64,
    /// Whether pages of the dirty set may be armed.
    pub(super) doubt: Doubt,
    /// Faults since the last commit that found no snapshot alive.
    pub(super) free_faults: AtomicU32,
    /// What the arena was last put back to.
    pub(super) baseline: Baseline,
    /// From where changes are counted besides snapshots.
    pub(super) marks: Marks,
    pub(super) losses: Losses,
    ledger: Mutex<Ledger>,
    /// Threads that wait for the ledger's lock, about.
    ledger_wanted: Plain32,
    pub(super) guard_gone: Condvar,
    /// Held by the thread that drops a snapshot, for as long as that takes.
    pub(super) reclaim: Mutex<()>,
    pub(super) mappings: Mappings,
    /// What the keeper goes by.
    pub(super) upkeep: Upkeep,
    /// Which pages to arm between snapshots, where that was asked for.
    pub(super) ready: Option<StandingReady>,
    pub(super) counters: Counters,
}

impl Core {
    pub fn new(page_size: PageSize, pages: PageCount, options: &Options) -> Result<Self> {
        Self::over(
            Protection::new(pages, page_size, options)?,
            page_size,
            pages,
            options,
        )
    }

    /// As [`new`](Self::new), over memory that was made elsewhere.
    pub fn over(
        engine: Protection,
        page_size: PageSize,
        pages: PageCount,
        options: &Options,
    ) -> Result<Self> {
        let no_memory = |source| Error::Reserve {
            bytes: pages.get() * page_size.bytes(),
            source,
        };
        let ready = options.stand_ready.then(|| {
            let now = sys::clock::now();
            StandingReady::new(pages, options, now).map_err(no_memory)
        });
        Ok(Self {
            page_size,
            pages,
            engine,
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
            doubt: Doubt::none(),
            free_faults: AtomicU32::new(0),
            baseline: Baseline::none(),
            marks: Marks::none(),
            losses: Losses::none(),
            ledger: Mutex::new(Ledger::default()),
            ledger_wanted: Plain32::new(0),
            guard_gone: Condvar::new(),
            reclaim: Mutex::new(()),
            mappings: Mappings::new(),
            upkeep: Upkeep::new(options),
            ready: ready.transpose()?,
            counters: Counters::default(),
        })
    }

    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Length in pages.
    #[cfg(not(loom))]
    pub fn pages(&self) -> PageCount {
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

    /// Number of the newest snapshot ever taken. Does not change while the caller is inside the
    /// gate.
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch.load(Ordering::Relaxed))
    }

    /// Number of the newest snapshot that lives, or zero. Does not change while the caller
    /// is inside the gate.
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

    /// Locks the ledger.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger_is_wanted_by(1);
        let ledger = lock(&self.ledger);
        self.ledger_is_had();
        ledger
    }

    /// So many more threads begin to wait for the ledger.
    pub(super) fn ledger_is_wanted_by(&self, threads: u32) {
        self.ledger_wanted.fetch_add(threads, Ordering::Relaxed);
    }

    /// One of the threads that waited for the ledger has it.
    pub(super) fn ledger_is_had(&self) {
        self.ledger_wanted.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether threads wait for the ledger.
    pub(super) fn ledger_is_wanted(&self) -> bool {
        self.ledger_wanted.load(Ordering::Relaxed) > 0
    }

    /// Unlocks the ledger and lets the threads that wait for it have it first, unless they get no
    /// processor.
    pub(super) fn lend(&self, ledger: MutexGuard<'_, Ledger>) {
        const LONG_NS: u64 = 1_000_000;
        drop(ledger);
        spin_until(|| !self.ledger_is_wanted(), LONG_NS);
    }

    /// In the child of a fork: the threads that waited are not there.
    #[cfg(not(loom))]
    pub(super) fn forget_wanted(&self) {
        self.ledger_wanted.store(0, Ordering::Relaxed);
    }

    /// `foreign_faults` is counted for the whole process.
    pub fn stats(&self, foreign_faults: u64) -> Stats {
        let live_snapshots = self.ledger().live.len();
        self.counters.stats(Elsewhere {
            page_size: self.page_size,
            live_snapshots,
            frames_in_use: self.store.in_use(),
            frames_in_use_peak: self.store.in_use_peak(),
            frames_resident: self.store.resident(),
            vma_peak: self.mappings.peak() + self.engine.most_borders(),
            protect_calls: self.engine.calls(),
            drains: self.gate.drains(),
            foreign_faults,
            pages_armed_early: self.ready.as_ref().map_or(0, StandingReady::pages_armed),
            soft_fault_ns: self
                .ready
                .as_ref()
                .map_or(0, |ready| ready.tokens.fault_ns()),
        })
    }
}
