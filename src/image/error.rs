//! What can go wrong with an image: what, in which file, where in it, and what to do now.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::image::format::VERSION;
use crate::image::id::Id;

/// For private code. Public signatures spell it out.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image was not saved, loaded or checked.
///
/// A save that failed left the file that was there before, and no other. A load that failed left no
/// arena, and [`apply`](super::apply()) left the arena as it was.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    path: Option<PathBuf>,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The system refused something. Make room on the disk, or ask for a file that can be opened,
    /// and try again.
    Io {
        /// What was to be done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It does not begin as an image does. Name a file that [`save`](super::save) made.
    NotAnImage,
    /// It is of another version of the format. Load it with the pagecow that made it.
    Version {
        /// The image's.
        found: u32,
    },
    /// Bytes are not those that were saved, or are missing. Take another copy of the image.
    Damaged {
        /// Where: the offset in the image, in bytes.
        at: u64,
        /// What is found there.
        what: String,
    },
    /// The image is compressed, and this pagecow was built without the feature `zstd`. Build it
    /// with that.
    Compressed {
        /// The offset of the first run that is, in bytes.
        at: u64,
    },
    /// It is a delta, where a full image is needed. Load it after its base, by
    /// [`load_chain`](super::load_chain).
    IsDelta {
        /// Of the image that it applies to.
        parent: Id,
    },
    /// It does not apply to what is there. Take the images in the order in which they were saved,
    /// with none left out.
    WrongParent {
        /// What it applies to, or `None` for a full image.
        parent: Option<Id>,
        /// What is there.
        there: Id,
    },
    /// It is of an arena of another length. Apply it to one of that length.
    WrongLength {
        /// The image's arena, in bytes that were asked for.
        image: u64,
        /// The arena that is there.
        there: u64,
    },
    /// Its pages are larger than those of this system, and hold something beyond the end of the
    /// arena. Load it where pages are as large as in the image.
    PageSize {
        /// The image's, in bytes.
        image: usize,
        /// This system's.
        here: usize,
    },
    /// A chain of no images at all. Name a full image, and the deltas since.
    NoImages,
    /// A [`Cancel`](super::Cancel) said so.
    Cancelled,
    /// The snapshot could not be read, or the arena not made.
    Memory(crate::Error),
}

impl Error {
    /// What happened.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// In which file; `None` for streams.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// As it is, in this file.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_owned());
        self
    }
}

pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| ErrorKind::Io { doing, source }.into()
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self(Box::new(Inner { kind, path: None }))
    }
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        ErrorKind::Memory(error).into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path() {
            write!(f, "{}: ", path.display())?;
        }
        self.kind().fmt(f)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => {
                write!(f, "cannot {doing}: {source}; mend that, and try again")
            }
            Self::NotAnImage => {
                f.write_str("this does not begin as an image of pagecow; name a file that is one")
            }
            Self::Version { found } => write!(
                f,
                "the image is of version {found} of the format, and this pagecow knows version \
                 {VERSION}; load it with the pagecow that made it"
            ),
            Self::Damaged { at, what } => write!(
                f,
                "the image is damaged: {what} at byte {at}; take another copy of it"
            ),
            Self::Compressed { at } => write!(
                f,
                "the run at byte {at} is compressed; build pagecow with the feature zstd"
            ),
            Self::IsDelta { parent } => write!(
                f,
                "the image is a delta that applies to {parent}; load that first, in one chain"
            ),
            Self::WrongParent {
                parent: Some(parent),
                there,
            } => write!(
                f,
                "the image applies to {parent}, and not to {there}; take the images in the order \
                 in which they were saved, with none left out"
            ),
            Self::WrongParent {
                parent: None,
                there,
            } => write!(
                f,
                "the image is a full one, and does not apply to {there}; take deltas after the \
                 first image of a chain"
            ),
            Self::WrongLength { image, there } => write!(
                f,
                "the image is of an arena of {image} bytes, and does not apply to one of {there}; \
                 apply it to one of its own length"
            ),
            Self::PageSize { image, here } => write!(
                f,
                "the image has pages of {image} bytes, of which the last holds something beyond \
                 what is an arena's end here; load it on a system that has such pages, not {here}"
            ),
            Self::NoImages => {
                f.write_str("a chain of no images; name a full image, and the deltas since")
            }
            Self::Cancelled => f.write_str("it was cancelled; start again if it is wanted"),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.kind() {
            ErrorKind::Io { source, .. } => Some(source),
            ErrorKind::Memory(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Io { source, .. } => source.kind(),
            ErrorKind::NotAnImage | ErrorKind::Version { .. } | ErrorKind::Damaged { .. } => {
                io::ErrorKind::InvalidData
            }
            // Not `Interrupted`, upon which readers and writers try again.
            ErrorKind::Cancelled => io::ErrorKind::Other,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
