//! Saving: a snapshot becomes an image.

use std::fmt;
use std::io::Write;
use std::path::Path;

use crate::arena::Arena;
use crate::image::error::{Error, Result, io};
use crate::image::format::{Encoding, Header};
use crate::image::id::Id;
use crate::image::info::Info;
use crate::image::loader::Loader;
use crate::image::plan::{Part, Plan};
use crate::image::sink::{Sink, Stored};
use crate::image::stretches::{Stretch, Stretches};
use crate::image::temporary::Temporary;
use crate::image::watch::{Cancel, Progress, Watch};
use crate::snapshot::{Since, Snapshot};

#[cfg(feature = "zstd")]
use crate::image::compress::Compression;

/// Saves snapshots, with options. [`save`](super::save) and the other functions are this without
/// any.
///
/// ```
/// use pagecow::image::{Cancel, Saver};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("image");
/// let mut arena = pagecow::Arena::new(1 << 20)?;
/// arena.fill(7);
/// let snapshot = arena.snapshot()?;
/// let cancel = Cancel::new(); // a clone of it goes to whoever may cancel
/// let info = Saver::new()
///     .cancel(&cancel)
///     .progress(|progress| println!("{} of {}", progress.pages_done, progress.pages_total))
///     .save(&snapshot, &path)?;
/// assert_eq!(info.pages, arena.page_count() as u64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
#[derive(Default)]
pub struct Saver<'a> {
    watch: Watch<'a>,
    #[cfg(feature = "zstd")]
    compression: Option<Compression>,
}

impl<'a> Saver<'a> {
    /// One that tells nothing, cannot be cancelled and compresses nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls this after each part (256 KiB of pages), and once when all is written, on the thread
    /// that saves. With a file, only then does it take its place.
    pub fn progress(mut self, tell: impl FnMut(Progress) + 'a) -> Self {
        self.watch.progress = Some(Box::new(tell));
        self
    }

    /// Asks this after each part whether to go on. A save that is cancelled returns
    /// [`ErrorKind::Cancelled`](super::ErrorKind::Cancelled), and leaves the old file and no other.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.watch.cancel = Some(cancel.clone());
        self
    }

    /// Compresses with zstd, at this level: 1 is fast, 19 is small, 3 is what zstd takes by
    /// itself. Only with the feature `zstd`.
    #[cfg(feature = "zstd")]
    pub fn compress(mut self, level: i32) -> Self {
        let threads = self
            .compression
            .map_or(std::num::NonZero::<usize>::MIN, |old| old.threads);
        self.compression = Some(Compression { level, threads });
        self
    }

    /// Compresses on this many threads besides the one that saves, or on that one itself, for 1
    /// (default) and 0. Says nothing about what is not [compressed](Self::compress).
    #[cfg(feature = "zstd")]
    pub fn threads(mut self, threads: usize) -> Self {
        let level = self.compression.map_or(3, |old| old.level);
        let threads = std::num::NonZero::new(threads).unwrap_or(std::num::NonZero::<usize>::MIN);
        self.compression = Some(Compression { level, threads });
        self
    }

    /// As [`save`](super::save).
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Cancelled`](super::ErrorKind::Cancelled).
    pub fn save(&mut self, snapshot: &Snapshot, path: impl AsRef<Path>) -> Result<Info, Error> {
        self.in_place_of(path.as_ref(), |saver, to| saver.write_to(snapshot, to))
    }

    /// As [`save_delta`](super::save_delta).
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Cancelled`](super::ErrorKind::Cancelled).
    pub fn save_delta<'s>(
        &mut self,
        snapshot: &Snapshot,
        since: impl Into<Since<'s>>,
        path: impl AsRef<Path>,
    ) -> Result<Info, Error> {
        self.in_place_of(path.as_ref(), |saver, to| {
            saver.write_delta_to(snapshot, since, to)
        })
    }

    /// As [`write_to`](super::write_to).
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Cancelled`](super::ErrorKind::Cancelled).
    pub fn write_to(&mut self, snapshot: &Snapshot, to: impl Write) -> Result<Info, Error> {
        let id = Id::of(snapshot)?;
        self.write(Plan::full(snapshot), id, None, to)
    }

    /// As [`write_delta_to`](super::write_delta_to).
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Cancelled`](super::ErrorKind::Cancelled).
    pub fn write_delta_to<'s>(
        &mut self,
        snapshot: &Snapshot,
        since: impl Into<Since<'s>>,
        to: impl Write,
    ) -> Result<Info, Error> {
        let id = Id::of(snapshot)?;
        let (plan, parent) = Plan::delta(snapshot, since.into())?;
        self.write(plan, id, Some(parent), to)
    }

    /// As [`compact`](super::compact). Progress is told of the saving alone.
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Cancelled`](super::ErrorKind::Cancelled).
    pub fn compact<P: AsRef<Path>>(
        &mut self,
        chain: impl IntoIterator<Item = P>,
        path: impl AsRef<Path>,
    ) -> Result<Info, Error> {
        let loader = Loader::new().arena(Arena::builder().keeper(false));
        let (arena, last) = loader.load_chain(chain)?;
        let snapshot = arena.snapshot()?;
        self.in_place_of(path.as_ref(), |saver, to| {
            saver.write(Plan::full(&snapshot), last.id, None, to)
        })
    }

    /// Has what `write` writes take the place of the file, if it is all well.
    fn in_place_of(
        &mut self,
        path: &Path,
        write: impl FnOnce(&mut Self, &std::fs::File) -> Result<Info>,
    ) -> Result<Info> {
        let save = || {
            let temporary = Temporary::beside(path).map_err(io("make a file beside it"))?;
            let info = write(self, temporary.file())?;
            temporary
                .publish()
                .map_err(io("put the new file in its place"))?;
            Ok(info)
        };
        save().map_err(|error: Error| error.in_file(path))
    }

    fn write(
        &mut self,
        mut plan: Plan<'_>,
        id: Id,
        parent: Option<Id>,
        to: impl Write,
    ) -> Result<Info> {
        self.watch.check()?;
        let snapshot = plan.snapshot();
        let header = Header {
            page_size: snapshot.page_size(),
            requested_len: snapshot.requested_len() as u64,
            id,
            parent,
        };
        let mut sink = Sink::new(to, header)?;
        // In a full image what is left out is zeros, in a delta it is as before.
        self.put(&mut plan, parent.is_some(), &mut sink)?;
        plan.check()?;
        let info = sink.end()?;
        self.watch.tell(plan.end(info.bytes))?;
        Ok(info)
    }

    fn put<W: Write>(
        &mut self,
        plan: &mut Plan<'_>,
        keep_zeros: bool,
        sink: &mut Sink<W>,
    ) -> Result<()> {
        #[cfg(feature = "zstd")]
        if let Some(compression) = self.compression {
            return compression.put(plan, keep_zeros, sink, &mut self.watch);
        }
        let page_size = plan.snapshot().page_size();
        let mut buffer = Vec::new();
        while let Some(part) = plan.next_part() {
            let bytes = plan.read(&part, &mut buffer)?;
            sink.put(&as_they_are(&part, &bytes, page_size, keep_zeros))?;
            self.watch.tell(plan.progress(part.done, sink.written()))?;
        }
        Ok(())
    }
}

/// The runs of a part.
fn as_they_are<'b>(
    part: &Part,
    bytes: &[&'b [u8]],
    page_size: usize,
    keep_zeros: bool,
) -> Vec<Stored<&'b [u8]>> {
    let ranges = part.ranges.iter().zip(bytes);
    let stretches = ranges.flat_map(|(pages, bytes)| Stretches::of(pages.start, bytes, page_size));
    let kept = stretches.filter(|stretch| keep_zeros || !stretch.zeros);
    let stored = |Stretch {
                      first,
                      bytes,
                      zeros,
                  }| {
        let pages = bytes.len() / page_size;
        if zeros {
            Stored::new(Encoding::Zeros, first, pages, &[][..])
        } else {
            Stored::new(Encoding::Plain, first, pages, bytes)
        }
    };
    kept.map(stored).collect()
}

impl fmt::Debug for Saver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Saver");
        shown.field("watch", &self.watch);
        #[cfg(feature = "zstd")]
        shown.field("compression", &self.compression);
        shown.finish()
    }
}
