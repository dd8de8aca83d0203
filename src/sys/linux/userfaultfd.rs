//! Protection by userfaultfd(2) in write-protect mode, delivered as SIGBUS to the thread that
//! stores.
//!
//! The protection is a bit in each page-table entry, so no mapping is split. Pages that have no
//! entry yet have no bit; the kernel can put markers there, which costs page tables
//! ([`crate::protect`] avoids most of it). The flag `UFFD_USER_MODE_ONLY` makes it work without
//! privileges: a system call that writes into an armed page fails with EFAULT, as with mprotect.
//!
//! One descriptor serves all arenas: closing one makes the kernel walk all mappings of the process,
//! and descriptors are few. It is opened by the first arena that needs it and stays open. Whoever
//! closes it by mistake ends the protection of the arenas that were made with it; the next arena
//! opens another.
//!
//! After a fork the child's pages have no bits, and its copy of the descriptor acts on the parent's
//! memory.

#![allow(unsafe_code, reason = "userfaultfd has no safe interface")]

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::memory::Memory;
use crate::page::{PageCount, PageRange, PageSize};
use crate::sys::{Permission, ProtectError};

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
/// No thread sleeps for a page: one that stores gets SIGBUS.
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

/// The descriptor that serves all arenas, as a [`Descriptor`].
static SHARED: AtomicU64 = AtomicU64::new(Descriptor::NONE.0);

/// A descriptor's number, or -1, in its lower half; in the upper one the number of the file that it
/// stands for (its inode, of which each userfaultfd has one of its own since Linux 5.12): somebody
/// may close the descriptor, and the kernel gives its number out again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor(u64);

impl Descriptor {
    const NONE: Self = Self::new(0, -1);

    const fn new(file: u32, number: RawFd) -> Self {
        Self((file as u64) << 32 | number as u32 as u64)
    }

    fn number(self) -> RawFd {
        self.0 as u32 as RawFd
    }

    fn current() -> Self {
        Self(SHARED.load(Ordering::Relaxed))
    }

    /// The one that serves all arenas, opened if there is none or somebody has closed it.
    pub fn shared() -> io::Result<Self> {
        loop {
            let seen = Self::current();
            if seen.is_open() {
                return Ok(seen);
            }
            let number = open()?;
            let new = Self::new(file(number).inspect_err(|_| close(number))?, number);
            let exchanged =
                SHARED.compare_exchange(seen.0, new.0, Ordering::Relaxed, Ordering::Relaxed);
            if exchanged.is_ok() {
                return Ok(new);
            }
            close(number);
        }
    }

    /// Has pages of the memory protected, none of them at first.
    pub fn register(&self, memory: &Memory) -> io::Result<()> {
        register(self.number(), memory)
    }

    /// `Err` when somebody closed it, which ended all protection. Async-signal-safe.
    pub fn check(&self) -> io::Result<()> {
        if self.in_use() >= 0 && self.is_open() {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EBADF))
        }
    }

    /// Gives pages this permission one by one, pages that were never touched included.
    /// Async-signal-safe.
    pub fn protect(
        &self,
        memory: &Memory,
        range: PageRange,
        page_size: PageSize,
        permission: Permission,
    ) -> Result<(), ProtectError> {
        write_protect(self.in_use(), memory, range, page_size, permission)
    }

    /// Its number, or -1 when another one serves the process by now.
    fn in_use(&self) -> RawFd {
        if *self == Self::current() {
            self.number()
        } else {
            -1
        }
    }

    /// Whether it still stands for the same file. Async-signal-safe.
    fn is_open(self) -> bool {
        // An error other than that there is no such descriptor tells nothing of it.
        for _ in 0..3 {
            match file(self.number()) {
                Ok(file) => return Self::new(file, self.number()) == self,
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => break,
                Err(_) => {}
            }
        }
        false
    }
}

/// Whether it works here: tries it on a page, with a descriptor for that alone.
pub(crate) fn probe() -> io::Result<()> {
    let page_size = PageSize::host();
    let memory = Memory::new(PageCount::new(1), page_size)?;
    let descriptor = open()?;
    let protect = |permission| {
        let page = PageRange::from(0..1);
        Ok(write_protect(
            descriptor, &memory, page, page_size, permission,
        )?)
    };
    let worked = register(descriptor, &memory)
        .and_then(|()| protect(Permission::ReadOnly))
        .and_then(|()| protect(Permission::Writable));
    close(descriptor);
    worked
}

/// In the child of a fork, whose copy of the descriptor acts on the parent's memory: closes it.
pub(crate) fn forget_descriptor() {
    let inherited = Descriptor::current();
    SHARED.store(Descriptor::NONE.0, Ordering::Relaxed);
    if inherited.is_open() {
        close(inherited.number());
    }
}

impl Memory {
    /// For checks: which pages are write-protected one by one, one value a page.
    pub fn write_protected_pages(&self, page_size: PageSize) -> Result<Vec<bool>, String> {
        use std::os::unix::fs::FileExt;
        const UFFD_WP: u64 = 1 << 57;
        let map = std::fs::File::open("/proc/self/pagemap").map_err(|error| error.to_string())?;
        let first = self.as_ptr() as usize / page_size.bytes();
        let pages = self.len() / page_size.bytes();
        let mut entries = vec![0; pages * size_of::<u64>()];
        map.read_exact_at(&mut entries, (first * size_of::<u64>()) as u64)
            .map_err(|error| error.to_string())?;
        let entries = entries.as_chunks::<8>().0.iter();
        let is_protected = |entry: &[u8; 8]| u64::from_ne_bytes(*entry) & UFFD_WP != 0;
        Ok(entries.map(is_protected).collect())
    }
}

/// Async-signal-safe.
fn write_protect(
    descriptor: RawFd,
    memory: &Memory,
    range: PageRange,
    page_size: PageSize,
    permission: Permission,
) -> Result<(), ProtectError> {
    let (start, len) = memory.bytes_of(range, page_size);
    let mut args = WriteProtectArgs {
        start: start as u64,
        len: len as u64,
        mode: match permission {
            Permission::ReadOnly => WRITEPROTECT_MODE_WP,
            Permission::Writable => WRITEPROTECT_MODE_DONTWAKE,
        },
    };
    // SAFETY: the request's own arguments; the pages are ours. As with mprotect, no references are
    // invalidated.
    if unsafe { libc::ioctl(descriptor, IOCTL_WRITEPROTECT, &raw mut args) } == 0 {
        Ok(())
    } else {
        Err(ProtectError::Refused(Errno::last_raw()))
    }
}

fn register(descriptor: RawFd, memory: &Memory) -> io::Result<()> {
    let mut args = RegisterArgs {
        start: memory.as_ptr() as u64,
        len: memory.len() as u64,
        mode: REGISTER_MODE_WP,
        ioctls: 0,
    };
    ioctl(descriptor, IOCTL_REGISTER, &mut args)
}

/// A descriptor that is ready for use.
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
    let descriptor = descriptor as RawFd;
    let mut api = ApiArgs {
        api: API,
        features: FEATURES,
        ioctls: 0,
    };
    ioctl(descriptor, IOCTL_API, &mut api)
        .map(|()| descriptor)
        .inspect_err(|_| close(descriptor))
}

fn ioctl<T>(descriptor: RawFd, request: libc::Ioctl, args: &mut T) -> io::Result<()> {
    // SAFETY: `request` was made for arguments of type `T`, which the kernel reads and fills in.
    let result = unsafe { libc::ioctl(descriptor, request, std::ptr::from_mut(args)) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The number of the file that a descriptor stands for. As many bits of it as the kernel uses for
/// such files.
fn file(descriptor: RawFd) -> io::Result<u32> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is writable.
    if unsafe { libc::fstat(descriptor, stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call filled it in.
    Ok(unsafe { stat.assume_init() }.st_ino as u32)
}

fn close(descriptor: RawFd) {
    // SAFETY: our own descriptor, not used any more.
    unsafe { libc::close(descriptor) };
}
