//! Loading: images become an arena.

use std::io::Read;
use std::path::Path;

use crate::arena::{Arena, ArenaBuilder};
use crate::image::decoder::Decoder;
use crate::image::error::{Error, ErrorKind, Result};
use crate::image::format::Header;
use crate::image::id::Id;
use crate::image::info::Info;
use crate::image::source::{Next, Source};
use crate::image::target;

/// Loads images, with options. [`load`](super::load) and the other functions are this without any.
///
/// ```
/// use pagecow::{Arena, Engine, image};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("image");
/// image::save(&Arena::new(10_000)?.snapshot()?, &path)?;
/// let builder = Arena::builder().engine(Engine::Remap);
/// let (arena, info) = image::Loader::new().arena(builder).load(&path)?;
/// assert_eq!(arena.requested_len(), 10_000);
/// assert_eq!(info.pages, 0); // all zeros
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Loader {
    builder: ArenaBuilder,
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}

impl Loader {
    /// One that makes arenas as [`Arena::new`] does.
    pub fn new() -> Self {
        Self {
            builder: Arena::builder(),
        }
    }

    /// Makes arenas with these options.
    pub fn arena(mut self, builder: ArenaBuilder) -> Self {
        self.builder = builder;
        self
    }

    /// As [`load`](super::load).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<(Arena, Info), Error> {
        self.load_chain([path])
    }

    /// As [`load_chain`](super::load_chain).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn load_chain<P: AsRef<Path>>(
        &self,
        paths: impl IntoIterator<Item = P>,
    ) -> Result<(Arena, Info), Error> {
        let paths: Vec<P> = paths.into_iter().collect();
        let (base, deltas) = paths.split_first().ok_or(ErrorKind::NoImages)?;
        if !deltas.is_empty() {
            check_chain(&paths)?;
        }
        let (mut arena, mut last) = in_file(base, |path| self.fill(Source::open(path)?))?;
        for delta in deltas {
            last = in_file(delta, |path| {
                let mut source = Source::open(path)?;
                expect(source.header(), &last.id, last.requested_len)?;
                // Straight into the arena, which nobody has before all is well.
                put_all(&mut arena, &mut source)
            })?;
        }
        Ok((arena, last))
    }

    /// As [`read_from`](super::read_from).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_from(&self, from: impl Read) -> Result<(Arena, Info), Error> {
        self.fill(Source::stream(from)?)
    }

    fn fill<R: Read>(&self, mut source: Source<R>) -> Result<(Arena, Info)> {
        let header = source.header();
        if let Some(parent) = header.parent {
            return Err(ErrorKind::IsDelta { parent }.into());
        }
        let len = usize::try_from(header.requested_len).unwrap_or(usize::MAX);
        let mut arena = self.builder.clone().build(len)?;
        let info = put_all(&mut arena, &mut source)?;
        Ok((arena, info))
    }
}

/// Each image applies to the one before, as far as their beginnings and ends say.
fn check_chain<P: AsRef<Path>>(paths: &[P]) -> Result<()> {
    let mut before: Option<Info> = None;
    for path in paths {
        let info = in_file(path, |path| {
            let source = Source::open(path)?;
            let header = source.header();
            match (&before, header.parent) {
                (Some(before), _) => expect(header, &before.id, before.requested_len)?,
                (None, Some(parent)) => return Err(ErrorKind::IsDelta { parent }.into()),
                (None, None) => {}
            }
            source.info()
        })?;
        before = Some(info);
    }
    Ok(())
}

/// An image with this header applies to what is there: an arena of `len` bytes that were asked for.
pub(super) fn expect(header: &Header, there: &Id, len: u64) -> Result<()> {
    if header.parent != Some(*there) {
        return Err(ErrorKind::WrongParent {
            parent: header.parent,
            there: *there,
        }
        .into());
    }
    if header.requested_len != len {
        return Err(ErrorKind::WrongLength {
            image: header.requested_len,
            there: len,
        }
        .into());
    }
    Ok(())
}

/// Puts all runs into an arena of the image's length. It is of no use after an error.
fn put_all<R: Read>(arena: &mut Arena, source: &mut Source<R>) -> Result<Info> {
    let header = *source.header();
    let mut stored = Vec::new();
    let mut decoder = Decoder::default();
    loop {
        match source.next(&mut stored)? {
            Next::End(info) => return Ok(info),
            Next::Run { run, at } => {
                let bytes = decoder.bytes(&header, &run, at, &stored)?;
                let place = target::place_of(&header, &run, bytes, arena.len())?;
                target::put(arena, place, bytes);
            }
        }
    }
}

pub(super) fn in_file<T>(
    path: impl AsRef<Path>,
    act: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    let path = path.as_ref();
    act(path).map_err(|error| error.in_file(path))
}
