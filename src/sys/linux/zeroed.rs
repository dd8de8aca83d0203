//! Slices in lazily zeroed memory.

#![allow(unsafe_code, reason = "values made of zero bytes")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

use super::memory::Memory;
use crate::page::PageSize;
use crate::sys::ZeroValid;

/// A slice of zero-valued `T` in zeroed memory: a large one costs what is touched, a small one no
/// mapping.
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
        // SAFETY: aligned memory of at least `count` values (see `new`), zero-filled at first,
        // which is a valid `T` (`ZeroValid`), and written only through `&T` since.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}
