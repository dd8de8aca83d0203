//! What can go wrong, with the numbers, and what the caller can do about it.

use std::fmt;
use std::io;

/// For private code. Public signatures spell it out, so that `use pagecow::*` hides nothing of the
/// prelude.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. A snapshot that was asked for is not there, and nothing else has changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An arena of no bytes, or of more than the address space or 2^32 - 2 pages hold.
    Size {
        /// The length asked for, in bytes.
        bytes: usize,
        /// The longest that an arena can be, in bytes.
        most: usize,
    },
    /// A window that makes no sense: it could not hold the page that is being written, or would
    /// allow fewer copies than one per page written, or no number of them. Ask for
    /// [`Window::default`](crate::Window::default), or for 1 page or more and a ratio of 1 or more.
    Window {
        /// The window asked for.
        window: crate::Window,
    },
    /// The system did not give the address space, for the arena or for the copies that its snapshots may
    /// need (twice the arena, unless `store_limit` is less). Ask for less, set `store_limit`, or raise
    /// `ulimit -v` and `ulimit -d`.
    Reserve {
        /// What was asked for, in bytes.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The fault handler or the fork hooks could not be installed.
    Install {
        /// What the system said.
        source: io::Error,
    },
    /// The engine's file descriptor was closed by somebody, which ended all protection: the snapshots that
    /// lived then can not be read any more, and the arena takes no more of them. Keep the descriptor out of
    /// `close_range` and the like, and make a new arena. Or, when an arena is made: the engine asked for is not to be had on this system, or in this sandbox. Use
    /// [`Engine::best`](crate::Engine::best), which takes what there is, or
    /// [`Engine::Mprotect`](crate::Engine::Mprotect), which works everywhere.
    Engine {
        /// The engine asked for.
        engine: crate::Engine,
        /// What the system said.
        source: io::Error,
    },
    /// A text that was parsed is not the name of an [`Engine`](crate::Engine).
    NoSuchEngine {
        /// The text.
        name: String,
    },
    /// The system did not change the write permission of the arena's pages, so no snapshot was
    /// taken, or [`open_all`](crate::Arena::open_all) left some of them as they were; stores go on
    /// as before. With `ENOMEM` the process has used up its mappings (`vm.max_map_count`).
    Protect {
        /// How many pages it was asked to change.
        pages: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A byte range that is not inside the arena.
    OutOfBounds {
        /// First byte asked for.
        start: usize,
        /// One past the last byte asked for.
        end: usize,
        /// Length of the arena, in bytes.
        len: usize,
    },
    /// A page number that the arena does not have.
    NoSuchPage {
        /// The page asked for, counted from 0.
        index: usize,
        /// How many pages the arena has.
        count: usize,
    },
    /// Somebody installed another SIGSEGV handler after ours (or SIGBUS handler, with userfaultfd), so a write to an armed page would end
    /// in theirs. Install such handlers before the first arena is made; ours calls the one it finds.
    HandlerReplaced,
    /// SIGSEGV (or SIGBUS, with userfaultfd) is masked in the calling thread: its first write to an armed page would kill the
    /// process. Unmask it (`pthread_sigmask`) here and in all threads that write to arenas.
    SignalMasked,
    /// The calling thread holds a `writable` guard, for which the snapshot would wait for ever. Drop
    /// the guard first.
    GuardHeld,
    /// The arena is gone, and all of its snapshots.
    ArenaDropped,
    /// The store's limit was reached and a page was overwritten that this snapshot still needed, so it
    /// can not be read any more. Drop it, and raise `store_limit`, read faster or write less.
    StoreExhausted {
        /// The snapshot's number, counted from 1 within its arena.
        snapshot: u64,
        /// The store's limit, in bytes.
        limit: usize,
    },
    /// `changed_since` was asked to compare with a snapshot of another arena, or with a newer one.
    NotOlder {
        /// The number of the snapshot asked.
        snapshot: u64,
        /// The number of the one it was compared with, or `None` when that is of another arena.
        other: Option<u64>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { bytes, most } => {
                write!(f, "an arena of {bytes} bytes is not possible; ask for 1 to {most} bytes")
            }
            Self::Window { window } => write!(
                f,
                "the window {window:?} makes no sense; pages (Fixed, max_pages) and max_ratio must be \
                 at least 1, or use Window::default()"
            ),
            Self::Reserve { bytes, source } => {
                write!(
                    f,
                    "cannot reserve {bytes} bytes of address space: {source}; \
                     ask for less, set store_limit, or raise ulimit -v and -d"
                )
            }
            Self::Install { source } => {
                write!(f, "cannot install the fault handler or the fork hooks: {source}")
            }
            Self::Engine { engine, source } => write!(
                f,
                "the engine {engine:?} is not available here: {source}; \
                 use Engine::best() or Engine::Mprotect"
            ),
            Self::NoSuchEngine { name } => {
                write!(f, "there is no engine {name:?}; engines are")?;
                crate::Engine::ALL.iter().try_for_each(|engine| write!(f, " {engine}"))
            }
            Self::Protect { pages, source } => write!(
                f,
                "cannot change the write permission of {pages} pages (is vm.max_map_count used up?): \
                 {source}"
            ),
            Self::OutOfBounds { start, end, len } => {
                write!(f, "bytes {start}..{end} are not inside the arena of {len} bytes")
            }
            Self::NoSuchPage { index, count } => {
                write!(f, "there is no page {index}: the arena has {count} pages, counted from 0")
            }
            Self::HandlerReplaced => f.write_str(
                "another SIGSEGV or SIGBUS handler was installed after pagecow's; \
                 install it before the first arena is made",
            ),
            Self::SignalMasked => f.write_str(
                "SIGSEGV or SIGBUS is masked in this thread, its first write would kill the process; unmask it",
            ),
            Self::GuardHeld => f.write_str(
                "this thread holds a writable() guard, which no snapshot can pass; drop it first",
            ),
            Self::ArenaDropped => f.write_str("the arena was dropped; no snapshot of it can be taken"),
            Self::StoreExhausted { snapshot, limit } => write!(
                f,
                "snapshot {snapshot} lost a page because the store's limit of {limit} bytes was \
                 reached; drop it, and raise store_limit"
            ),
            Self::NotOlder { snapshot, other: Some(other) } => {
                write!(f, "snapshot {other} is newer than snapshot {snapshot}; ask the newer one")
            }
            Self::NotOlder { snapshot, other: None } => {
                write!(f, "snapshot {snapshot} and the other one are of different arenas")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Reserve { source, .. }
            | Self::Install { source }
            | Self::Engine { source, .. }
            | Self::Protect { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::OutOfBounds { .. }
            | Error::NoSuchPage { .. }
            | Error::NoSuchEngine { .. }
            | Error::Size { .. }
            | Error::Window { .. }
            | Error::NotOlder { .. } => io::ErrorKind::InvalidInput,
            Error::Reserve { .. } | Error::StoreExhausted { .. } => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
