//! A directory with a chain of images: a base, and the deltas since.
//!
//! The files are called `CHAIN-IMAGE.image`; image 0 is the base. Of several chains the one with
//! the highest number counts that has a base. A base appears as a whole, and so do deltas. So
//! whenever a process is killed, there is one chain that loads: the old one until a new base is
//! whole, and then the new one.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use pagecow::image::{self, Info, Saver};
use pagecow::{Arena, ArenaBuilder, Mark, Snapshot};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A directory that is this process's to save in, until this is dropped.
pub struct Directory {
    path: PathBuf,
    locked: File,
}

/// The chain that is being saved.
pub struct Chain {
    path: PathBuf,
    number: u32,
    images: u32,
}

impl Directory {
    /// Makes the directory if there is none. The lock goes with the process, however it ends.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let cannot = |error| format!("cannot save in {}: {error}", path.display());
        fs::create_dir_all(path).map_err(cannot)?;
        let locked = File::create(path.join("lock")).map_err(cannot)?;
        match locked.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let shown = path.display();
                return Err(format!("another process saves in {shown}; end it first").into());
            }
            Err(TryLockError::Error(error)) => return Err(cannot(error).into()),
        }
        let directory = Self {
            path: path.to_owned(),
            locked,
        };
        directory.remove(|name| name.starts_with(".pagecow-") && name.ends_with(".tmp"))?;
        Ok(directory)
    }

    /// Saves the base of a new chain. Only once it is whole, the old chain goes.
    pub fn begin(&self, base: &Snapshot, mut saver: Saver<'_>) -> Result<(Chain, Info), Failure> {
        let newest = images(&self.path)?.iter().map(|&(chain, _)| chain).max();
        let number = newest.map_or(0, |newest| newest + 1);
        let mut chain = Chain {
            path: self.path.clone(),
            number,
            images: 0,
        };
        let info = saver.save(base, chain.next())?;
        chain.images = 1;
        self.remove(|name| matches!(parse(name), Some((chain, _)) if chain != number))?;
        Ok((chain, info))
    }

    fn remove(&self, unwanted: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(&unwanted) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A child that is just being started may have the descriptor, too.
        let _ = self.locked.unlock();
    }
}

impl Chain {
    /// Saves what changed since the last image. `since` is a mark at that image's snapshot.
    pub fn add(
        &mut self,
        snapshot: &Snapshot,
        since: &Mark,
        mut saver: Saver<'_>,
    ) -> Result<Info, Failure> {
        let info = saver.save_delta(snapshot, since, self.next())?;
        self.images += 1;
        Ok(info)
    }

    /// How many images it has.
    pub fn images(&self) -> u32 {
        self.images
    }

    fn next(&self) -> PathBuf {
        self.path.join(name(self.number, self.images))
    }
}

/// Makes an arena of the newest chain in a directory, and says how many images that has.
/// `Ok(None)`: there is none.
pub fn load(directory: &Path, arena: &ArenaBuilder) -> Result<Option<(Arena, u32)>, Failure> {
    loop {
        let chain = files(directory)?;
        if chain.is_empty() {
            return Ok(None);
        }
        let loader = image::Loader::new().arena(arena.clone());
        match loader.load_chain(&chain) {
            Ok((arena, _)) => return Ok(Some((arena, chain.len() as u32))),
            // Another process has begun a new chain, and removed this one.
            Err(_) if files(directory)?.first() != chain.first() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The files of the newest chain, in order. All that are there: one that is missing is found by the
/// ids when the chain is loaded.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let images = images(directory)?;
    let bases = images.iter().filter(|&&(_, image)| image == 0);
    let newest = bases.map(|&(chain, _)| chain).max();
    let newest = images.iter().filter(|&&(chain, _)| Some(chain) == newest);
    Ok(newest
        .map(|&(chain, image)| directory.join(name(chain, image)))
        .collect())
}

/// The images in a directory, as chain and number, in order.
fn images(directory: &Path) -> io::Result<Vec<(u32, u32)>> {
    let mut images = Vec::new();
    for entry in fs::read_dir(directory)? {
        images.extend(entry?.file_name().to_str().and_then(parse));
    }
    images.sort_unstable();
    Ok(images)
}

fn name(chain: u32, image: u32) -> String {
    format!("{chain:05}-{image:05}.image")
}

fn parse(name: &str) -> Option<(u32, u32)> {
    let (chain, image) = name.strip_suffix(".image")?.split_once('-')?;
    Some((chain.parse().ok()?, image.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records;

    fn loaded(directory: &Path) -> Result<u64, Failure> {
        let (arena, _) = load(directory, &Arena::builder())?.ok_or("there is no chain")?;
        Ok(records::check(&arena, arena.page_size())?)
    }

    /// Saves a chain of `images`, with a write before each.
    fn save(directory: &Path, arena: &mut Arena, images: u32) {
        let page = arena.page_size();
        let directory = Directory::open(directory).unwrap();
        records::write(arena, page);
        let base = arena.snapshot().unwrap();
        let mut mark = base.mark().unwrap();
        let (mut chain, _) = directory.begin(&base, Saver::new()).unwrap();
        for _ in 1..images {
            records::write(arena, page);
            let next = arena.snapshot().unwrap();
            let next_mark = next.mark().unwrap();
            chain.add(&next, &mark, Saver::new()).unwrap();
            mark = next_mark;
        }
        assert_eq!(chain.images(), images);
    }

    fn small() -> (tempfile::TempDir, Arena) {
        (tempfile::tempdir().unwrap(), Arena::new(64 << 12).unwrap())
    }

    #[test]
    fn a_chain_that_lost_an_image_is_refused() {
        let (directory, mut arena) = small();
        save(directory.path(), &mut arena, 5);
        assert_eq!(loaded(directory.path()).unwrap(), 5);
        let files = files(directory.path()).unwrap();
        fs::remove_file(&files[2]).unwrap();
        assert!(loaded(directory.path()).is_err());
        // Without the later ones it is the chain of an earlier moment.
        for file in &files[3..] {
            fs::remove_file(file).unwrap();
        }
        assert_eq!(loaded(directory.path()).unwrap(), 2);
    }

    #[test]
    fn the_old_chain_is_there_until_the_new_base_is_whole() {
        let (directory, mut arena) = small();
        let path = directory.path();
        save(path, &mut arena, 3);
        records::write(&mut arena, 4096);
        let base = arena.snapshot().unwrap();
        let locked = Directory::open(path).unwrap();
        let mut told = 0;
        let saver = Saver::new().progress(|_| {
            assert_eq!(loaded(path).unwrap(), 3);
            told += 1;
        });
        locked.begin(&base, saver).unwrap();
        assert!(told > 0);
        assert_eq!(loaded(path).unwrap(), 4);
        assert_eq!(images(path).unwrap(), [(1, 0)]);
    }

    #[test]
    fn what_a_killed_process_left_is_no_image_and_goes() {
        let (directory, mut arena) = small();
        save(directory.path(), &mut arena, 2);
        let left = directory.path().join(".pagecow-1-1.tmp");
        fs::write(&left, "the beginning of a base").unwrap();
        assert_eq!(loaded(directory.path()).unwrap(), 2);
        drop(Directory::open(directory.path()).unwrap());
        assert!(!left.exists());
        assert_eq!(loaded(directory.path()).unwrap(), 2);
    }

    #[test]
    fn two_processes_do_not_save_in_one_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = Directory::open(directory.path()).unwrap();
        assert!(Directory::open(directory.path()).is_err());
        drop(first);
        Directory::open(directory.path()).unwrap();
    }
}
