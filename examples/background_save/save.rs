//! Saving to a file so that it is either the old one or wholly the new one: temporary file, fsync,
//! rename.

use std::env;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Seek};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pagecow::image;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};

use crate::failure::Failure;
use crate::stop::Stop;

/// A multiple of every page size.
pub const CHUNK: usize = 256 << 10;

/// A SHA-256 sum.
pub type Sum = [u8; 32];

/// Where saves go.
#[derive(Debug)]
pub struct Target {
    /// `None`: to a temporary file that is removed.
    path: Option<PathBuf>,
    dir: PathBuf,
    /// The permissions of the file that is replaced.
    permissions: Option<Permissions>,
}

impl Target {
    /// Checks whether a file can be saved there, before any work is done.
    pub fn new(out: Option<&Path>) -> Result<Target, Failure> {
        let Some(out) = out else {
            let dir = env::temp_dir();
            let target = Target {
                path: None,
                dir,
                permissions: None,
            };
            return target.tried();
        };
        let bad = |why: &dyn std::fmt::Display| {
            Failure::usage(format_args!("--out {}", out.display()), why)
        };
        let (path, permissions) = match fs::metadata(out) {
            Ok(metadata) if !metadata.is_file() => return Err(bad(&"not a regular file")),
            Ok(metadata) => {
                // A rename would replace even a file that we may not write to, and would replace a
                // link instead of its target.
                OpenOptions::new()
                    .write(true)
                    .open(out)
                    .map_err(|error| bad(&error))?;
                let path = out.canonicalize().map_err(|error| bad(&error))?;
                (path, Some(metadata.permissions()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if out.is_symlink() {
                    return Err(bad(&"a link to a file that does not exist"));
                }
                (out.to_owned(), None)
            }
            Err(error) => return Err(bad(&error)),
        };
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        Target {
            path: Some(path),
            dir,
            permissions,
        }
        .tried()
    }

    /// The same place, but what is saved there is removed.
    pub fn beside(out: Option<&Path>) -> Result<Target, Failure> {
        Ok(Target {
            path: None,
            ..Target::new(out)?
        })
    }

    fn tried(self) -> Result<Target, Failure> {
        match tempfile::tempfile_in(&self.dir) {
            Ok(_) => Ok(self),
            Err(error) => Err(Failure::usage(
                format_args!("cannot write to {}", self.dir.display()),
                error,
            )),
        }
    }

    /// Starts a save. Until [`Save::commit`] the target stays as it is.
    pub fn begin(&self) -> Result<Save<'_>, Failure> {
        let temporary = || -> io::Result<NamedTempFile> {
            let file = tempfile::Builder::new()
                .prefix(".background_save-")
                .permissions(Permissions::from_mode(0o666))
                .tempfile_in(&self.dir)?;
            if let Some(permissions) = &self.permissions {
                file.as_file().set_permissions(permissions.clone())?;
            }
            Ok(file)
        };
        let (file, path) = temporary()
            .map_err(|error| self.failed(error))?
            .into_parts();
        Ok(Save {
            target: self,
            file,
            path,
            image_of: None,
        })
    }

    fn failed(&self, error: io::Error) -> Failure {
        let place = self.path.as_ref().unwrap_or(&self.dir);
        Failure::failed(format_args!("cannot save to {}", place.display()), error)
    }
}

/// A save that has not replaced the target yet. Dropping it removes what was written.
#[derive(Debug)]
pub struct Save<'a> {
    target: &'a Target,
    file: File,
    path: TempPath,
    /// Of how many bytes the file is an image, if it is one.
    image_of: Option<usize>,
}

impl Save<'_> {
    /// Saves `len` bytes to the disk and returns how long that took. `put` writes a range of them
    /// at the file's position, one range after the other.
    pub fn write(
        &mut self,
        len: u64,
        mut put: impl FnMut(Range<u64>, &File) -> io::Result<()>,
        stop: &Stop,
    ) -> Result<Duration, Failure> {
        let started = Instant::now();
        let mut at = 0;
        while at < len {
            stop.check()?;
            let end = len.min(at + CHUNK as u64);
            put(at..end, &self.file).map_err(|error| self.target.failed(error))?;
            at = end;
        }
        self.file
            .sync_all()
            .map_err(|error| self.target.failed(error))?;
        Ok(started.elapsed())
    }

    /// Saves an image of memory to the disk, whose first `len` bytes count, and returns how long
    /// that took. `put` writes all of it.
    pub fn write_image(
        &mut self,
        len: u64,
        put: impl FnOnce(&File) -> Result<image::Info, image::Error>,
        stop: &Stop,
    ) -> Result<Duration, Failure> {
        let started = Instant::now();
        self.image_of = Some(len as usize);
        let put = put(&self.file);
        // A save that was cancelled failed because of a signal.
        stop.check()?;
        put.map_err(io::Error::other)
            .and_then(|_| self.file.sync_all())
            .map_err(|error| self.target.failed(error))?;
        Ok(started.elapsed())
    }

    /// What has been written so far.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The sum of the bytes that were saved: an image is loaded for it.
    pub fn sum(&mut self, stop: &Stop) -> Result<Sum, Failure> {
        let Some(len) = self.image_of else {
            return sum_of_file(&mut self.file, stop);
        };
        self.file.rewind()?;
        let file = BufReader::with_capacity(CHUNK, &self.file);
        let (arena, _) = image::read_from(file)
            .map_err(|error| Failure::failed("cannot load what was saved", error))?;
        sum_of_bytes(&arena[..len], stop)
    }

    /// Puts the new file in the place of the old one.
    pub fn commit(self) -> Result<(), Failure> {
        let Some(path) = &self.target.path else {
            return Ok(());
        };
        let renamed = self.path.persist(path).map_err(|error| error.error);
        renamed
            .and_then(|()| File::open(&self.target.dir)?.sync_all())
            .map_err(|error| self.target.failed(error))
    }
}

/// The SHA-256 of a whole file.
pub fn sum_of_file(file: &mut File, stop: &Stop) -> Result<Sum, Failure> {
    file.rewind()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        stop.check()?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The SHA-256 of some bytes.
pub fn sum_of_bytes(bytes: &[u8], stop: &Stop) -> Result<Sum, Failure> {
    let mut hasher = Sha256::new();
    for chunk in bytes.chunks(CHUNK) {
        stop.check()?;
        hasher.update(chunk);
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use pagecow::Arena;

    use super::*;

    #[test]
    fn an_image_has_the_sum_of_what_it_holds() {
        let stop = Stop::listen(false).unwrap();
        let mut arena = Arena::new(1 << 20).unwrap();
        for (at, byte) in arena.iter_mut().enumerate().skip(70_000) {
            *byte = (at / 1000) as u8;
        }
        let snapshot = arena.snapshot().unwrap();
        let len = 1_000_001;
        let expected = sum_of_bytes(&arena[..len], &stop).unwrap();
        arena[500_000] ^= 1;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let target = Target::new(Some(&path)).unwrap();
        let mut save = target.begin().unwrap();
        let put = |file: &File| image::write_to(&snapshot, file);
        save.write_image(len as u64, put, &stop).unwrap();
        assert!(save.sum(&stop).unwrap() == expected);
        save.commit().unwrap();
        let (loaded, _) = image::load(&path).unwrap();
        assert!(sum_of_bytes(&loaded[..len], &stop).unwrap() == expected);

        // One of another moment has another sum, and one that is cut has none.
        let mut save = target.begin().unwrap();
        let now = arena.snapshot().unwrap();
        let put = |file: &File| image::write_to(&now, file);
        save.write_image(len as u64, put, &stop).unwrap();
        assert!(save.sum(&stop).unwrap() != expected);
        let cut = save.file().metadata().unwrap().len() - 1;
        save.file().set_len(cut).unwrap();
        assert!(save.sum(&stop).is_err());
    }
}
