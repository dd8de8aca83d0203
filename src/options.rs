//! What an arena is made with.

#[cfg(not(loom))]
use crate::error::Result;

/// How write permission is taken from pages, and given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// `mprotect(2)`: works everywhere. Each isolated written page costs the process two kernel mappings, of
    /// which there is a limited number (`vm.max_map_count`); see [`Stats::wall_exits`](crate::Stats::wall_exits).
    #[default]
    Mprotect,
    /// `userfaultfd(2)` in write-protect mode, delivered as SIGBUS to the thread that stores. Splits no
    /// mappings, and a scattered first write costs about half. Needs Linux 6.4 or later and a system or
    /// sandbox that allows the call; no privilege.
    Userfaultfd,
}

/// How many neighbours of a page its first write saves and makes writable along with it.
///
/// A fault costs several times what copying a page does, so where a block of pages is being written all
/// over, one fault had better deal with many of them. Copies made ahead of a write that never comes are
/// wasted; [`Stats::pages_saved_ahead`](crate::Stats::pages_saved_ahead) counts all that were made ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Window {
    /// Only the page itself: the fewest copies, the most faults. Until mappings run short.
    Page,
    /// The aligned block of so many pages that the page is in (a power of two, or rounded up to one).
    Fixed(usize),
    /// As many as pays, by how densely the neighbourhood is written and whether a run of pages is written
    /// in order.
    Adaptive {
        /// The most pages that one fault deals with (rounded down to a power of two, and at most 512).
        max_pages: usize,
        /// The most copies per page written that are made, at least 1. What was written is estimated by
        /// comparing some of the copies with the arena. When less was written since the last snapshot
        /// than between the two before, that earlier figure counts, as far as it is at most 32 times the
        /// pages written since.
        max_ratio: f64,
    },
}

impl Default for Window {
    /// `Adaptive { max_pages: 128, max_ratio: 4.0 }`
    fn default() -> Self {
        Self::Adaptive {
            max_pages: 128,
            max_ratio: 4.0,
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            store_limit: usize::MAX,
            engine: Engine::default(),
            window: Window::default(),
            huge_pages: false,
        }
    }
}

impl Engine {
    /// The engine that costs least where the program runs: [`Userfaultfd`](Self::Userfaultfd) when the
    /// system allows it, else [`Mprotect`](Self::Mprotect).
    #[cfg(not(loom))]
    pub fn best() -> Self {
        match Self::Userfaultfd.check() {
            Ok(()) => Self::Userfaultfd,
            Err(_) => Self::Mprotect,
        }
    }

    /// Whether arenas with this engine can be made here. Tries it until it works once in the process; what goes
    /// wrong after that is found when an arena is made.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`](crate::Error::Engine): why not.
    #[cfg(not(loom))]
    pub fn check(self) -> Result<()> {
        match self {
            Self::Mprotect => Ok(()),
            Self::Userfaultfd => {
                crate::sys::probe_userfaultfd().map_err(|source| crate::Error::Engine {
                    engine: self,
                    source,
                })
            }
        }
    }
}
