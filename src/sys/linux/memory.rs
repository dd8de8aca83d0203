//! Anonymous private memory: reserved at once, resident when touched.

#![allow(unsafe_code, reason = "memory that others store to while we read it")]

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::pagemap::{self, Look};
use super::racing;
use super::views::Views;
use crate::page::{PageCount, PageIndex, PageRange, PageSize};
use crate::sys::Populate;

/// Pages that one call asks about whether they are in memory.
const RESIDENCY: usize = 512;

/// Pages, zero-filled at first, without a reservation of swap or memory.
pub(crate) struct Memory {
    owner: Owner,
    start: *mut u8,
    len: usize,
}

/// What the memory is a part of, and lives as long as.
enum Owner {
    /// A mapping of its own, private to the process.
    Map { _map: MmapRaw },
    /// The live one of these views.
    Views { _views: Arc<Views> },
}

// SAFETY: a `Memory` is an address range that it owns. Its methods say who may touch which bytes
// when; none of them depends on the thread.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(pages: PageCount, page_size: PageSize) -> io::Result<Self> {
        Self::map(pages.get(), page_size)
    }

    /// `pages` may be more than an arena can have.
    fn map(pages: usize, page_size: PageSize) -> io::Result<Self> {
        let len = pages
            .checked_mul(page_size.bytes())
            .filter(|len| isize::try_from(*len).is_ok())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let map: MmapRaw = MmapOptions::new()
            .len(len)
            .no_reserve_swap()
            .map_anon()?
            .into();
        let start = map.as_mut_ptr();
        Ok(Self {
            owner: Owner::Map { _map: map },
            start,
            len,
        })
    }

    /// The live one of these views.
    pub fn of_views(views: &Arc<Views>) -> Self {
        Self {
            owner: Owner::Views {
                _views: views.clone(),
            },
            start: views.live(),
            len: views.len(),
        }
    }

    /// Memory for an arena: `pages` pages between some that nobody may touch, so that the mapping
    /// never merges with a stranger's and a call over all of them splits nothing. Where it is long
    /// enough for huge pages it begins with one.
    pub fn guarded(pages: PageCount, page_size: PageSize) -> io::Result<Self> {
        let huge = page_size.pages_of_table();
        let alignment = if pages.get() < huge { 1 } else { huge };
        let memory = Self::map(pages.get() + 1 + alignment, page_size)?;
        let bytes = page_size.bytes();
        let low = memory.start;
        let first = low.wrapping_add(bytes).align_offset(alignment * bytes) / bytes + 1;
        let high = first + pages.get();
        for guard in [0..first, high..memory.len / bytes] {
            let start = low.wrapping_add(guard.start * bytes);
            let len = guard.len() * bytes;
            // SAFETY: inside the mapping that was just made and that nobody uses.
            if unsafe { libc::mprotect(start.cast(), len, libc::PROT_NONE) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(memory.inner(PageIndex::new(first), pages, page_size))
    }

    /// The same mapping, narrowed to `pages` pages from `first`.
    fn inner(self, first: PageIndex, pages: PageCount, page_size: PageSize) -> Self {
        let offset = page_size.offset_of(first);
        let len = pages.get() * page_size.bytes();
        debug_assert!(offset + len <= self.len);
        Self {
            start: self.start.wrapping_add(offset),
            len,
            ..self
        }
    }

    /// Writes the first byte of memory that nobody else knows of yet. Before it is ever protected
    /// this gives the mapping its bookkeeping, without which its parts never merge again
    /// ([`super::mprotect`]).
    pub fn write_first_byte(&self) {
        // SAFETY: the first byte of the mapping, writable, and nobody else knows of it (the
        // caller's).
        unsafe { self.start.write_volatile(0) };
    }

    /// Asks for huge pages as it is touched. A system without them refuses, which is as good.
    pub fn in_huge_pages(self) -> Self {
        self.advise(libc::MADV_HUGEPAGE)
    }

    /// Keeps it from becoming huge pages as it is touched, also where the system makes them
    /// unasked: the first touch would have 2 MiB zeroed, in the handler perhaps. A system without
    /// them refuses, which is as good.
    pub fn in_small_pages(self) -> Self {
        self.advise(libc::MADV_NOHUGEPAGE)
    }

    fn advise(self, advice: libc::c_int) -> Self {
        // SAFETY: the whole mapping; the advice does not change contents.
        unsafe { libc::madvise(self.start.cast(), self.len, advice) };
        self
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.start
    }

    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Fills page `to`, which is the caller's alone, from page `page` of `from`, to which nobody
    /// can store meanwhile: it is armed and claimed (invariant 3).
    pub fn copy_page(&self, to: PageIndex, from: &Self, page: PageIndex, page_size: PageSize) {
        let source = page_size.offset_of(page);
        let target = page_size.offset_of(to);
        let bytes = page_size.bytes();
        debug_assert!(source + bytes <= from.len && target + bytes <= self.len);
        let source = from.start.wrapping_add(source);
        let target = self.start.wrapping_add(target);
        // SAFETY: both pages are inside their mappings (asserted above), which are different and
        // page-aligned; nobody stores to the one and nobody else uses the other (this function's
        // contract).
        unsafe { super::copy::page(target, source, bytes) };
    }

    /// Stores to page `page`, which is writable and stays so, what page `source` of `from` holds,
    /// which nobody changes. As any store, it may meet readers of the same bytes.
    pub fn put_page(&self, page: PageIndex, from: &Self, source: PageIndex, page_size: PageSize) {
        let target = page_size.offset_of(page);
        let source = page_size.offset_of(source);
        let bytes = page_size.bytes();
        debug_assert!(source + bytes <= from.len && target + bytes <= self.len);
        let source = from.start.wrapping_add(source);
        let target = self.start.wrapping_add(target);
        // SAFETY: both pages are inside their mappings (asserted above), which are different. The
        // caller has the arena to itself, as for a store through `&mut` (docs/soundness.md).
        unsafe { std::ptr::copy_nonoverlapping(source, target, bytes) };
    }

    /// The same with bytes that are not a `Memory`'s, from `start` on.
    pub fn put(&self, start: usize, bytes: &[u8]) {
        assert!(start <= self.len && bytes.len() <= self.len - start);
        let target = self.start.wrapping_add(start);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// Whether page `own` and page `page` of `other` differ. Others may store to either meanwhile;
    /// then the answer means nothing.
    pub fn differs(
        &self,
        own: PageIndex,
        other: &Self,
        page: PageIndex,
        page_size: PageSize,
    ) -> bool {
        let one = page_size.offset_of(own);
        let two = page_size.offset_of(page);
        let bytes = page_size.bytes();
        assert!(one + bytes <= self.len && two + bytes <= other.len);
        let (one, two) = (self.start.wrapping_add(one), other.start.wrapping_add(two));
        // SAFETY: pages inside their mappings (asserted above).
        unsafe { racing::differ(one, two, bytes) }
    }

    /// Copies the bytes from `start` on. Others may store to them meanwhile; then what arrives is
    /// some mixture of old and new, and the caller finds out and throws it away.
    pub fn read(&self, start: usize, into: &mut [u8]) {
        assert!(start <= self.len && into.len() <= self.len - start);
        // SAFETY: inside the mapping (asserted above), of which no buffer is a part.
        unsafe { racing::read(self.start.wrapping_add(start), into) };
    }

    /// Makes the pages, which hold nothing yet, resident.
    pub fn populate(&self, range: PageRange, page_size: PageSize, by: Populate) {
        const SOME: usize = 32;
        let (start, len) = self.bytes_of(range, page_size);
        for at in (0..len).step_by(SOME * page_size.bytes()) {
            let some = (SOME * page_size.bytes()).min(len - at);
            let start = start.wrapping_add(at);
            if by == Populate::ByTouch || !Self::populate_by_call(start, some) {
                Self::touch(start, some, page_size);
            }
        }
    }

    /// `false` when the kernel does not know the advice (before 5.14), or has no memory to give.
    fn populate_by_call(start: *mut u8, len: usize) -> bool {
        // SAFETY: inside the mapping (the caller's); populating does not change contents.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) == 0 }
    }

    fn touch(start: *mut u8, len: usize, page_size: PageSize) {
        for at in (0..len).step_by(page_size.bytes()) {
            // SAFETY: inside the mapping (the caller's). Others may store to the page meanwhile, or
            // read it through a `Page`'s `&[u8]`, which the language does not allow beside an
            // atomic write. On the machine nothing happens: the byte is put back as it was found,
            // in one locked step (docs/soundness.md).
            let byte = unsafe { AtomicU8::from_ptr(start.wrapping_add(at)) };
            // Not `fetch_or(0)`, which compilers turn into a load. Whatever the byte is, it is the
            // same after.
            let _ = byte.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Gives the memory of the pages, whose contents nobody needs, back to the system.
    pub fn discard(&self, range: PageRange, page_size: PageSize) {
        let (start, len) = self.bytes_of(range, page_size);
        // SAFETY: inside the mapping, and nobody needs the contents. On failure they just stay.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) };
    }

    /// The first of these pages of which the kernel holds anything, where it says so; else the
    /// first that is in memory. The first page of all when it says neither. Async-signal-safe.
    pub fn first_touched(&self, range: PageRange, page_size: PageSize) -> Option<PageIndex> {
        let (first, end) = (range.start(), range.end());
        // Mostly the first page tells.
        let resident = self.first_resident(first..first + 1, page_size);
        resident.or_else(|| {
            let rest = first + 1..end;
            if rest.is_empty() {
                return None;
            }
            pagemap::first(self.as_ptr(), page_size, rest.clone())
                .unwrap_or_else(|| self.first_resident(rest, page_size))
        })
    }

    fn first_resident(&self, range: Range<usize>, page_size: PageSize) -> Option<PageIndex> {
        let mut at = range.start;
        while at < range.end {
            let some = at..range.end.min(at + RESIDENCY);
            let first = match self.residency(&some, page_size) {
                Some(resident) => resident[..some.len()].iter().position(|page| page & 1 != 0),
                None => Some(0),
            };
            if let Some(first) = first {
                return Some(PageIndex::new(at + first));
            }
            at = some.end;
        }
        None
    }

    /// For each of at most `RESIDENCY` pages whether it is in memory, in the lowest bit. `None` in
    /// doubt.
    fn residency(&self, range: &Range<usize>, page_size: PageSize) -> Option<[u8; RESIDENCY]> {
        debug_assert!(range.len() <= RESIDENCY);
        let mut resident = [0; RESIDENCY];
        let address = self.start.wrapping_add(range.start * page_size.bytes());
        let len = range.len() * page_size.bytes();
        // SAFETY: inside the mapping, and one byte a page for at most `RESIDENCY` pages.
        let result = unsafe { libc::mincore(address.cast(), len, resident.as_mut_ptr()) };
        (result == 0).then_some(resident)
    }

    /// Which of these pages, at least one, the kernel holds anything of, as far as one look tells.
    /// `None` when it does not say.
    pub fn look(&self, range: Range<usize>, page_size: PageSize) -> Option<Look> {
        if matches!(self.owner, Owner::Views { .. }) {
            // The file may hold something where the view does not.
            return None;
        }
        // Mostly memory is dense, and then this costs a tenth.
        let some = range.start..range.end.min(range.start + RESIDENCY);
        let dense = self
            .residency(&some, page_size)
            .is_some_and(|resident| resident[..some.len()].iter().all(|page| page & 1 != 0));
        if dense {
            return Some(Look::of_all(some));
        }
        pagemap::look(self.as_ptr(), page_size, range)
    }

    /// Address and length.
    pub fn bytes_of(&self, range: PageRange, page_size: PageSize) -> (*mut u8, usize) {
        let start = page_size.offset_of(range.first());
        let len = range.count().get() * page_size.bytes();
        debug_assert!(start + len <= self.len);
        (self.start.wrapping_add(start), len)
    }
}
