//! An arena, registered with the fault handler for as long as it exists.

#![allow(unsafe_code, reason = "the handler finds arenas by address")]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::cow::core::Core;
use crate::cow::tend::Tended;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::page::PageSize;
use crate::process;
use crate::process::keeper;
use crate::process::progress::Progress;
use crate::process::registry::{Place, Registry};
use crate::stats::Stats;
use crate::sys;

/// All arenas of the process.
pub(super) static ARENAS: Registry<Registered> = Registry::new();

/// Kept alive by the arena's handle and by its snapshots, whichever goes last.
pub(crate) struct Registered {
    core: Core,
    pub(super) progress: Progress,
    place: OnceLock<Place<'static, Self>>,
    /// In bytes, before rounding up.
    requested_len: usize,
    /// The arena's handle is gone: nobody writes any more.
    abandoned: AtomicBool,
    has_keeper: bool,
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
        let core = Core::new(page_size, pages, options)?;
        let registered = Arc::new(Self {
            core,
            progress: Progress::new(),
            place: OnceLock::new(),
            requested_len: len,
            abandoned: AtomicBool::new(false),
            has_keeper: options.keeper,
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

    /// A step of what the keeper does.
    pub fn tend_once(&self) -> Tended {
        self.core.tend_once(self.may_arm())
    }

    /// The same by hand, for about this long.
    pub fn tend(&self, budget: Duration) {
        self.core.tend(budget, || self.may_arm());
    }

    /// Whether pages may be armed by a thread that does not store to them.
    fn may_arm(&self) -> bool {
        self.core.stands_ready() && self.faults_arrive()
    }

    /// A snapshot was taken or dropped, or the arena is new and to stand ready for one: there may
    /// be something to do for the keeper.
    pub fn wake_keeper(&self) {
        if self.has_keeper {
            keeper::look_after(self, &self.known_to_keeper);
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

    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// An arena whose handle is still there.
    pub fn upgrade(weak: &Weak<Self>) -> Result<Arc<Self>> {
        weak.upgrade()
            .filter(|registered| !registered.abandoned.load(Ordering::Relaxed))
            .ok_or(Error::ArenaDropped)
    }

    /// What the arena's snapshots have cost so far.
    pub fn stats(&self) -> Stats {
        self.core.stats(sys::signal::forwarded())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        keeper::forget(self, &self.known_to_keeper);
        if let Some(place) = self.place.take() {
            place.remove();
        }
    }
}
