//! Anonymous private memory: reserved at once, resident when touched.

#![allow(unsafe_code, reason = "memory that others store to while we read it")]

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use crate::page::{PageIndex, PageRange, PageSize};
use crate::sys::ZeroValid;

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
        // SAFETY: both pages are inside their mappings (asserted above), which are different; nobody
        // stores to the one and nobody else uses the other (this function's contract).
        unsafe { std::ptr::copy_nonoverlapping(source, target, bytes) };
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

    /// Makes the pages, which hold nothing yet, resident. When the system has no memory to give they stay as they are.
    pub fn populate(&self, range: PageRange, page_size: PageSize) {
        let (start, len) = self.bytes_of(range, page_size);
        // SAFETY: inside the mapping; populating does not change contents.
        let result = unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) };
        if result == 0 || Errno::last() != Errno::EINVAL {
            return;
        }
        // Kernels before 5.14 do not know the advice: touch each page, without changing it.
        for page in 0..range.count() {
            let byte = start.wrapping_add(page * page_size.bytes());
            // SAFETY: inside the mapping. Others may store to the page meanwhile.
            let byte = unsafe { AtomicU8::from_ptr(byte) };
            byte.fetch_or(0, Ordering::Relaxed);
        }
    }

    /// Gives the memory of the pages, whose contents nobody needs, back to the system.
    pub fn discard(&self, range: PageRange, page_size: PageSize) {
        let (start, len) = self.bytes_of(range, page_size);
        // SAFETY: inside the mapping, and nobody needs the contents. On failure they just stay.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) };
    }

    fn bytes_of(&self, range: PageRange, page_size: PageSize) -> (*mut u8, usize) {
        let start = page_size.offset_of(range.first());
        let len = range.count() * page_size.bytes();
        debug_assert!(start + len <= self.len);
        (self.start.wrapping_add(start), len)
    }
}

/// A slice of zero-valued `T` in lazily zeroed memory: costs what is touched.
pub(crate) struct Zeroed<T> {
    memory: Memory,
    count: usize,
    values: std::marker::PhantomData<T>,
}

impl<T: ZeroValid> Zeroed<T> {
    pub fn new(count: usize) -> io::Result<Self> {
        let page_size = PageSize::host();
        let bytes = count
            .checked_mul(size_of::<T>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let pages = page_size
            .count_for(bytes)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        const { assert!(align_of::<T>() <= 4096) };
        Ok(Self {
            memory: Memory::new(pages, page_size)?,
            count,
            values: std::marker::PhantomData,
        })
    }
}

impl<T: ZeroValid> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: page-aligned memory of at least `count` values (see `new`), zero-filled at first,
        // which is a valid `T` (`ZeroValid`), and written only through `&T` since.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.count) }
    }
}
