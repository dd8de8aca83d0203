//! Pages of the live view in whose place other memory is put, and that come back.

use std::io;

use super::Views;
use crate::page::{PageIndex, PageRange};
use crate::sys::linux::copy;
use crate::sys::linux::result::{check, mapped_at, refused};
use crate::sys::{Permission, ProtectError, die};

const ACCESS: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

impl Views {
    /// Moves what pages hold, which nobody can store to meanwhile, to ordinary memory at the same
    /// addresses. When it is refused they are as they were.
    pub fn move_out(&self, pages: PageRange) -> Result<(), ProtectError> {
        let (_, len) = self.bytes_of(pages);
        // SAFETY: a new mapping, wherever the kernel likes.
        let new = unsafe { libc::mmap(std::ptr::null_mut(), len, ACCESS, ANONYMOUS, -1, 0) };
        mapped_at(new).map_err(|error| refused(&error))?;
        let moved = self
            .protect(pages, Permission::ReadOnly)
            .and_then(|()| self.replace_by(new.cast(), pages));
        if moved.is_err() {
            // A call that is refused may have protected a part.
            if self.protect(pages, Permission::Writable).is_err() {
                die("pagecow: cannot undo half of moving pages out\n");
            }
            // SAFETY: the mapping that was made above, which nobody uses.
            unsafe { libc::munmap(new, len) };
        }
        moved
    }

    /// Puts a mapping of nobody's in the place of pages, with what they hold.
    fn replace_by(&self, new: *mut u8, pages: PageRange) -> Result<(), ProtectError> {
        let (start, len) = self.bytes_of(pages);
        let live = self.live.wrapping_add(start);
        let copy = |page: PageIndex| {
            let offset = self.page_size.offset_of(page) - start;
            let (to, from) = (new.wrapping_add(offset), live.wrapping_add(offset));
            // SAFETY: pages of two mappings, aligned; nobody stores to the one and nobody has the
            // other.
            unsafe { copy::page(to, from, self.page_size.bytes()) };
        };
        // What the file holds, and what is a copy of the kernel's. All else is zeros.
        let mut next = pages.start();
        while let Some(held) = self.next_held(next).filter(|held| held.start < pages.end()) {
            let end = held.end.min(pages.end());
            (held.start..end).map(PageIndex::new).for_each(copy);
            next = end;
        }
        self.copied(pages, copy);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let to: *mut libc::c_void = live.cast();
        // SAFETY: what is replaced was copied.
        mapped_at(unsafe { libc::mremap(new.cast(), len, len, flags, to) })
            .map_err(|error| refused(&error))
    }

    /// Puts shared pages back where they were moved out, whatever is there now. What they hold is
    /// not to be relied on.
    pub fn move_in(&self, pages: PageRange) -> io::Result<()> {
        let (offset, len) = self.bytes_of(pages);
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        // Elsewhere at first: its descriptor may be another file's by now.
        let new = file.map(offset, len)?;
        // SAFETY: the mapping that was just made; the advice does not change contents.
        let mut moved = check(unsafe { libc::madvise(new, len, libc::MADV_DONTFORK) });
        if moved.is_ok() {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let to: *mut libc::c_void = self.live.wrapping_add(offset).cast();
            // SAFETY: what is replaced nobody needs any more (the caller's).
            moved = mapped_at(unsafe { libc::mremap(new, len, len, flags, to) });
        }
        if moved.is_err() {
            // SAFETY: the mapping that was just made, which nobody uses.
            unsafe { libc::munmap(new, len) };
        }
        moved
    }

    /// Keeps others' mappings out of where pages were moved out, and gives the memory of what is
    /// there back.
    pub fn fence(&self, pages: PageRange) {
        let (offset, len) = self.bytes_of(pages);
        let live = self.live.wrapping_add(offset).cast();
        let flags = ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: what is replaced nobody needs any more (the caller's).
        unsafe { libc::mmap(live, len, libc::PROT_NONE, flags, -1, 0) };
    }

    /// Gives the memory back that the file holds for pages that have left, which nobody looks at.
    pub fn give_up(&self, pages: PageRange) {
        let (offset, len) = self.bytes_of(pages);
        if let Some(file) = &self.file {
            // When it is refused the memory stays until the process ends.
            let _ = file.punch(offset..offset + len);
        }
    }

    /// Gives the memory of shared pages back: they are zeros from then on.
    pub fn give_back(&self, pages: PageRange) -> io::Result<()> {
        let (offset, len) = self.bytes_of(pages);
        let start = self.live.wrapping_add(offset);
        // SAFETY: inside the live view; its contents are not needed any more (the caller's).
        check(unsafe { libc::madvise(start.cast(), len, libc::MADV_REMOVE) })
    }
}
