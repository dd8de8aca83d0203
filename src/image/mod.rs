//! Images: snapshots as files and streams that can be checked and loaded again, and deltas between
//! them.
//!
//! [`docs/images.md`](crate::docs::images) is the guide, and
//! [`docs/image-format.md`](crate::docs::image_format) the format, byte for byte.
//!
//! ```
//! use pagecow::{Arena, image};
//! # let directory = tempfile::tempdir()?;
//! # let [base, delta] = ["base", "delta"].map(|name| directory.path().join(name));
//! let mut arena = Arena::new(1 << 20)?;
//! arena[..5].copy_from_slice(b"hello");
//! let first = arena.snapshot()?;
//! image::save(&first, &base)?;
//!
//! arena[..5].copy_from_slice(b"HELLO");
//! let second = arena.snapshot()?;
//! image::save_delta(&second, &first, &delta)?; // the one page that changed
//!
//! let (loaded, info) = image::load_chain([&base, &delta])?;
//! assert_eq!(&loaded[..5], b"HELLO");
//! assert_eq!(info.parent, Some(image::Id::of(&first)?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod apply;
#[cfg(feature = "zstd")]
mod compress;
mod decoder;
mod error;
mod format;
mod id;
mod info;
mod loader;
mod plan;
mod saver;
mod sink;
mod source;
mod stretches;
mod target;
mod temporary;
mod watch;

use std::io::{Read, Write};
use std::path::Path;

use crate::arena::Arena;
pub use crate::image::apply::apply;
pub use crate::image::error::{Error, ErrorKind};
pub use crate::image::id::Id;
pub use crate::image::info::Info;
pub use crate::image::loader::Loader;
use crate::image::loader::in_file;
pub use crate::image::saver::Saver;
use crate::image::source::Source;
pub use crate::image::watch::{Cancel, Progress};
use crate::snapshot::{Since, Snapshot};

/// Saves all of a snapshot in a file, whose place it takes as a whole: at the path there is the
/// old file or the new one, also when the process or the machine stops at any moment. Writers
/// go on meanwhile. Pages that are all zeros are left out.
///
/// The file is written beside the path, as `.pagecow-PROCESS-NUMBER.tmp`. It stays only where the
/// process is killed or the machine stops; then it may be removed by hand. A link at the path is
/// replaced, and not followed.
///
/// # Errors
///
/// [`ErrorKind::Io`] when the system refuses the file, or says that it was not written.
/// [`ErrorKind::Memory`] when the snapshot can no longer be read. Then the old file is there, and
/// no other; only where the directory itself could not be written to the disk after the new file
/// had taken its place, the new one is.
pub fn save(snapshot: &Snapshot, path: impl AsRef<Path>) -> Result<Info, Error> {
    Saver::new().save(snapshot, path)
}

/// Saves in a file the pages of a snapshot that changed since an older one, of which there is an
/// image, or since a [`Mark`](crate::Mark) that was made at it. As [`save`] otherwise.
///
/// Since a snapshot these are the [pages that differ](Snapshot::pages_that_differ); since a mark
/// those that [may have been written](Snapshot::changed_since).
///
/// There may be any number of consumers, each with its own base: keep the snapshot that a consumer
/// has got last, or a mark at it, and save the next delta since that one.
///
/// # Errors
///
/// As [`save`]; [`ErrorKind::Memory`] also when `since` is newer, or of another arena.
pub fn save_delta<'s>(
    snapshot: &Snapshot,
    since: impl Into<Since<'s>>,
    path: impl AsRef<Path>,
) -> Result<Info, Error> {
    Saver::new().save_delta(snapshot, since, path)
}

/// As [`save`], to anything that takes bytes, in order: a socket, say, or a buffer. Writes some
/// hundred KiB at a time.
///
/// # Errors
///
/// [`ErrorKind::Io`] with what `to` says, and [`ErrorKind::Memory`] when the snapshot can no longer
/// be read. What was written until then is the beginning of an image.
pub fn write_to(snapshot: &Snapshot, to: impl Write) -> Result<Info, Error> {
    Saver::new().write_to(snapshot, to)
}

/// As [`save_delta`], to anything that takes bytes, in order.
///
/// # Errors
///
/// As [`write_to`] and [`save_delta`].
pub fn write_delta_to<'s>(
    snapshot: &Snapshot,
    since: impl Into<Since<'s>>,
    to: impl Write,
) -> Result<Info, Error> {
    Saver::new().write_delta_to(snapshot, since, to)
}

/// Makes an arena of a full image in a file, and says what the image says of itself. All of it is
/// checked. [`Loader`] takes options for the arena.
///
/// The arena is as long as the one that was saved. It begins a life of its own: its snapshots have
/// other ids, and count from 1.
///
/// # Errors
///
/// [`ErrorKind::NotAnImage`], [`Version`](ErrorKind::Version), [`Damaged`](ErrorKind::Damaged),
/// [`IsDelta`](ErrorKind::IsDelta), [`Compressed`](ErrorKind::Compressed) and
/// [`PageSize`](ErrorKind::PageSize) for the image, [`Io`](ErrorKind::Io) for the file,
/// [`Memory`](ErrorKind::Memory) when the arena cannot be made.
pub fn load(path: impl AsRef<Path>) -> Result<(Arena, Info), Error> {
    Loader::new().load(path)
}

/// Makes an arena of a full image and the deltas since, in the order in which they were saved, and
/// says what the last of them says of itself. Whether each applies to the one before is checked
/// first of all.
///
/// # Errors
///
/// As [`load`]; [`ErrorKind::WrongParent`] and [`WrongLength`](ErrorKind::WrongLength) for an image
/// that does not apply to the one before; [`NoImages`](ErrorKind::NoImages).
pub fn load_chain<P: AsRef<Path>>(
    paths: impl IntoIterator<Item = P>,
) -> Result<(Arena, Info), Error> {
    Loader::new().load_chain(paths)
}

/// As [`load`], from anything that gives bytes. Not one behind the image is taken, so that another
/// may follow. Reads 32 bytes at a time between runs: give a [`BufReader`](std::io::BufReader),
/// and keep it for what follows.
///
/// # Errors
///
/// As [`load`].
pub fn read_from(from: impl Read) -> Result<(Arena, Info), Error> {
    Loader::new().read_from(from)
}

/// Reads all of an image, full or delta, and checks that it is as it was saved.
///
/// # Errors
///
/// As [`load`], but for what needs an arena.
pub fn verify(path: impl AsRef<Path>) -> Result<Info, Error> {
    in_file(path, |path| Source::open(path)?.check())
}

/// What an image in a file says of itself. Looks at its beginning and its end alone;
/// [`verify`] looks at all of it.
///
/// # Errors
///
/// As [`verify`], for beginning and end.
pub fn info(path: impl AsRef<Path>) -> Result<Info, Error> {
    in_file(path, |path| Source::open(path)?.info())
}

/// Makes one full image of a chain, with the bytes and the id of its last image: deltas that apply
/// to that apply to it as well. `path` may be one of the chain's own. Needs memory for the whole
/// arena meanwhile.
///
/// # Errors
///
/// As [`load_chain`] and [`save`].
pub fn compact<P: AsRef<Path>>(
    chain: impl IntoIterator<Item = P>,
    path: impl AsRef<Path>,
) -> Result<Info, Error> {
    Saver::new().compact(chain, path)
}
