//! What can go wrong: what happened, whether anything was lost, and what to do now.

use std::fmt;
use std::io;

use crate::options::{Engine, Window};

/// For private code. Public signatures spell it out, so that `use pagecow::*` hides nothing of the
/// prelude.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Live memory is never lost by it: stores land as before.
///
/// [`StoreExhausted`](Self::StoreExhausted) and [`Engine`](Self::Engine) say that a snapshot can no
/// longer be read. Every other variant leaves all snapshots as they were.
///
/// What is printed says what happened, with the numbers, and after a semicolon what to do now.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// When an arena is made: it would have no bytes, or more than the address space or 2^32 - 2
    /// pages hold. Nothing was made. Ask for a length between 1 and `most`.
    Size {
        /// The length asked for, in bytes.
        bytes: usize,
        /// The longest that an arena can be, in bytes.
        most: usize,
    },
    /// When an arena is made: its window makes no sense. It could not hold the page that is being
    /// written, or would allow fewer copies than one per page written, or no number of them.
    /// Nothing was made. Ask for [`Window::default`], or for at least 1 page and a ratio of at
    /// least 1.
    Window {
        /// The window asked for.
        window: Window,
    },
    /// When an arena is made or a snapshot is prepared or taken: the system did not give the
    /// address space, for the arena or for the copies that its snapshots may need (twice the arena,
    /// unless `store_limit` is less). The arena or the snapshot is not there; nothing was lost. Ask
    /// for a shorter arena, set `store_limit`, or raise what bounds the process: `ulimit -v`,
    /// `ulimit -d` or the number of its mappings, `vm.max_map_count`.
    Reserve {
        /// What was asked for, in bytes.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// When an arena is made: the fault handler or the fork hooks could not be installed. Nothing
    /// was made. The system is out of memory, or a sandbox forbids `rt_sigaction`: change that, and
    /// start the process again.
    Install {
        /// What the system said.
        source: io::Error,
    },
    /// When an arena is made: this system or sandbox does not allow the engine asked for. Nothing
    /// was made. Use [`Engine::best`], which takes what is there, or [`Engine::Mprotect`], which
    /// works everywhere.
    ///
    /// When a snapshot is taken or read: somebody closed the engine's file descriptor, which ended
    /// all protection. The snapshots that lived then can not be read any more, and the arena takes
    /// no further ones; its own bytes are intact. Keep the descriptor out of `close_range` and the
    /// like, and make a new arena.
    Engine {
        /// The engine asked for.
        engine: Engine,
        /// What the system said.
        source: io::Error,
    },
    /// When a snapshot is taken: the system did not take write permission from pages, so there is
    /// no snapshot. When [`open_all`](crate::Arena::open_all) is called: it did not give it back,
    /// so some pages may still refuse system calls. Nothing was lost, and stores go on as before.
    /// With `ENOMEM` the process has used up its mappings: raise `vm.max_map_count`, or use
    /// [`Engine::Userfaultfd`], and try again.
    Protect {
        /// How many pages the system was asked to change.
        pages: usize,
        /// What the system said.
        source: io::Error,
    },
    /// When bytes are read or made writable: they are not inside the arena. Nothing was done. Ask
    /// for bytes within `0..len`.
    OutOfBounds {
        /// First byte asked for.
        start: usize,
        /// One past the last byte asked for.
        end: usize,
        /// Length of the arena, in bytes.
        len: usize,
    },
    /// When a page is read: the arena does not have it. Nothing was done. Ask for a page below
    /// `count`.
    NoSuchPage {
        /// The page asked for, counted from 0.
        index: usize,
        /// How many pages the arena has.
        count: usize,
    },
    /// When a snapshot is prepared or taken: somebody installed another SIGSEGV handler after ours
    /// (or SIGBUS handler, with userfaultfd), so a store to an armed page would end there. No
    /// snapshot was taken, and nothing was lost. Put back the handler that the other one replaced,
    /// or install it before the first arena is made; ours calls the one that it finds.
    HandlerReplaced,
    /// When a snapshot is prepared or taken: SIGSEGV (or SIGBUS, with userfaultfd) is masked in the
    /// calling thread, so its first store to an armed page would kill the process. No snapshot was
    /// taken, and nothing was lost. Unmask it (`pthread_sigmask`) here and in all threads that
    /// write to arenas.
    SignalMasked,
    /// When a snapshot is prepared or taken: the calling thread holds a `writable` guard, for which
    /// the snapshot would wait for ever. No snapshot was taken, and nothing was lost. Drop the
    /// guard first.
    GuardHeld,
    /// When a [`Snapshotter`](crate::Snapshotter) or a [`Pending`](crate::Pending) is used: its
    /// arena was dropped, so no further snapshot of it can be taken. Those that live can still be
    /// read. Drop what was used, and keep the arena for as long as snapshots are wanted.
    ArenaDropped,
    /// When a snapshot is read: a page that it still needed was overwritten without a copy, since
    /// the store's limit was reached. The snapshot can not be read any more; the arena's own bytes
    /// are intact. Drop it, and raise `store_limit`, read faster or write less.
    StoreExhausted {
        /// The snapshot's number, counted from 1 within its arena.
        snapshot: u64,
        /// The store's limit, in bytes.
        limit: usize,
    },
    /// When an arena is restored: the snapshot is of another arena. Nothing was done. Restore the
    /// arena that it was taken of, or make one of it by [`Snapshot::to_arena`].
    ///
    /// [`Snapshot::to_arena`]: crate::Snapshot::to_arena
    OtherArena {
        /// The snapshot's number, counted from 1 within its arena.
        snapshot: u64,
    },
    /// When `changed_since` is called: the other snapshot is of another arena, or newer than the
    /// one asked. Nothing was done. Ask the newer one of two snapshots of one arena.
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
            Self::Size { bytes, most } => write!(
                f,
                "an arena of {bytes} bytes is not possible; ask for 1 to {most} bytes"
            ),
            Self::Window { window } => write!(
                f,
                "the window {window:?} makes no sense; ask for pages (Fixed, max_pages) and a \
                 max_ratio of at least 1, or for Window::default()"
            ),
            Self::Reserve { bytes, source } => write!(
                f,
                "cannot reserve {bytes} bytes of address space: {source}; \
                 ask for less, set store_limit, or raise ulimit -v, ulimit -d or vm.max_map_count"
            ),
            Self::Install { source } => write!(
                f,
                "cannot install the fault handler or the fork hooks: {source}; free memory or \
                 allow rt_sigaction in this sandbox, and start the process again"
            ),
            Self::Engine { engine, source } => write!(
                f,
                "the engine {engine:?} does not protect memory here: {source}; make an arena with \
                 Engine::best() or Engine::Mprotect, and do not close the engine's file descriptor"
            ),
            Self::Protect { pages, source } => write!(
                f,
                "cannot change the write permission of {pages} pages: {source}; if the process \
                 has used up its mappings raise vm.max_map_count, and try again"
            ),
            Self::OutOfBounds { start, end, len } => write!(
                f,
                "bytes {start}..{end} are not inside the arena of {len} bytes; \
                 ask for bytes within 0..{len}"
            ),
            Self::NoSuchPage { index, count } => write!(
                f,
                "there is no page {index} in an arena of {count} pages; \
                 ask for a page in 0..{count}"
            ),
            Self::HandlerReplaced => f.write_str(
                "another SIGSEGV or SIGBUS handler was installed after pagecow's; \
                 put pagecow's back, or install the other one before the first arena is made",
            ),
            Self::SignalMasked => f.write_str(
                "SIGSEGV or SIGBUS is masked in this thread, so its first write would kill the \
                 process; unmask it here and in all threads that write to arenas",
            ),
            Self::GuardHeld => f.write_str(
                "this thread holds a writable() guard, for which the snapshot would wait for ever; \
                 drop the guard first",
            ),
            Self::ArenaDropped => f.write_str(
                "the arena was dropped, so no further snapshot of it can be taken; \
                 keep the arena for as long as snapshots are wanted",
            ),
            Self::StoreExhausted { snapshot, limit } => write!(
                f,
                "snapshot {snapshot} lost a page because the store's limit of {limit} bytes was \
                 reached; drop it, and raise store_limit, read faster or write less"
            ),
            Self::OtherArena { snapshot } => write!(
                f,
                "snapshot {snapshot} is not of this arena; restore the arena that it was taken of, \
                 or make one of it by to_arena"
            ),
            Self::NotOlder {
                snapshot,
                other: Some(other),
            } => write!(
                f,
                "snapshot {other} is newer than snapshot {snapshot}; ask the newer one"
            ),
            Self::NotOlder {
                snapshot,
                other: None,
            } => write!(
                f,
                "snapshot {snapshot} and the other one are of different arenas; \
                 compare snapshots of one arena"
            ),
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
            | Error::Size { .. }
            | Error::Window { .. }
            | Error::NotOlder { .. } => io::ErrorKind::InvalidInput,
            Error::Reserve { .. } | Error::StoreExhausted { .. } => io::ErrorKind::OutOfMemory,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_its_numbers_and_says_what_to_do() {
        let source = || io::Error::from_raw_os_error(libc::ENOMEM);
        let (one, two, three) = (1111, 2222, 3333);
        let window = Window::Fixed(0);
        let engine = Engine::Userfaultfd;
        let cases: [(Error, &[&str]); 15] = [
            (
                Error::Size {
                    bytes: one,
                    most: two,
                },
                &["1111", "2222"],
            ),
            (Error::Window { window }, &["Fixed(0)", "at least 1"]),
            (
                Error::Reserve {
                    bytes: one,
                    source: source(),
                },
                &["1111", "os error 12"],
            ),
            (Error::Install { source: source() }, &["os error 12"]),
            (
                Error::Engine {
                    engine,
                    source: source(),
                },
                &["Userfaultfd", "os error 12"],
            ),
            (
                Error::Protect {
                    pages: one,
                    source: source(),
                },
                &["1111", "os error 12"],
            ),
            (
                Error::OutOfBounds {
                    start: one,
                    end: two,
                    len: three,
                },
                &["1111..2222", "3333"],
            ),
            (
                Error::NoSuchPage {
                    index: two,
                    count: one,
                },
                &["2222", "1111"],
            ),
            (Error::HandlerReplaced, &["SIGSEGV"]),
            (Error::SignalMasked, &["SIGSEGV"]),
            (Error::GuardHeld, &["writable()"]),
            (Error::ArenaDropped, &["dropped"]),
            (
                Error::StoreExhausted {
                    snapshot: 1111,
                    limit: two,
                },
                &["1111", "2222"],
            ),
            (
                Error::NotOlder {
                    snapshot: 1111,
                    other: Some(2222),
                },
                &["1111", "2222"],
            ),
            (
                Error::NotOlder {
                    snapshot: 1111,
                    other: None,
                },
                &["1111"],
            ),
        ];
        for (error, facts) in cases {
            let said = error.to_string();
            let (happened, to_do) = said.split_once("; ").expect("two parts");
            assert!(!happened.is_empty() && !to_do.is_empty(), "{said}");
            for fact in facts {
                assert!(said.contains(fact), "{said}");
            }
        }
    }
}
