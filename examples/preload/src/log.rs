//! Lines for `PAGECOW_LOG`, put together without allocating.

use std::ffi::{CStr, OsStr};
use std::fmt::{self, Write};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::OnceLock;

/// With its identity: a program may close descriptors that it does not know, and the kernel gives
/// their numbers out again.
static FILE: OnceLock<(File, (u64, u64))> = OnceLock::new();

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
    let path = OsStr::from_bytes(path.to_bytes());
    let opened = File::options()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(path);
    if let Ok(file) = opened
        && let Some(identity) = identity(&file)
    {
        let _ = FILE.set((file, identity));
    }
}

/// Device and inode.
fn identity(file: &File) -> Option<(u64, u64)> {
    let metadata = file.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

pub fn line(text: fmt::Arguments<'_>) {
    let Some((file, known)) = FILE.get() else {
        return;
    };
    if identity(file) != Some(*known) {
        return;
    }
    let mut line = Line {
        bytes: [0; 256],
        len: 0,
    };
    let _ = write!(line, "pagecow {}: {text}", std::process::id());
    line.bytes[line.len] = b'\n';
    // A line that cannot be written is lost.
    let _ = (&*file).write(&line.bytes[..=line.len]);
}

/// Writes a line to the log, if there is one.
macro_rules! log {
    ($($text:tt)*) => { $crate::log::line(format_args!($($text)*)) };
}
pub(crate) use log;
