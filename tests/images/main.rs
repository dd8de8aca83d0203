//! Images: what is saved is what is loaded, whatever comes in between.

#[path = "../common/mod.rs"]
mod common;

mod allocations;
mod chains;
#[cfg(feature = "zstd")]
mod compressed;
mod damage;
mod forks;
mod format;
mod round_trips;
mod saving;
mod stopped;
mod streams;

use std::path::{Path, PathBuf};

use pagecow::image::{Error, ErrorKind, Info};
use pagecow::{Arena, Snapshot, image};

/// A directory of its own for a test, gone with it.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The names of all that is there, sorted.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// An image of the snapshot, in memory.
fn image_of(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::write_to(snapshot, &mut bytes).unwrap();
    bytes
}

fn delta_of(snapshot: &Snapshot, since: &Snapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::write_delta_to(snapshot, since, &mut bytes).unwrap();
    bytes
}

fn file_of(directory: &Directory, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.path(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The error, without printing the megabytes of an arena.
#[track_caller]
fn refused<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error,
    }
}

/// Where the image is said to be damaged.
#[track_caller]
fn damaged_at(error: &Error) -> u64 {
    match error.kind() {
        ErrorKind::Damaged { at, .. } => *at,
        _ => panic!("{error}"),
    }
}

/// How many pages are not all zeros.
fn pages_with_bytes(bytes: &[u8]) -> u64 {
    let pages = bytes.chunks(common::page_size());
    pages
        .filter(|page| page.iter().any(|byte| *byte != 0))
        .count() as u64
}

/// The arena holds exactly these bytes.
#[track_caller]
fn expect_holds(arena: &Arena, wanted: &[u8]) {
    let differs = arena
        .iter()
        .zip(wanted)
        .position(|(one, other)| one != other);
    assert_eq!((arena.len(), differs), (wanted.len(), None));
}

/// Saved in a file, and loaded from it on the same engine.
#[track_caller]
fn expect_round_trip(snapshot: &Snapshot, builder: pagecow::ArenaBuilder, wanted: &[u8]) -> Info {
    let directory = Directory::new();
    let path = directory.path("image");
    let saved = image::save(snapshot, &path).unwrap();
    assert_eq!(directory.names(), ["image"]);
    assert_eq!(saved.bytes, std::fs::metadata(&path).unwrap().len());
    assert_eq!(image::verify(&path).unwrap(), saved);
    assert_eq!(image::info(&path).unwrap(), saved);
    let (arena, loaded) = image::Loader::new().arena(builder).load(&path).unwrap();
    assert_eq!(loaded, saved);
    assert_eq!(arena.requested_len(), snapshot.requested_len());
    expect_holds(&arena, wanted);
    saved
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
