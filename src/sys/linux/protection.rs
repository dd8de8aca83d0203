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
    in_huge_pages: bool,
    /// Its descriptor was closed: nothing is protected, and no snapshot is exact.
    lost: AtomicBool,
    /// System calls that changed protection.
    calls: AtomicU64,
}

impl Protection {
    /// Memory for an arena: `pages` writable pages between some that nobody may touch, so that the
    /// mapping never merges with a stranger's and a whole-arena call splits nothing. Where it is long
    /// enough for huge pages it begins with one.
    pub fn new(pages: usize, page_size: PageSize, options: &Options) -> crate::error::Result<Self> {
        let no_memory = |source| Error::Reserve {
            bytes: pages * page_size.bytes(),
            source,
        };
        let huge = page_size.pages_of_table();
        let alignment = if pages < huge { 1 } else { huge };
        let memory = Memory::new(pages + 1 + alignment, page_size).map_err(no_memory)?;
        let bytes = page_size.bytes();
        let low = memory.as_mut_ptr();
        let first = low.wrapping_add(bytes).align_offset(alignment * bytes) / bytes + 1;
        let high = first + pages;
        for guard in [0..first, high..memory.len() / bytes] {
            let start = low.wrapping_add(guard.start * bytes);
            let len = guard.len() * bytes;
            // SAFETY: inside the mapping that was just made and that nobody uses.
            let result = unsafe { libc::mprotect(start.cast(), len, libc::PROT_NONE) };
            if result != 0 {
                return Err(no_memory(io::Error::last_os_error()));
            }
        }
        let mut memory = memory.inner(PageIndex::new(first), pages, page_size);
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
            in_huge_pages: options.huge_pages,
            lost: AtomicBool::new(false),
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

    /// `Err` when the protection has ended behind our back, for good. Async-signal-safe.
    pub fn check(&self) -> io::Result<()> {
        let Some(engine) = self.active() else {
            return Ok(());
        };
        engine.check().inspect_err(|_| {
            // Release: whoever stores to a page that is opened from here on has seen it.
            self.lost.store(true, Ordering::Release);
        })
    }

    /// Whether a check has failed.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether a [check](Self::check) costs a system call.
    pub fn needs_confirming(&self) -> bool {
        self.active().is_some()
    }

    /// How many copies one fault costs, about ([`docs/benchmarks.md`](crate::docs::benchmarks)).
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
            Some(engine) => self.insist(|by| engine.unfold(by)).map(|()| true),
            None => Ok(false),
        }
    }

    /// Where a call that would arm pages up to `end`, one past the last, costs least when it may end later: at the end
    /// of a block that is protected as a whole, or of a huge page, which would be split for good. Not while
    /// others open pages.
    pub fn whole_end(&self, end: usize) -> usize {
        let engine = self.active();
        let end = engine.map_or(end, |engine| engine.whole_end(end, &self.by()));
        if self.in_huge_pages {
            end.next_multiple_of(self.page_size.pages_of_table())
        } else {
            end
        }
    }

    /// As [`Blocks::whole_blocks`](crate::sys::blocks::Blocks::whole_blocks); the same pages where there are
    /// no blocks. Not while others open pages.
    pub fn whole_blocks(&self, range: PageRange) -> PageRange {
        let engine = self.active();
        engine.map_or(range, |engine| engine.whole_blocks(range, &self.by()))
    }

    /// The most borders between mappings at one time that are not those between armed and open
    /// pages.
    pub fn most_borders(&self) -> u64 {
        self.userfaultfd
            .as_ref()
            .map_or(0, Userfaultfd::most_borders)
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
            Some(engine) => self.insist(|by| engine.disarm(range, by)),
            None => self.insist(|by| by.mapping(range, true)),
        }
    }

    /// Makes calls that open pages, again where they are refused for no lack of mappings: the store that
    /// waits for them can neither land nor be refused, and lack of memory passes. Gives up the protection
    /// of an engine that has lost it. Async-signal-safe.
    fn insist(
        &self,
        act: impl Fn(&Calls<'_>) -> Result<(), ProtectError>,
    ) -> Result<(), ProtectError> {
        const TIMES: usize = 100;
        let mut done = act(&self.by());
        for _ in 0..TIMES {
            if !matches!(done, Err(ProtectError::Refused(_))) {
                break;
            }
            if let (Err(_), Some(engine)) = (self.check(), self.active()) {
                return engine.give_up(&self.by());
            }
            done = act(&self.by());
        }
        done
    }

    /// In the child of a fork, where userfaultfd protects nothing: arms all pages and goes on with
    /// mprotect. Returns whether anything was to be done.
    pub fn move_to_mprotect(&self) -> Result<bool, ProtectError> {
        let Some(engine) = self.active() else {
            return Ok(false);
        };
        engine.forsake();
        self.lost.store(false, Ordering::Relaxed);
        let pages = self.memory.len() / self.page_size.bytes();
        self.arm(PageRange::all(pages))?;
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
