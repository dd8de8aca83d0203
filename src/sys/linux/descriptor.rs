//! Files of memory, and descriptors that know their file: somebody may close a descriptor that he
//! does not know, and the kernel gives its number out again.

#![allow(unsafe_code, reason = "system calls")]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;

#[cfg(feature = "forkable")]
use super::result::{check, mapped_at};

pub(super) struct Descriptor {
    file: ManuallyDrop<File>,
    /// Device and inode.
    identity: (u64, u64),
}

impl Descriptor {
    pub fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            file: ManuallyDrop::new(file),
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it is still the file's.
    pub fn is_open(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    /// The first bytes from `from` on that the file holds, none when it holds no more. `None` when
    /// the system does not say.
    pub fn data(&self, from: usize) -> Option<Range<usize>> {
        if !self.is_open() {
            // To ask another file would move the place where it is read next.
            return None;
        }
        let start = self.seek(from, libc::SEEK_DATA)?.unwrap_or(from);
        let end = self.seek(start, libc::SEEK_HOLE)?.unwrap_or(start);
        // It was the file that was asked.
        self.is_open().then_some(start..end)
    }

    /// A shared mapping of a part of the file, wherever the kernel likes.
    #[cfg(feature = "forkable")]
    pub fn map(&self, offset: usize, len: usize) -> io::Result<*mut libc::c_void> {
        let place = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let file = self.file.as_raw_fd();
        // SAFETY: a new mapping.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, file, place) };
        mapped_at(mapped)?;
        if self.is_open() {
            return Ok(mapped);
        }
        // SAFETY: the mapping that was just made.
        unsafe { libc::munmap(mapped, len) };
        Err(io::ErrorKind::NotFound.into())
    }

    /// Makes a hole of a part of the file, whose memory is given back.
    #[cfg(feature = "forkable")]
    pub fn punch(&self, bytes: Range<usize>) -> io::Result<()> {
        self.is_open()
            .then_some(())
            .ok_or(io::ErrorKind::NotFound)?;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let number = |bytes: usize| libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
        let (start, len) = (number(bytes.start), number(bytes.len()));
        // SAFETY: a plain system call.
        check(unsafe { libc::fallocate(self.file.as_raw_fd(), mode, start, len) })
    }

    /// `Some(None)` when there is no such place.
    fn seek(&self, from: usize, what: libc::c_int) -> Option<Option<usize>> {
        let from = libc::off_t::try_from(from).ok()?;
        // SAFETY: a plain system call.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), from, what) };
        match usize::try_from(found) {
            Ok(found) => Some(Some(found)),
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => Some(None),
            Err(_) => None,
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.is_open() {
            // SAFETY: not used any more.
            unsafe { ManuallyDrop::drop(&mut self.file) };
        }
    }
}

/// A file of zeros in memory, which is gone when its last descriptor and mapping are.
pub(super) fn file_of_memory(len: u64, flags: libc::c_uint) -> io::Result<File> {
    let mut most = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // The kernel would say so by a signal that ends the process.
    // SAFETY: `most` is a live structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut most) } == 0 && len > most.rlim_cur {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let flags = libc::MFD_CLOEXEC | flags;
    // SAFETY: a name that ends in zero; returns a descriptor.
    let descriptor = unsafe { libc::memfd_create(c"pagecow".as_ptr(), flags) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, and nobody else's.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(len)?;
    Ok(file)
}
