//! Anonymous private memory: reserved at once, resident when touched.

#![allow(unsafe_code, reason = "memory that others store to while we read it")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::pagemap::{self, Look};
use crate::page::{PageIndex, PageRange, PageSize};
use crate::sys::ZeroValid;

/// Pages that one call asks about whether they are in memory.
const RESIDENCY: usize = 512;

/// Zero-filled pages, private to the process, without a reservation of swap or memory.
pub(crate) struct Memory {
    _map: MmapRaw,
    start: *mut u8,
    len: usize,
}

// SAFETY: a `Memory` is an address range that it owns. Its methods say who may touch which bytes when;
// none of them depends on the thread.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub fn new(pages: usize, page_size: PageSize) -> io::Result<Self> {
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
            _map: map,
            start,
            len,
        })
    }

    /// Asks for huge pages as it is touched. A system without them refuses, which is as good.
    pub fn in_huge_pages(self) -> Self {
        self.advise(libc::MADV_HUGEPAGE)
    }

    /// Keeps it from becoming huge pages as it is touched, also where the system makes them unasked: the first
    /// touch would have 2 MiB zeroed, in the handler perhaps. A system without them refuses, which is as good.
    pub fn in_small_pages(self) -> Self {
        self.advise(libc::MADV_NOHUGEPAGE)
    }

    fn advise(self, advice: libc::c_int) -> Self {
        // SAFETY: the whole mapping; the advice does not change contents.
        unsafe { libc::madvise(self.start.cast(), self.len, advice) };
        self
    }

    /// The same mapping, narrowed to `pages` pages from `first`.
    pub fn inner(self, first: PageIndex, pages: usize, page_size: PageSize) -> Self {
        let offset = page_size.offset_of(first);
        let len = pages * page_size.bytes();
        debug_assert!(offset + len <= self.len);
        Self {
            start: self.start.wrapping_add(offset),
            len,
            ..self
        }
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

    /// Fills page `to`, which is the caller's alone, from page `page` of `from`, to which nobody can
    /// store meanwhile: it is armed and claimed (invariant 3).
    pub fn copy_page(&self, to: PageIndex, from: &Self, page: PageIndex, page_size: PageSize) {
        let source = page_size.offset_of(page);
        let target = page_size.offset_of(to);
        let bytes = page_size.bytes();
        debug_assert!(source + bytes <= from.len && target + bytes <= self.len);
        let source = from.start.wrapping_add(source);
        let target = self.start.wrapping_add(target);
        // SAFETY: both pages are inside their mappings (asserted above), which are different and page-aligned;
        // nobody stores to the one and nobody else uses the other (this function's contract).
        unsafe { super::copy::page(target, source, bytes) };
    }

    /// Whether page `own` and page `page` of `other` differ. Others may store to either meanwhile; then the
    /// answer means nothing.
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
        let one = self.start.wrapping_add(one).cast::<u64>();
        let two = other.start.wrapping_add(two).cast::<u64>();
        (0..bytes / size_of::<u64>()).any(|word| {
            // SAFETY: inside the mapping (asserted above) and page-aligned; volatile, as in `read`.
            let one = unsafe { one.wrapping_add(word).read_volatile() };
            // SAFETY: as above.
            one != unsafe { two.wrapping_add(word).read_volatile() }
        })
    }

    /// Copies the bytes from `start` on. Others may store to them meanwhile; then what arrives is some
    /// mixture of old and new, and the caller finds out and throws it away.
    pub fn read(&self, start: usize, into: &mut [u8]) {
        assert!(start <= self.len && into.len() <= self.len - start);
        let mut at = self.start.wrapping_add(start).cast_const();
        let (head, rest) = into.split_at_mut(at.align_offset(8).min(into.len()));
        for byte in head {
            // SAFETY: inside the mapping (asserted above). Volatile: the compiler may neither assume
            // that the bytes stand still nor read them twice (docs/soundness.md).
            *byte = unsafe { at.read_volatile() };
            at = at.wrapping_add(1);
        }
        let (words, tail) = rest.as_chunks_mut::<8>();
        for word in words {
            // SAFETY: as above, and aligned since the head was split off.
            *word = unsafe { at.cast::<u64>().read_volatile() }.to_ne_bytes();
            at = at.wrapping_add(8);
        }
        for byte in tail {
            // SAFETY: as above.
            *byte = unsafe { at.read_volatile() };
            at = at.wrapping_add(1);
        }
    }

    /// Makes the pages, which hold nothing yet, resident: by one call, or by touching each. The call is three times as
    /// fast, but holds the lock of all mappings, which is not fair: who changes mappings meanwhile waits for up to
    /// 8 ms (measured).
    pub fn populate(&self, range: PageRange, page_size: PageSize, by_call: bool) {
        const SOME: usize = 32;
        let (start, len) = self.bytes_of(range, page_size);
        for at in (0..len).step_by(SOME * page_size.bytes()) {
            let some = (SOME * page_size.bytes()).min(len - at);
            let start = start.wrapping_add(at);
            if !by_call || !Self::populate_by_call(start, some) {
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
            // Not `fetch_or(0)`, which compilers turn into a load. Whatever the byte is, it is the same after.
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
        let (first, end) = (range.first().get(), range.last().get() + 1);
        // Mostly the first page tells.
        let resident = self.first_resident(first..first + 1, page_size);
        resident.or_else(|| {
            let rest = first + 1..end;
            if rest.is_empty() {
                return None;
            }
            pagemap::first(self, page_size, rest.clone())
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
        // Mostly memory is dense, and then this costs a tenth.
        let some = range.start..range.end.min(range.start + RESIDENCY);
        let dense = self
            .residency(&some, page_size)
            .is_some_and(|resident| resident[..some.len()].iter().all(|page| page & 1 != 0));
        if dense {
            return Some(Look::of_all(some));
        }
        pagemap::look(self, page_size, range)
    }

    /// Address and length.
    pub fn bytes_of(&self, range: PageRange, page_size: PageSize) -> (*mut u8, usize) {
        let start = page_size.offset_of(range.first());
        let len = range.count() * page_size.bytes();
        debug_assert!(start + len <= self.len);
        (self.start.wrapping_add(start), len)
    }
}

/// A slice of zero-valued `T` in zeroed memory: a large one costs what is touched, a small one no mapping.
pub(crate) struct Zeroed<T> {
    start: NonNull<T>,
    count: usize,
    _memory: Backing,
}

/// Where the values are.
enum Backing {
    Mapping {
        _memory: Memory,
    },
    /// Neighbours on the heap are not in its cache lines.
    Heap {
        start: NonNull<u8>,
        layout: Layout,
    },
}

/// Bytes up to which a slice comes from the heap.
const SMALL: usize = 16 << 10;
const CACHE_LINE: usize = 64;

// SAFETY: owns its values, as a `Box<[T]>` does.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T: ZeroValid> Zeroed<T> {
    pub fn new(count: usize) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= CACHE_LINE && size_of::<T>() > 0) };
        let bytes = count
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let (start, memory) = if bytes <= SMALL {
            Backing::on_heap(bytes.max(1))?
        } else {
            Backing::in_mapping(bytes)?
        };
        Ok(Self {
            start: start.cast(),
            count,
            _memory: memory,
        })
    }
}

impl Backing {
    fn on_heap(bytes: usize) -> io::Result<(NonNull<u8>, Self)> {
        let layout =
            Layout::from_size_align(bytes, CACHE_LINE).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: not of size zero (the caller's).
        let start = NonNull::new(unsafe { alloc_zeroed(layout) });
        let start = start.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok((start, Self::Heap { start, layout }))
    }

    fn in_mapping(bytes: usize) -> io::Result<(NonNull<u8>, Self)> {
        let page_size = PageSize::host();
        let pages = page_size
            .count_for(bytes)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Memory::new(pages, page_size)?.in_small_pages();
        let start = NonNull::new(memory.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok((start, Self::Mapping { _memory: memory }))
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Self::Heap { start, layout } = self {
            // SAFETY: allocated in `on_heap` with this layout, and nobody has a reference any more.
            unsafe { dealloc(start.as_ptr(), *layout) };
        }
    }
}

impl<T: ZeroValid> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: aligned memory of at least `count` values (see `new`), zero-filled at first, which is
        // a valid `T` (`ZeroValid`), and written only through `&T` since.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}
