//! What an arena is made with.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How write permission is taken from pages, and given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// `mprotect(2)`: works everywhere. Each isolated written page costs the process two kernel
    /// mappings, of which there is a limited number (`vm.max_map_count`); see
    /// [`Stats::wall_exits`](crate::Stats::wall_exits).
    #[default]
    Mprotect,
    /// `userfaultfd(2)` in write-protect mode, delivered as SIGBUS to the thread that stores.
    /// Splits no mappings, and a scattered first write costs about half. Needs Linux 6.4 or later
    /// and a system or sandbox that allows the call; no privilege.
    Userfaultfd,
    /// `mremap(2)` and the kernel's own copy-on-write: a snapshot is taken by two system calls,
    /// whatever the size, nothing is armed, and system calls may write into the arena at any time
    /// but while it is merged. A snapshot is memory that lies in one piece, of which
    /// [views](crate::Snapshot::view) and [branches](crate::Snapshot::branch) cost nothing. When
    /// the last of them is gone, what was written meanwhile is merged in the background. It takes
    /// one snapshot at a time: another one while it lives is the same one if nothing was stored in
    /// between, and else it is taken as with [`Mprotect`](Self::Mprotect). Needs Linux 5.13 or
    /// later.
    Remap,
}

impl Engine {
    /// All engines, those included that do not work here ([`check`](Self::check) tells).
    ///
    /// ```
    /// use pagecow::Engine;
    /// for engine in Engine::ALL {
    ///     match engine.check() {
    ///         Ok(()) => println!("{engine} works"),
    ///         Err(error) => println!("{error}"),
    ///     }
    /// }
    /// ```
    pub const ALL: &'static [Self] = &[Self::Mprotect, Self::Userfaultfd, Self::Remap];

    /// Its name: that of the system call, as it is [displayed](fmt::Display) and [parsed](FromStr).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mprotect => "mprotect",
            Self::Userfaultfd => "userfaultfd",
            Self::Remap => "remap",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// From its [name](Engine::name).
///
/// ```
/// use pagecow::Engine;
/// let engine: Engine = "userfaultfd".parse()?;
/// assert_eq!(engine, Engine::Userfaultfd);
/// assert_eq!(engine.to_string(), "userfaultfd");
/// let error = "mmap".parse::<Engine>().unwrap_err();
/// let said = "no engine is called \"mmap\"; ask for mprotect, userfaultfd or remap";
/// assert_eq!(error.to_string(), said);
/// # Ok::<(), pagecow::ParseEngineError>(())
/// ```
impl FromStr for Engine {
    type Err = ParseEngineError;

    fn from_str(name: &str) -> Result<Self, ParseEngineError> {
        let mut all = Self::ALL.iter().copied();
        all.find(|engine| engine.name() == name)
            .ok_or_else(|| ParseEngineError {
                name: name.to_owned(),
            })
    }
}

/// A text is not the [name](Engine::name) of an [`Engine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseEngineError {
    name: String,
}

impl fmt::Display for ParseEngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Engine::ALL.iter().map(|engine| engine.name()).collect();
        let (last, others) = names.split_last().expect("there are engines");
        let others = others.join(", ");
        let name = &self.name;
        write!(
            f,
            "no engine is called {name:?}; ask for {others} or {last}"
        )
    }
}

impl std::error::Error for ParseEngineError {}

/// How many neighbours of a page its first write saves and makes writable along with it.
///
/// A fault costs several times what copying a page does, so where a block of pages is being written
/// all over, it pays that one fault deals with many of them. Copies made ahead of a write that
/// never comes are wasted. How many that can be is said as *copies made per page written, all
/// copies counted*: 1 with [`Page`](Self::Page), at most 4 by default.
/// [`Stats::pages_saved`](crate::Stats::pages_saved) counts all copies,
/// [`Stats::pages_saved_ahead`](crate::Stats::pages_saved_ahead) those made ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Window {
    /// Only the page itself: 1 copy per page written, and the most faults. Until mappings run
    /// short.
    Page,
    /// The aligned block of this many pages that the page is in: at least 1, rounded up to a power
    /// of two.
    Fixed(usize),
    /// As many as pays, by how densely the neighbourhood is written and whether a run of pages is
    /// written in order.
    Adaptive {
        /// The most pages that one fault deals with: at least 1, rounded down to a power of two,
        /// and at most 512.
        max_pages: usize,
        /// The most copies made per page written, all copies counted: at least 1, which allows none
        /// ahead; infinity is no bound. What was written is estimated by comparing some of the
        /// copies with the arena. When less was written since the last snapshot than between the
        /// two before, that earlier figure counts, as far as it is at most 32 times the pages
        /// written since.
        max_ratio: f64,
    },
}

impl Default for Window {
    /// `Adaptive { max_pages: 128, max_ratio: 4.0 }`: at most 4 copies made per page written, all
    /// copies counted.
    fn default() -> Self {
        Self::Adaptive {
            max_pages: 128,
            max_ratio: 4.0,
        }
    }
}

#[cfg(not(loom))]
impl Window {
    /// Whether an arena can be made with it. The function that chooses windows takes any, since it
    /// runs in the handler.
    pub(crate) fn makes_sense(self) -> bool {
        match self {
            Self::Page => true,
            Self::Fixed(pages) => pages >= 1,
            // Not a number is not at least 1 either.
            Self::Adaptive {
                max_pages,
                max_ratio,
            } => max_pages >= 1 && max_ratio >= 1.0,
        }
    }
}

/// All options of an arena.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// In bytes.
    pub store_limit: usize,
    pub engine: Engine,
    pub window: Window,
    pub huge_pages: bool,
    /// The process's keeper looks after the arena.
    pub keeper: bool,
    /// Pages that are not written are armed between snapshots.
    pub stand_ready: bool,
    /// When they were not written for this long.
    pub cold: Duration,
    /// How long memory of free frames stays when no snapshot is taken or dropped.
    pub decay: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            store_limit: usize::MAX,
            engine: Engine::default(),
            window: Window::default(),
            huge_pages: false,
            keeper: true,
            stand_ready: false,
            cold: Duration::from_millis(250),
            decay: Duration::from_secs(10),
        }
    }
}
