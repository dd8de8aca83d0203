//! An arena's memory and its protection, by the engine that was asked for.

#![allow(unsafe_code, reason = "mprotect")]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::memory::Memory;
use super::userfaultfd::{self, Calls, Userfaultfd};
use crate::error::Error;
use crate::options::{Engine, Options};
use crate::page::{PageIndex, PageRange, PageSize};
use crate::sys::ProtectError;
use crate::sys::blocks::Protect;

pub(crate) struct Protection {
    memory: Memory,
    page_size: PageSize,
    userfaultfd: Option<Userfaultfd>,
    /// System calls that changed protection.
    calls: AtomicU64,
}

impl Protection {
    /// Memory for an arena: `pages` writable pages between two that nobody may touch, so that the
    /// mapping never merges with a stranger's and a whole-arena call splits nothing.
    pub fn new(pages: usize, page_size: PageSize, options: &Options) -> crate::Result<Self> {
        let no_memory = |source| Error::Reserve {
            bytes: pages * page_size.bytes(),
            source,
        };
        let memory = Memory::new(pages + 2, page_size).map_err(no_memory)?;
        let bytes = page_size.bytes();
        let low = memory.as_mut_ptr();
        let high = low.wrapping_add((pages + 1) * bytes);
        for guard in [low, high] {
            // SAFETY: one page inside the mapping that was just made and that nobody uses.
            let result = unsafe { libc::mprotect(guard.cast(), bytes, libc::PROT_NONE) };
            if result != 0 {
                return Err(no_memory(io::Error::last_os_error()));
            }
        }
        let mut memory = memory.inner(PageIndex::new(1), pages, page_size);
        if options.huge_pages {
            memory = memory.in_huge_pages();
        }
        // SAFETY: the first byte of the arena, writable, and nobody else knows of it yet.
        unsafe { memory.as_mut_ptr().write_volatile(0) };
        let userfaultfd = match options.engine {
            Engine::Mprotect => None,
            Engine::Userfaultfd => {
                let made = Userfaultfd::new(&memory, page_size);
                Some(made.map_err(|source| Error::Engine {
                    engine: options.engine,
                    source,
                })?)
            }
        };
        Ok(Self {
            memory,
            page_size,
            userfaultfd,
            calls: AtomicU64::new(0),
        })
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether each border between armed and open pages is a border of two kernel mappings.
    pub fn splits_mappings(&self) -> bool {
        self.active().is_none()
    }

    /// Whether the protection can still be relied on.
    pub fn check(&self) -> io::Result<()> {
        self.active()
            .map_or(Ok(()), |engine| engine.check(&self.memory))
    }

    /// How many copies one fault costs, about (docs/benchmarks.md).
    pub fn fault_cost(&self) -> usize {
        if self.active().is_some() { 6 } else { 8 }
    }

    /// Whether refused stores may come as SIGBUS.
    pub fn uses_sigbus(&self) -> bool {
        self.active().is_some()
    }

    fn active(&self) -> Option<&Userfaultfd> {
        self.userfaultfd
            .as_ref()
            .filter(|engine| engine.is_active())
    }

    /// Sees to it that opening pages needs no further mappings, when it does not split them anyway; all pages
    /// stay as armed as they were. Returns whether it did. Not while others open pages.
    pub fn unfold(&self) -> Result<bool, ProtectError> {
        match self.active() {
            Some(engine) => engine.unfold(&self.by()).map(|()| true),
            None => Ok(false),
        }
    }

    /// System calls that changed protection so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn by(&self) -> Calls<'_> {
        Calls {
            descriptor: self
                .userfaultfd
                .as_ref()
                .map_or(-1, Userfaultfd::descriptor),
            memory: &self.memory,
            page_size: self.page_size,
            made: &self.calls,
        }
    }

    /// Takes write permission away. Async-signal-safe. Not while others open pages of the range.
    pub fn arm(&self, range: PageRange) -> Result<(), ProtectError> {
        match self.active() {
            Some(engine) => engine.arm(range, &self.by()),
            None => self.by().mapping(range, false),
        }
    }

    /// Gives write permission back. Async-signal-safe.
    pub fn disarm(&self, range: PageRange) -> Result<(), ProtectError> {
        match self.active() {
            Some(engine) => engine.disarm(range, &self.by()),
            None => self.by().mapping(range, true),
        }
    }

    /// In the child of a fork, where userfaultfd protects nothing: arms all pages but `open`, and goes on with
    /// mprotect. Returns whether anything was to be done.
    pub fn move_to_mprotect(&self, open: Option<PageRange>) -> Result<bool, ProtectError> {
        let Some(engine) = self.active() else {
            return Ok(false);
        };
        engine.forsake();
        let pages = self.memory.len() / self.page_size.bytes();
        self.arm(PageRange::all(pages))?;
        open.map_or(Ok(()), |open| self.disarm(open))?;
        Ok(true)
    }

    /// For checks while nobody is at work: which pages stores are refused to, one value a page.
    pub fn armed(&self) -> Result<Vec<bool>, String> {
        let bytes = self.page_size.bytes();
        let pages = self.memory.len() / bytes;
        let mut armed = vec![false; pages];
        let start = self.memory.as_ptr() as usize;
        let regions = region::query_range(self.memory.as_ptr(), self.memory.len())
            .map_err(|error| error.to_string())?;
        let mut seen = 0;
        for region in regions {
            let region = region.map_err(|error| error.to_string())?;
            let range = region.as_range();
            let from = range.start.max(start) - start;
            let to = range.end.min(start + self.memory.len()) - start;
            let read_only = !region.protection().contains(region::Protection::WRITE);
            armed[from / bytes..to / bytes].fill(read_only);
            seen += (to - from) / bytes;
        }
        if seen != pages {
            return Err(format!("{seen} of {pages} pages are mapped"));
        }
        if let Some(engine) = self.active() {
            engine.add_armed(&self.memory, self.page_size, &mut armed)?;
        }
        Ok(armed)
    }
}

/// Whether arenas can be protected by userfaultfd(2) here. Once it worked it is not tried again: an arena finds out
/// by itself.
pub(crate) fn probe_userfaultfd() -> io::Result<()> {
    static WORKED: AtomicBool = AtomicBool::new(false);
    if !WORKED.load(Ordering::Relaxed) {
        userfaultfd::probe()?;
        WORKED.store(true, Ordering::Relaxed);
    }
    Ok(())
}
