//! Lines for `PAGECOW_LOG`, put together without allocating.

use std::ffi::{CStr, c_int};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicI32, Ordering};

static FILE: AtomicI32 = AtomicI32::new(-1);

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
    FILE.store(file, Ordering::Relaxed);
}

pub fn line(text: fmt::Arguments<'_>) {
    let file = FILE.load(Ordering::Relaxed);
    if file < 0 {
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
