//! Views of a file, made of loom's atomics.
//!
//! What it keeps of the real ones: a call has all mappings to itself, and changes them page by
//! page; a store to a page that a call has taken away waits for the end of the call; a private page
//! is the file's until it is stored to, and has a copy of its own then; what was made read-only is
//! stored to by nobody (the page's lock is the TLB shootdown). Pages have one byte.

use std::io;
use std::sync::atomic::{AtomicBool as PlainBool, Ordering as Plain};

use loom::sync::atomic::{AtomicU8, Ordering};
use loom::sync::{Arc, Mutex, MutexGuard};

use crate::page::{PageCount, PageIndex, PageRange};
use crate::sys::{Permission, ProtectError};

pub(crate) struct Views {
    /// Held by each call that changes mappings.
    mappings: Mutex<()>,
    live: Vec<Page>,
    file: Arc<File>,
    /// Refuse to freeze, or to share.
    pub no_freeze: PlainBool,
    pub no_share: PlainBool,
}

/// A page of the live view.
struct Page {
    /// Held while a store is made.
    entry: Mutex<Entry>,
    copy: AtomicU8,
}

#[derive(Clone, Copy)]
struct Entry {
    maps: Maps,
    permission: Permission,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Maps {
    /// A call is changing it.
    Nothing,
    Shared,
    /// Private; the file's page until it is stored to.
    Private,
    Copy,
    /// Something else, which is in `copy`.
    Foreign,
}

struct File(Vec<AtomicU8>);

/// A private view of the file, as a branch or the child of a fork has it: pages of its own, and for
/// the others the file's.
pub(crate) struct Branch {
    copies: Vec<Option<u8>>,
    file: Arc<File>,
}

impl File {
    fn load(&self, page: usize) -> u8 {
        self.0[page].load(Ordering::Relaxed)
    }

    fn store(&self, page: usize, value: u8) {
        self.0[page].store(value, Ordering::Relaxed);
    }
}

impl Views {
    pub fn new(pages: PageCount) -> Self {
        let live = (0..pages.get()).map(|_| Page {
            entry: Mutex::new(Entry {
                maps: Maps::Shared,
                permission: Permission::Writable,
            }),
            copy: AtomicU8::new(0xee),
        });
        let file = (0..pages.get()).map(|_| AtomicU8::new(0));
        Self {
            mappings: Mutex::new(()),
            live: live.collect(),
            file: Arc::new(File(file.collect())),
            no_freeze: PlainBool::new(false),
            no_share: PlainBool::new(false),
        }
    }

    fn call(&self) -> MutexGuard<'_, ()> {
        self.mappings.lock().expect("no panics")
    }

    /// What the page maps; waits while a call is changing it.
    fn entry(&self, page: PageIndex) -> MutexGuard<'_, Entry> {
        loop {
            let entry = self.live[page.get()].entry.lock().expect("no panics");
            if entry.maps != Maps::Nothing {
                return entry;
            }
            drop(entry);
            drop(self.call());
        }
    }

    /// Changes pages one by one. With the lock of the mappings.
    fn change(&self, pages: PageRange, change: impl Fn(&mut Entry)) {
        for page in pages.iter() {
            change(&mut self.live[page.get()].entry.lock().expect("no panics"));
        }
    }

    /// Moves page tables to the live view: what it maps is taken away first.
    fn replace(&self, pages: PageRange, maps: Maps) {
        let permission = Permission::Writable;
        self.change(pages, |entry| {
            assert!(entry.maps != Maps::Foreign, "of another's");
            entry.maps = Maps::Nothing;
        });
        self.change(pages, |entry| *entry = Entry { maps, permission });
    }

    pub fn freeze(&self, pages: PageRange) -> Result<(), ProtectError> {
        let first = self.call();
        self.change(pages, |entry| {
            assert!(entry.maps == Maps::Shared, "only what is shared is frozen");
            entry.maps = Maps::Nothing;
        });
        self.change(pages, |entry| entry.maps = Maps::Shared);
        drop(first);
        // In between, stores go to the file.
        let _second = self.call();
        if self.no_freeze.load(Plain::Relaxed) {
            return Err(ProtectError::NoMappings);
        }
        self.replace(pages, Maps::Private);
        Ok(())
    }

    pub fn protect(&self, pages: PageRange, permission: Permission) -> Result<(), ProtectError> {
        let _call = self.call();
        self.change(pages, |entry| {
            assert!(
                !matches!(entry.maps, Maps::Shared | Maps::Foreign),
                "only private pages are armed"
            );
            entry.permission = permission;
        });
        Ok(())
    }

    pub fn copied(&self, pages: PageRange, mut found: impl FnMut(PageIndex)) -> bool {
        for page in pages.iter() {
            let is_copy = self.entry(page).maps == Maps::Copy;
            if is_copy {
                found(page);
            }
        }
        true
    }

    pub fn copy_down(&self, page: PageIndex) {
        let copy = self.live[page.get()].copy.load(Ordering::Relaxed);
        self.file.store(page.get(), copy);
    }

    pub fn share(&self, pages: PageRange) -> Result<(), ProtectError> {
        let _call = self.call();
        if self.no_share.load(Plain::Relaxed) {
            return Err(ProtectError::NoMappings);
        }
        self.replace(pages, Maps::Shared);
        Ok(())
    }

    pub fn free_tables(&self, _: PageRange) {}

    pub fn move_out(&self, pages: PageRange) -> Result<(), ProtectError> {
        let first = self.call();
        self.change(pages, |entry| entry.permission = Permission::ReadOnly);
        drop(first);
        let held: Vec<u8> = pages.iter().map(|page| self.load(page)).collect();
        let _second = self.call();
        for (page, held) in pages.iter().zip(held) {
            self.live[page.get()].copy.store(held, Ordering::Relaxed);
        }
        self.replace(pages, Maps::Foreign);
        Ok(())
    }

    pub fn branch(&self) -> io::Result<Branch> {
        Ok(Branch {
            copies: vec![None; self.live.len()],
            file: self.file.clone(),
        })
    }

    pub fn inherit<'a>(&self, _inherited: bool, branches: impl Iterator<Item = &'a Branch>) {
        branches.for_each(drop);
    }

    /// The view of a child that is forked now. A page that is shared would be so with the child.
    pub fn fork(&self) -> Branch {
        let _call = self.call();
        let pages = self.live.iter().enumerate();
        let entries: Vec<_> = pages
            .map(|(page, _)| self.entry(PageIndex::new(page)))
            .collect();
        let copies = entries.iter().zip(&self.live).map(|(entry, page)| {
            let is_own = matches!(entry.maps, Maps::Copy | Maps::Foreign);
            is_own.then(|| page.copy.load(Ordering::Relaxed))
        });
        Branch {
            copies: copies.collect(),
            file: self.file.clone(),
        }
    }

    /// What the processor does with a store: all of it, or a fault (`false`).
    pub fn store(&self, page: PageIndex, value: u8) -> bool {
        self.change_byte(page, |_| value)
    }

    /// As [`store`](Self::store), for a read-modify-write: nothing is lost when two threads add.
    pub fn add(&self, page: PageIndex, value: u8) -> bool {
        self.change_byte(page, |before| before + value)
    }

    fn change_byte(&self, page: PageIndex, change: impl Fn(u8) -> u8) -> bool {
        let mut entry = self.entry(page);
        if entry.permission == Permission::ReadOnly {
            return false;
        }
        let copy = &self.live[page.get()].copy;
        match entry.maps {
            Maps::Shared => self
                .file
                .store(page.get(), change(self.file.load(page.get()))),
            Maps::Copy | Maps::Foreign => {
                copy.store(change(copy.load(Ordering::Relaxed)), Ordering::Relaxed)
            }
            Maps::Private | Maps::Nothing => {
                copy.store(change(self.file.load(page.get())), Ordering::Relaxed);
                entry.maps = Maps::Copy;
            }
        }
        true
    }

    /// What is in the live view now.
    pub fn load(&self, page: PageIndex) -> u8 {
        let entry = self.entry(page);
        match entry.maps {
            Maps::Copy | Maps::Foreign => self.live[page.get()].copy.load(Ordering::Relaxed),
            _ => self.file.load(page.get()),
        }
    }

    /// What is in the file now.
    pub fn frozen(&self, page: PageIndex) -> u8 {
        self.file.load(page.get())
    }

    pub fn is_shared(&self, page: PageIndex) -> bool {
        self.entry(page).maps == Maps::Shared
    }
}

impl Branch {
    pub fn load(&self, page: PageIndex) -> u8 {
        self.copies[page.get()].unwrap_or_else(|| self.file.load(page.get()))
    }
}
