//! An arena's memory and its protection, by the engine that was asked for. What depends on the
//! engine is decided here, once; [`crate::sys`] makes the calls.
//!
//! - `mprotect` works on mappings, and each border between armed and open pages is a border of two
//!   of them.
//! - `userfaultfd` protects pages one by one, and splits nothing but around [`blocks`] that were
//!   never touched. Its descriptor may be closed by somebody, which ends all protection, for good.
//!   In the child of a fork it protects nothing, and mprotect takes over.

mod blocks;
#[cfg(not(loom))]
mod probe;

use std::io;
// These order nothing, so they are plain in models too.
use std::sync::atomic::AtomicBool as PlainBool;
use std::sync::atomic::AtomicU64 as Plain64;

use self::blocks::{Blocks, Protect};
use crate::error::{Error, Result};
use crate::options::{Engine, Options};
use crate::page::{PageCount, PageIndex, PageRange, PageSize};
use crate::sync::{AtomicBool, Ordering};
use crate::sys::userfaultfd::Descriptor;
use crate::sys::{Memory, Permission, Populate, ProtectError};

/// How often a refused call that opens pages is made again.
const RETRIES: usize = if cfg!(loom) { 2 } else { 100 };

/// Most blocks of an arena: each may be a mapping of its own.
const MOST_BLOCKS: usize = 8192;

type Protected<T = ()> = std::result::Result<T, ProtectError>;

pub(crate) struct Protection {
    memory: Memory,
    page_size: PageSize,
    userfaultfd: Option<Userfaultfd>,
    in_huge_pages: bool,
    /// Its descriptor was closed: nothing is protected, and no snapshot is exact.
    lost: AtomicBool,
    /// System calls that changed protection.
    calls: Plain64,
}

struct Userfaultfd {
    descriptor: Descriptor,
    blocks: Blocks,
    /// In the child of a fork, where it protects nothing.
    forsaken: PlainBool,
}

impl Userfaultfd {
    fn new(memory: &Memory, pages: PageCount, page_size: PageSize) -> io::Result<Self> {
        // So that markers in one block cost no other its table.
        let table = page_size.pages_of_table();
        let block = pages
            .get()
            .div_ceil(MOST_BLOCKS)
            .next_power_of_two()
            .max(table);
        let blocks = Blocks::new(pages, block)?;
        let descriptor = Descriptor::shared()?;
        descriptor.register(memory)?;
        Ok(Self {
            descriptor,
            blocks,
            forsaken: PlainBool::new(false),
        })
    }
}

impl Protection {
    /// Memory for an arena, all of it open.
    pub fn new(pages: PageCount, page_size: PageSize, options: &Options) -> Result<Self> {
        let memory = Memory::guarded(pages, page_size).map_err(|source| Error::Reserve {
            bytes: pages.get() * page_size.bytes(),
            source,
        })?;
        let memory = if options.huge_pages {
            memory.in_huge_pages()
        } else {
            memory
        };
        Self::over(memory, pages, page_size, options)
    }

    /// As [`new`](Self::new), over memory that was made elsewhere. It is not protected while
    /// another engine takes its snapshots.
    pub fn over(
        memory: Memory,
        pages: PageCount,
        page_size: PageSize,
        options: &Options,
    ) -> Result<Self> {
        memory.write_first_byte();
        let userfaultfd = match options.engine {
            Engine::Mprotect | Engine::Remap => None,
            Engine::Userfaultfd => {
                let made = Userfaultfd::new(&memory, pages, page_size);
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
            calls: Plain64::new(0),
        })
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes write permission away. Async-signal-safe. Not while others open pages of the range.
    pub fn arm(&self, range: PageRange) -> Protected {
        match self.active() {
            Some(engine) => engine.blocks.arm(range, &self.calls_of(engine)),
            None => self.protect_mapping(range, Permission::ReadOnly),
        }
    }

    /// Gives write permission back. Async-signal-safe.
    pub fn disarm(&self, range: PageRange) -> Protected {
        self.insist(|| match self.active() {
            Some(engine) => engine.blocks.disarm(range, &self.calls_of(engine)),
            None => self.protect_mapping(range, Permission::Writable),
        })
    }

    /// Makes calls that open pages, again where they are refused for no lack of mappings: the store
    /// that waits for them can neither land nor be refused, and lack of memory passes. Gives up the
    /// protection of an engine that has lost it. Async-signal-safe.
    fn insist(&self, act: impl Fn() -> Protected) -> Protected {
        let mut done = act();
        for _ in 0..RETRIES {
            if !matches!(done, Err(ProtectError::Refused(_))) {
                break;
            }
            if let (Err(_), Some(engine)) = (self.check(), self.active()) {
                // All snapshots are known to have failed: the mappings need not refuse stores any
                // more.
                return engine.blocks.open_mappings(&self.calls_of(engine));
            }
            done = act();
        }
        done
    }

    /// Opens the way for calls that open pages when there is no mapping left to split, where
    /// mappings are split around blocks only; all pages stay as armed as they were. Returns whether
    /// it did. Not while others open pages.
    pub fn unfold(&self) -> Protected<bool> {
        match self.active() {
            Some(engine) => {
                self.insist(|| engine.blocks.split_all(&self.calls_of(engine)))?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Whether each border between armed and open pages is a border of two kernel mappings.
    pub fn splits_mappings(&self) -> bool {
        self.active().is_none()
    }

    /// Whether userfaultfd protects the pages: refused stores may come as SIGBUS, and a
    /// [check](Self::check) costs a system call.
    #[cfg(not(loom))]
    pub fn uses_userfaultfd(&self) -> bool {
        self.active().is_some()
    }

    /// How memory is made resident: not by a call where writers change mappings, since both need
    /// the kernel's lock of them.
    pub fn populate(&self) -> Populate {
        if self.splits_mappings() {
            Populate::ByTouch
        } else {
            Populate::ByCall
        }
    }

    /// How many copies one fault costs, about ([`docs/benchmarks.md`](crate::docs::benchmarks)).
    pub fn fault_cost(&self) -> usize {
        if self.active().is_some() { 6 } else { 8 }
    }

    /// `Err` when the protection has ended behind our back, for good. Async-signal-safe.
    pub fn check(&self) -> Result<()> {
        let Some(engine) = self.active() else {
            return Ok(());
        };
        engine.descriptor.check().map_err(|source| {
            // Release: a thread that stores to a page that is opened from here on has seen it.
            self.lost.store(true, Ordering::Release);
            Error::Engine {
                engine: Engine::Userfaultfd,
                source,
            }
        })
    }

    /// Whether a check has failed.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Where a call that would arm pages up to `end`, one past the last, costs least when it may
    /// end later: at the end of a block that is protected as a whole, or of a huge page, which
    /// would be split for good. Not while others open pages.
    pub fn whole_end(&self, end: usize) -> usize {
        let end = self.active().map_or(end, |engine| {
            engine.blocks.whole_end(end, &self.calls_of(engine))
        });
        if self.in_huge_pages {
            end.next_multiple_of(self.page_size.pages_of_table())
        } else {
            end
        }
    }

    /// As [`Blocks::whole_blocks`]; the same pages where there are no blocks. Not while others open
    /// pages.
    pub fn whole_blocks(&self, range: PageRange) -> PageRange {
        self.active().map_or(range, |engine| {
            engine.blocks.whole_blocks(range, &self.calls_of(engine))
        })
    }

    /// The most borders between mappings at one time that are not those between armed and open
    /// pages.
    pub fn most_borders(&self) -> u64 {
        let engine = self.userfaultfd.as_ref();
        engine.map_or(0, |engine| engine.blocks.most_borders())
    }

    /// System calls that changed protection so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// In the child of a fork, where userfaultfd protects nothing: arms all pages and
    /// goes on with mprotect. Returns whether anything was to be done.
    #[cfg(not(loom))]
    pub fn move_to_mprotect(&self) -> Protected<bool> {
        let Some(engine) = self.active() else {
            return Ok(false);
        };
        engine.forsaken.store(true, Ordering::Relaxed);
        self.lost.store(false, Ordering::Relaxed);
        let pages = PageCount::new(self.memory.len() / self.page_size.bytes());
        self.arm(PageRange::all(pages))?;
        Ok(true)
    }

    /// For checks while nobody is at work: which pages stores are refused to, one value a page.
    #[cfg(not(loom))]
    pub fn armed(&self) -> std::result::Result<Vec<bool>, String> {
        let mut armed = self.memory.read_only_pages(self.page_size)?;
        if self.active().is_some() {
            let write_protected = self.memory.write_protected_pages(self.page_size)?;
            for (armed, write_protected) in armed.iter_mut().zip(write_protected) {
                *armed |= write_protected;
            }
        }
        Ok(armed)
    }

    /// userfaultfd, where it protects this process's pages.
    fn active(&self) -> Option<&Userfaultfd> {
        self.userfaultfd
            .as_ref()
            .filter(|engine| !engine.forsaken.load(Ordering::Relaxed))
    }

    fn calls_of<'a>(&'a self, engine: &'a Userfaultfd) -> Calls<'a> {
        Calls {
            protection: self,
            descriptor: &engine.descriptor,
        }
    }

    fn protect_mapping(&self, range: PageRange, permission: Permission) -> Protected {
        self.count_call();
        self.memory.protect(range, self.page_size, permission)
    }

    fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// The two ways to protect pages that userfaultfd's blocks need, counted. Async-signal-safe.
struct Calls<'a> {
    protection: &'a Protection,
    descriptor: &'a Descriptor,
}

impl Protect for Calls<'_> {
    fn pages(&self, range: PageRange, permission: Permission) -> Protected {
        let Protection {
            memory, page_size, ..
        } = self.protection;
        self.protection.count_call();
        self.descriptor
            .protect(memory, range, *page_size, permission)
    }

    fn mapping(&self, range: PageRange, permission: Permission) -> Protected {
        self.protection.protect_mapping(range, permission)
    }

    fn first_touched(&self, range: PageRange) -> Option<PageIndex> {
        let Protection {
            memory, page_size, ..
        } = self.protection;
        memory.first_touched(range, *page_size)
    }
}

#[cfg(all(test, loom))]
impl Protection {
    /// What a program does that closes descriptors that it does not know.
    pub fn close_descriptor(&self) {
        let engine = self.active().expect("an arena with userfaultfd");
        engine.descriptor.close();
    }
}
