//! Protection by userfaultfd(2) in write-protect mode, delivered as SIGBUS to the thread that stores.
//!
//! The protection is a bit in each page-table entry, so no mapping is split. Pages that have no entry yet have no
//! bit; the kernel can put markers there, which costs page tables. So blocks that were never touched are
//! protected by mprotect instead, as a whole ([`Blocks`]), and get markers when one of their pages is stored to.
//! The flag `UFFD_USER_MODE_ONLY` makes it work without privileges: a system call that writes into
//! an armed page fails with EFAULT, as with mprotect.
//!
//! After a fork the child's pages have no bits, and its copy of the descriptor acts on the parent's memory.

#![allow(unsafe_code, reason = "userfaultfd has no safe interface")]

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::errno::Errno;

use super::memory::Memory;
use super::mprotect;
use crate::page::{PageIndex, PageRange, PageSize};
use crate::sys::ProtectError;
use crate::sys::blocks::{Blocks, Protect};

// linux/userfaultfd.h
const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xaa;
const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const FEATURE_SIGBUS: u64 = 1 << 7;
/// Since Linux 6.4, with which a call may also span mappings.
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURES: u64 = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_SIGBUS | FEATURE_WP_UNPOPULATED;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;
/// Nobody sleeps for a page: whoever stores gets SIGBUS.
const WRITEPROTECT_MODE_DONTWAKE: u64 = 1 << 1;

#[repr(C)]
struct ApiArgs {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RegisterArgs {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtectArgs {
    start: u64,
    len: u64,
    mode: u64,
}

const IOCTL_API: libc::Ioctl = libc::_IOWR::<ApiArgs>(0xaa, 0x3f);
const IOCTL_REGISTER: libc::Ioctl = libc::_IOWR::<RegisterArgs>(0xaa, 0x00);
const IOCTL_WRITEPROTECT: libc::Ioctl = libc::_IOWR::<WriteProtectArgs>(0xaa, 0x06);

/// Most blocks of an arena: each may be a mapping of its own.
const MOST_BLOCKS: usize = 8192;

pub(super) struct Userfaultfd {
    /// The descriptor, or -1 in the child of a fork.
    descriptor: AtomicI32,
    /// Which file that is: somebody may close the descriptor, and its number be used again.
    inode: u64,
    blocks: Blocks,
}

impl Userfaultfd {
    pub fn new(memory: &Memory, page_size: PageSize) -> io::Result<Self> {
        // So that markers in one block cost no other its table.
        let table = page_size.pages_of_table();
        let pages = memory.len() / page_size.bytes();
        let block = pages.div_ceil(MOST_BLOCKS).next_power_of_two().max(table);
        let blocks = Blocks::new(pages, block)?;
        let descriptor = open()?;
        let this = Self {
            descriptor: AtomicI32::new(descriptor),
            inode: inode(descriptor)?,
            blocks,
        };
        let mut api = ApiArgs {
            api: API,
            features: FEATURES,
            ioctls: 0,
        };
        this.ioctl(IOCTL_API, &mut api)?;
        let mut register = RegisterArgs {
            start: memory.as_ptr() as u64,
            len: memory.len() as u64,
            mode: REGISTER_MODE_WP,
            ioctls: 0,
        };
        this.ioctl(IOCTL_REGISTER, &mut register)?;
        Ok(this)
    }

    pub fn descriptor(&self) -> RawFd {
        self.descriptor.load(Ordering::Relaxed)
    }

    /// Whether this process's pages are protected by it.
    pub fn is_active(&self) -> bool {
        self.descriptor() >= 0
    }

    /// In the child of a fork: it protects nothing here.
    pub fn forsake(&self) {
        self.close();
    }

    fn close(&self) {
        let ours = self.check().is_ok();
        let descriptor = self.descriptor.swap(-1, Ordering::Relaxed);
        if ours {
            // SAFETY: our own descriptor, not used any more.
            unsafe { libc::close(descriptor) };
        }
    }

    fn ioctl<T>(&self, request: libc::Ioctl, args: &mut T) -> io::Result<()> {
        // SAFETY: `request` was made for arguments of type `T`, which the kernel reads and fills in.
        let result = unsafe { libc::ioctl(self.descriptor(), request, std::ptr::from_mut(args)) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// `Err` when somebody closed the descriptor, which ended all protection. Async-signal-safe.
    pub fn check(&self) -> io::Result<()> {
        // Any other error tells nothing about the descriptor.
        for _ in 0..3 {
            match inode(self.descriptor()) {
                Ok(inode) if inode == self.inode => return Ok(()),
                Err(error) if error.raw_os_error() != Some(libc::EBADF) => {}
                _ => break,
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }

    /// After the descriptor was closed, and all snapshots are known to have failed: has the mappings
    /// refuse no store any more. Async-signal-safe.
    pub fn give_up(&self, by: &Calls<'_>) -> Result<(), ProtectError> {
        self.blocks.open_mappings(by)
    }

    /// As [`Protection::arm`](super::Protection::arm).
    pub fn arm(&self, range: PageRange, by: &Calls<'_>) -> Result<(), ProtectError> {
        self.blocks.arm(range, by)
    }

    /// As [`Protection::disarm`](super::Protection::disarm).
    pub fn disarm(&self, range: PageRange, by: &Calls<'_>) -> Result<(), ProtectError> {
        self.blocks.disarm(range, by)
    }

    /// As [`Protection::unfold`](super::Protection::unfold).
    pub fn unfold(&self, by: &Calls<'_>) -> Result<(), ProtectError> {
        self.blocks.split_all(by)
    }

    /// As [`Protection::whole_end`](super::Protection::whole_end).
    pub fn whole_end(&self, end: usize, by: &Calls<'_>) -> usize {
        self.blocks.whole_end(end, by)
    }

    /// As [`Protection::whole_blocks`](super::Protection::whole_blocks).
    pub fn whole_blocks(&self, range: PageRange, by: &Calls<'_>) -> PageRange {
        self.blocks.whole_blocks(range, by)
    }

    /// The most borders between mappings that its blocks made at one time.
    pub fn most_borders(&self) -> u64 {
        self.blocks.most_borders()
    }

    /// For checks: adds the pages that are armed one by one.
    pub fn add_armed(
        &self,
        memory: &Memory,
        page_size: PageSize,
        armed: &mut [bool],
    ) -> Result<(), String> {
        use std::os::unix::fs::FileExt;
        const UFFD_WP: u64 = 1 << 57;
        let map = std::fs::File::open("/proc/self/pagemap").map_err(|error| error.to_string())?;
        let first = memory.as_ptr() as usize / page_size.bytes();
        let mut entries = vec![0; armed.len() * size_of::<u64>()];
        map.read_exact_at(&mut entries, (first * size_of::<u64>()) as u64)
            .map_err(|error| error.to_string())?;
        for (armed, entry) in armed.iter_mut().zip(entries.as_chunks::<8>().0) {
            *armed |= u64::from_ne_bytes(*entry) & UFFD_WP != 0;
        }
        Ok(())
    }
}

/// The system calls, and how many were made. Async-signal-safe.
pub(super) struct Calls<'a> {
    pub descriptor: RawFd,
    pub memory: &'a Memory,
    pub page_size: PageSize,
    pub made: &'a AtomicU64,
}

impl Protect for Calls<'_> {
    fn pages(&self, range: PageRange, writable: bool) -> Result<(), ProtectError> {
        let (start, len) = self.memory.bytes_of(range, self.page_size);
        let mut args = WriteProtectArgs {
            start: start as u64,
            len: len as u64,
            mode: if writable {
                WRITEPROTECT_MODE_DONTWAKE
            } else {
                WRITEPROTECT_MODE_WP
            },
        };
        self.made.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the request's own arguments; the pages are ours. As with mprotect, no references are
        // invalidated.
        let result = unsafe { libc::ioctl(self.descriptor, IOCTL_WRITEPROTECT, &raw mut args) };
        if result == 0 {
            Ok(())
        } else {
            Err(ProtectError::Refused(Errno::last_raw()))
        }
    }

    fn mapping(&self, range: PageRange, writable: bool) -> Result<(), ProtectError> {
        self.made.fetch_add(1, Ordering::Relaxed);
        mprotect::protect(self.memory, self.page_size, range, writable)
    }

    fn first_touched(&self, range: PageRange) -> Option<PageIndex> {
        self.memory.first_touched(range, self.page_size)
    }
}

impl Drop for Userfaultfd {
    fn drop(&mut self) {
        self.close();
    }
}

fn open() -> io::Result<RawFd> {
    // SAFETY: takes flags, returns a descriptor.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_userfaultfd,
            libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY,
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(descriptor as RawFd)
}

/// The number of the file behind a descriptor: each userfaultfd has one of its own (Linux 5.12).
fn inode(descriptor: RawFd) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is writable.
    if unsafe { libc::fstat(descriptor, stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call filled it in.
    Ok(unsafe { stat.assume_init() }.st_ino)
}
