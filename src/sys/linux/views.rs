//! Three views of one file in memory, for the engine that remaps.
//!
//! - *live*: what the program stores to. Each page of it is *shared* (it is the file's), or
//!   *private* (of the kernel's own copy-on-write: the file's until it is stored to, a copy after).
//! - *frozen*: the file, at another address. Once the live view is private it does not change, and
//!   nobody stores to it but [`Views::copy_down`].
//! - *spare*: a private view that nobody ever touches. Views are made private by moving its page
//!   tables, of which it has none, so that no descriptor is needed for it. (`mlockall(2)` makes
//!   copies in it, which are thrown away before.)
//!
//! `mremap(2)` with `MREMAP_DONTUNMAP` (for any mapping since Linux 5.13) moves page tables, whole
//! ones where both addresses allow it, and leaves the mapping that it took them from as it was,
//! with none. So nothing here leaves a hole into which somebody else's mapping could be put.
//!
//! A table that stands for 1 GiB is moved as one only where all of it is mapped; each of the 512 in
//! it that are moved one by one interrupts all processors that run the process. So views of less
//! are longer than the file, where address space is not limited: nobody touches what is behind it.
//!
//! All views are kept out of children (`MADV_DONTFORK`) but for those of a fork that is known of:
//! the child of a `clone` that nobody saw crashes instead of storing to its parent's memory.

#![allow(unsafe_code, reason = "mappings that the kernel is told to move")]

#[cfg(feature = "forkable")]
mod ahead;
mod branch;
mod inherit;
#[cfg(feature = "forkable")]
mod leave;
mod reserved;
mod restore;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

pub(crate) use self::branch::Branch;
use self::reserved::Reserved;
use super::descriptor::{self, Descriptor};
use super::pagemap;
use super::racing;
use super::result::{check, mapped_at, refused};
use super::room::{has_room, has_room_for_copies, is_promised, is_unlimited};
use crate::page::{PageCount, PageIndex, PageRange, PageSize};
use crate::sys::{Permission, ProtectError, die};

/// From how many bytes on a file keeps its descriptor, by which the kernel tells what it holds.
const LARGE: usize = 4 << 20;
/// From how many bytes on views are made as long as can be moved at once.
const LONG: usize = 16 << 20;

/// With `MREMAP_DONTUNMAP` the kernel looks at the new address also where it is not fixed.
const ANYWHERE: *mut libc::c_void = std::ptr::null_mut();

pub(crate) struct Views {
    /// The views are in it, with some bytes between them that nobody may touch.
    _reserved: Reserved,
    live: *mut u8,
    frozen: *mut u8,
    spare: *mut u8,
    len: usize,
    /// Bytes that are mapped behind them.
    padding: usize,
    page_size: PageSize,
    /// The system has to promise memory for private views.
    promised: bool,
    /// Of large ones only: a process may have a thousand descriptors.
    file: Option<Descriptor>,
}

// SAFETY: address ranges that it owns. Its methods say who may touch which bytes when; none of them
// depends on the thread.
unsafe impl Send for Views {}
// SAFETY: as above.
unsafe impl Sync for Views {}

impl Views {
    /// Zero-filled, the live view shared.
    pub fn new(pages: PageCount, page_size: PageSize, in_huge_pages: bool) -> io::Result<Self> {
        let len = pages.get() * page_size.bytes();
        // Small ones are frozen as fast as this is found out.
        let promised = len < LARGE || is_promised();
        let new = |padding| Self::with(len, padding, page_size, promised, in_huge_pages);
        if len < LONG || promised || !is_unlimited() {
            return new(0);
        }
        new(len.next_multiple_of(movable(page_size)) - len).or_else(|_| new(0))
    }

    fn with(
        len: usize,
        padding: usize,
        page_size: PageSize,
        promised: bool,
        in_huge_pages: bool,
    ) -> io::Result<Self> {
        let bytes = page_size.bytes();
        let alignment = alignment_for(len + padding, page_size);
        // Each view is followed by a page at least that nobody may touch.
        let guard = if padding == 0 { bytes } else { 0 };
        let stride = (len + padding + guard).next_multiple_of(alignment);
        let all = stride
            .checked_mul(3)
            .and_then(|all| all.checked_add(alignment + bytes))
            .filter(|all| isize::try_from(*all).is_ok())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let reserved = Reserved::new(all, padding == 0)?;
        let frozen = reserved.start.wrapping_add(bytes);
        let frozen = frozen.wrapping_add(frozen.align_offset(alignment));
        let file = descriptor::file_of_memory(len as u64, 0)?;
        let mut views = Self {
            _reserved: reserved,
            frozen,
            spare: frozen.wrapping_add(stride),
            live: frozen.wrapping_add(2 * stride),
            len,
            padding,
            page_size,
            promised,
            file: None,
        };
        views.map(views.live, libc::MAP_SHARED, &file)?;
        views.map(views.spare, libc::MAP_PRIVATE, &file)?;
        for view in [views.live, views.spare] {
            // Both keep it wherever their page tables are moved to.
            // SAFETY: a view that was just made; the advice does not change contents.
            check(unsafe { libc::madvise(view.cast(), views.mapped(), libc::MADV_DONTFORK) })?;
            if in_huge_pages {
                // A system without them refuses, which is as good.
                // SAFETY: as above.
                unsafe { libc::madvise(view.cast(), views.mapped(), libc::MADV_HUGEPAGE) };
            }
        }
        if len >= LARGE {
            views.file = Some(Descriptor::new(file)?);
        }
        Ok(views)
    }

    /// Whether the system can do all of this.
    pub fn probe() -> io::Result<()> {
        let pages = PageCount::new(1);
        let page_size = PageSize::host();
        let views = Self::new(pages, page_size, false)?;
        views.freeze(PageRange::all(pages))?;
        views.branch()?;
        views.protect(PageRange::all(pages), Permission::ReadOnly)?;
        views.share(PageRange::all(pages))?;
        Ok(())
    }

    /// Puts a view of the whole file at an address of the reservation.
    fn map(&self, view: *mut u8, kind: libc::c_int, file: &File) -> io::Result<()> {
        let flags = kind | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let file = file.as_raw_fd();
        // SAFETY: bytes of the reservation that nobody uses yet (the caller's).
        let mapped = unsafe { libc::mmap(view.cast(), self.mapped(), access, flags, file, 0) };
        mapped_at(mapped)
    }

    /// How many bytes each view has, with those behind the file.
    fn mapped(&self) -> usize {
        self.len + self.padding
    }

    pub fn live(&self) -> *mut u8 {
        self.live
    }

    /// The file's bytes; to be read only once the live view was made private.
    pub fn frozen(&self) -> *const u8 {
        self.frozen
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Makes pages of the live view, all of which are shared, private: what was stored to them by
    /// the time of the second call is the file's, what is stored later is not. When it is refused
    /// the pages are as they were.
    pub fn freeze(&self, pages: PageRange) -> Result<(), ProtectError> {
        let (offset, len) = self.bytes_to_move(pages);
        let at = |view: *mut u8| view.wrapping_add(offset);
        has_room(len)?;
        has_room_for_copies(len, self.promised)?;
        self.empty_spare().map_err(|error| refused(&error))?;
        // In between, stores go to the file through the shared view, which has to fault them in.
        move_tables(at(self.live), at(self.frozen), len)?;
        move_tables(at(self.spare), at(self.live), len).inspect_err(|_| {
            if move_tables(at(self.frozen), at(self.live), len).is_err() {
                die("pagecow: cannot undo half of a snapshot\n");
            }
        })
    }

    /// A locked view that is private and writable has copies of all pages from the time when it was
    /// locked: they would be moved along.
    fn empty_spare(&self) -> io::Result<()> {
        let drop_pages = || {
            // SAFETY: a whole view, which nobody touches.
            check(unsafe { libc::madvise(self.spare.cast(), self.mapped(), libc::MADV_DONTNEED) })
        };
        if drop_pages().is_ok() {
            return Ok(());
        }
        // Locked, perhaps.
        // SAFETY: as above.
        check(unsafe { libc::munlock(self.spare.cast(), self.mapped()) })?;
        drop_pages()
    }

    /// The permission of private pages of the live view.
    pub fn protect(&self, pages: PageRange, permission: Permission) -> Result<(), ProtectError> {
        let (offset, len) = self.bytes_of(pages);
        let access = match permission {
            Permission::ReadOnly => libc::PROT_READ,
            Permission::Writable => libc::PROT_READ | libc::PROT_WRITE,
        };
        let start = self.live.wrapping_add(offset);
        // SAFETY: inside the live view; contents stay.
        let result = unsafe { libc::mprotect(start.cast(), len, access) };
        check(result).map_err(|error| refused(&error))
    }

    /// Calls `found` with each of these private pages of the live view that has a copy of its own;
    /// with each that differs from the file where the system does not say. Returns whether it said
    /// so of all.
    pub fn copied(&self, pages: PageRange, mut found: impl FnMut(PageIndex)) -> bool {
        let end = pages.end();
        let listed = pagemap::private(self.live, self.page_size, pages, &mut found);
        for page in (listed..end).map(PageIndex::new) {
            if self.differs(page) {
                found(page);
            }
        }
        listed == end
    }

    fn differs(&self, page: PageIndex) -> bool {
        let offset = self.page_size.offset_of(page);
        let live = self.live.wrapping_add(offset);
        let frozen = self.frozen.wrapping_add(offset);
        // SAFETY: pages inside the views. Others may store meanwhile.
        unsafe { racing::differ(live, frozen, self.page_size.bytes()) }
    }

    /// Copies a page of the live view, to which nobody can store, into the file, which nobody
    /// reads.
    pub fn copy_down(&self, page: PageIndex) {
        let offset = self.page_size.offset_of(page);
        let from = self.live.wrapping_add(offset);
        let to = self.frozen.wrapping_add(offset);
        // SAFETY: pages of two different views, aligned; nobody stores to the one and nobody uses
        // the other (this function's contract).
        unsafe { super::copy::page(to, from, self.page_size.bytes()) };
    }

    /// Makes private pages of the live view, which hold the same as the file and to which nobody
    /// can store, shared and writable.
    pub fn share(&self, pages: PageRange) -> Result<(), ProtectError> {
        let (offset, len) = self.bytes_to_move(pages);
        let (from, to) = (
            self.frozen.wrapping_add(offset),
            self.live.wrapping_add(offset),
        );
        has_room(len)?;
        move_tables(from, to, len)
    }

    /// Once these pages were shared, and those before them: gives back page tables of the frozen
    /// view that have become empty. The next [`freeze`](Self::freeze) would go through all of them.
    /// A kernel before Linux 6.14 keeps them.
    pub fn free_tables(&self, pages: PageRange) {
        let (offset, len) = self.bytes_to_move(pages);
        let table = self.page_size.bytes() * self.page_size.pages_of_table();
        let start = offset / table * table;
        let end = match offset + len {
            end if end == self.mapped() => end,
            end => end / table * table,
        };
        if start < end {
            let from = self.frozen.wrapping_add(start);
            // SAFETY: inside the view of the file, whose pages the file keeps.
            unsafe { libc::madvise(from.cast(), end - start, libc::MADV_DONTNEED) };
        }
    }

    /// The first run of pages of the file, from `page` on, that hold anything; `None` when there is
    /// none. All pages count where the system does not say. While nobody stores to the file.
    pub fn next_held(&self, page: usize) -> Option<Range<usize>> {
        let bytes = self.page_size.bytes();
        let pages = self.len / bytes;
        if page >= pages {
            return None;
        }
        let held = self.file.as_ref().and_then(|file| file.data(page * bytes));
        match held {
            Some(data) if data.is_empty() => None,
            Some(data) => Some((data.start / bytes).max(page)..data.end.div_ceil(bytes).min(pages)),
            None => Some(page..pages),
        }
    }

    /// For checks: which pages of the live view are shared, one value a page. All have to be
    /// writable, unless some may be armed.
    pub fn shared_pages(&self, may_be_armed: bool) -> Result<Vec<bool>, String> {
        let bytes = self.page_size.bytes();
        let start = self.live as usize;
        let mut shared = Vec::new();
        let regions =
            region::query_range(self.live, self.len).map_err(|error| error.to_string())?;
        for region in regions {
            let region = region.map_err(|error| error.to_string())?;
            let range = region.as_range();
            if !may_be_armed && !region.protection().contains(region::Protection::READ_WRITE) {
                return Err(format!("{range:x?} is not writable"));
            }
            let pages = range.end.min(start + self.len) - range.start.max(start);
            shared.extend(std::iter::repeat_n(region.is_shared(), pages / bytes));
        }
        Ok(shared)
    }

    /// Offset and length.
    fn bytes_of(&self, pages: PageRange) -> (usize, usize) {
        let offset = self.page_size.offset_of(pages.first());
        let len = pages.count().get() * self.page_size.bytes();
        debug_assert!(offset + len <= self.len);
        (offset, len)
    }

    /// The same, with what is behind the last page, so that it is always of the same kind.
    fn bytes_to_move(&self, pages: PageRange) -> (usize, usize) {
        let (offset, len) = self.bytes_of(pages);
        if offset + len == self.len {
            (offset, len + self.padding)
        } else {
            (offset, len)
        }
    }
}

/// How many bytes are moved at once, at most 1 GiB: what one table of page tables stands for, or of
/// tables of them.
fn movable(page_size: PageSize) -> usize {
    let bytes = page_size.bytes();
    let table = page_size.pages_of_table();
    let most = bytes * table * table;
    if most <= 1 << 30 { most } else { bytes * table }
}

/// Both addresses at a multiple of the memory that a table of page tables stands for, if the view
/// is that long, so that it is moved whole.
fn alignment_for(len: usize, page_size: PageSize) -> usize {
    let bytes = page_size.bytes();
    let table = page_size.pages_of_table();
    let sizes = [bytes * table * table, bytes * table];
    let fitting = sizes.into_iter().find(|size| len >= *size);
    fitting.unwrap_or(bytes)
}

/// Moves the page tables of one view to another, which is replaced and becomes of the same kind;
/// the one that they are taken from stays, without any.
fn move_tables(from: *mut u8, to: *mut u8, len: usize) -> Result<(), ProtectError> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    // SAFETY: both ranges are inside our own reservation, and what the target held is not needed
    // any more (the callers').
    let moved = unsafe { libc::mremap(from.cast(), len, len, flags, to.cast::<libc::c_void>()) };
    mapped_at(moved).map_err(|error| refused(&error))
}
