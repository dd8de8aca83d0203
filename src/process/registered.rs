//! An arena, registered with the fault handler for as long as it exists.

#![allow(unsafe_code, reason = "the handler finds arenas by address")]

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crate::cow::core::Core;
use crate::error::{Error, Result};
use crate::options::{Engine, Options};
use crate::page::PageSize;
use crate::process;
use crate::process::keeper;
use crate::process::lineage::Lineage;
use crate::process::progress::Progress;
use crate::process::registry::{Place, Registry};
use crate::process::remapped::Remapped;
use crate::stats::Stats;
use crate::sys;

/// All arenas of the process.
pub(super) static ARENAS: Registry<Registered> = Registry::new();

/// Kept alive by the arena's handle and by its snapshots, whichever goes last.
pub(crate) struct Registered {
    core: Core,
    /// What takes its snapshots instead of the core, with [`Engine::Remap`].
    remap: Option<Remapped>,
    pub(super) progress: Progress,
    place: OnceLock<Place<'static, Self>>,
    /// In bytes, before rounding up.
    requested_len: usize,
    /// The arena's handle is gone: nobody writes any more.
    abandoned: AtomicBool,
    has_keeper: bool,
    lineage: Lineage,
    known_to_keeper: keeper::Known,
}

impl Registered {
    /// Reserves an arena of `len` bytes, rounded up to whole pages.
    pub fn new(len: usize, options: &Options) -> Result<Arc<Self>> {
        if !options.window.makes_sense() {
            let window = options.window;
            return Err(Error::Window { window });
        }
        let page_size = PageSize::host();
        let pages = page_size.count_for(len).ok_or(Error::Size {
            bytes: len,
            most: crate::page::MAX_PAGES.saturating_mul(page_size.bytes()),
        })?;
        process::install(options.engine)?;
        let (core, remap) = match options.engine {
            Engine::Remap => {
                let remap = Remapped::new(page_size, pages, options)?;
                (remap.core(options)?, Some(remap))
            }
            Engine::Mprotect | Engine::Userfaultfd => (Core::new(page_size, pages, options)?, None),
        };
        let registered = Arc::new(Self {
            core,
            remap,
            progress: Progress::new(),
            place: OnceLock::new(),
            requested_len: len,
            abandoned: AtomicBool::new(false),
            has_keeper: options.keeper,
            lineage: Lineage::default(),
            known_to_keeper: keeper::Known::default(),
        });
        let addresses = registered.addresses();
        // SAFETY: it stays in its `Arc`, and its drop begins with removing it.
        let add = || unsafe { ARENAS.add(&addresses, &*registered) };
        registered.place.get_or_init(add);
        if registered.core.stands_ready() {
            registered.wake_keeper();
        }
        Ok(registered)
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    /// What takes snapshots instead of the core; `None` where the core does, as in the child of a
    /// fork.
    pub fn remap(&self) -> Option<&Remapped> {
        self.remap
            .as_ref()
            .filter(|remapped| !remapped.remap.is_forsaken())
    }

    /// As [`remap`](Self::remap), also where the core has taken over.
    pub(super) fn remap_once(&self) -> Option<&Remapped> {
        self.remap.as_ref()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Whether pages may be armed by a thread that does not store to them.
    pub(super) fn may_arm(&self) -> bool {
        self.core.stands_ready() && self.faults_arrive()
    }

    /// A snapshot was taken or dropped, or the arena is new and to stand ready for one: there may
    /// be something to do for the keeper.
    pub fn wake_keeper(&self) {
        if self.has_keeper {
            keeper::look_after(self, &self.known_to_keeper);
        }
    }

    /// As [`wake_keeper`](Self::wake_keeper), for the thread that forks.
    pub(super) fn look_after_in(&self, keeper: &mut keeper::State) {
        if self.has_keeper {
            keeper.look_after(self, &self.known_to_keeper);
        }
    }

    pub fn addresses(&self) -> Range<usize> {
        let memory = self.core.memory();
        let start = memory.as_ptr() as usize;
        start..start + memory.len()
    }

    pub fn requested_len(&self) -> usize {
        self.requested_len
    }

    /// What tells its snapshots from those of all other arenas, in any process.
    pub fn lineage(&self) -> io::Result<u128> {
        self.lineage.get()
    }

    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// An arena whose handle is still there.
    pub fn upgrade(weak: &Weak<Self>) -> Result<Arc<Self>> {
        weak.upgrade()
            .filter(|registered| !registered.is_abandoned())
            .ok_or(Error::ArenaDropped)
    }

    /// What the arena's snapshots have cost so far.
    pub fn stats(&self) -> Stats {
        let stats = self.core.stats(sys::signal::forwarded());
        match self.remap() {
            Some(remapped) => remapped.stats(stats),
            None => stats,
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        keeper::forget(self, &self.known_to_keeper);
        if let Some(place) = self.place.take() {
            place.remove();
        }
        // A fork puts registered arenas on the list, this one perhaps in between.
        keeper::forget(self, &self.known_to_keeper);
    }
}
