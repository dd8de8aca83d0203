//! A file that takes another one's place as a whole, or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file beside the one whose place it is to take. It goes when it is dropped before
/// [`publish`](Self::publish).
pub(super) struct Temporary {
    file: File,
    path: PathBuf,
    target: PathBuf,
    /// Where both are.
    directory: File,
    published: bool,
}

impl Temporary {
    /// A new file, `.pagecow-PROCESS-NUMBER.tmp`, in the directory of `target`.
    pub fn beside(target: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if target.file_name().is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path does not end in the name of a file",
            ));
        }
        let beside = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = File::open(beside)?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!(".pagecow-{}-{number}.tmp", std::process::id());
            let path = beside.join(name);
            match File::create_new(&path) {
                // One that was left by a process of the same number, which was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    return Ok(Self {
                        file,
                        path,
                        target: target.to_owned(),
                        directory,
                        published: false,
                    });
                }
            }
        }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Has it take its place, for good: also when the machine stops right after.
    pub fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        self.published = true;
        self.directory.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // If that fails it stays, which does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}
