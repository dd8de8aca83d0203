//! Lines for `PAGECOW_LOG`, put together without allocating.

use std::ffi::{CStr, c_int};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::inside::Inside;

static FILE: AtomicI32 = AtomicI32::new(-1);
/// Device and inode: a program may close descriptors that it does not know, and the kernel gives
/// their numbers out again.
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);

/// A line that is cut where it gets too long.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.len;
        let taken = text.len().min(room);
        self.bytes[self.len..self.len + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

/// Lines go to this file from now on, at its end.
pub fn open(path: &CStr) {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: a string that ends in zero.
    let file: c_int = unsafe { libc::open(path.as_ptr(), flags, 0o644) };
    if let Some((device, inode)) = identity(file) {
        DEVICE.store(device, Ordering::Relaxed);
        INODE.store(inode, Ordering::Relaxed);
        FILE.store(file, Ordering::Relaxed);
    }
}

fn identity(file: c_int) -> Option<(u64, u64)> {
    let _inside = Inside::enter();
    let mut found = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fills in the structure, or fails.
    if unsafe { libc::fstat(file, found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: filled in.
    let found = unsafe { found.assume_init() };
    Some((found.st_dev, found.st_ino))
}

pub fn line(text: fmt::Arguments<'_>) {
    let file = FILE.load(Ordering::Relaxed);
    let known = (
        DEVICE.load(Ordering::Relaxed),
        INODE.load(Ordering::Relaxed),
    );
    if file < 0 || identity(file) != Some(known) {
        return;
    }
    let mut line = Line {
        bytes: [0; 256],
        len: 0,
    };
    // SAFETY: a plain system call.
    let process = unsafe { libc::getpid() };
    let _ = write!(line, "pagecow {process}: {text}");
    line.bytes[line.len] = b'\n';
    // SAFETY: bytes of a live array. A line that cannot be written is lost.
    unsafe { libc::write(file, line.bytes.as_ptr().cast(), line.len + 1) };
}

/// Writes a line to the log, if there is one.
macro_rules! log {
    ($($text:tt)*) => { $crate::log::line(format_args!($($text)*)) };
}
pub(crate) use log;
