//! Which engines work where the program runs.

use crate::error::Error;
use crate::options::Engine;
use crate::sys;

impl Engine {
    /// The engine that costs least where the program runs: [`Userfaultfd`](Self::Userfaultfd) when the
    /// system allows it, else [`Mprotect`](Self::Mprotect).
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
    /// [`Error::Engine`]: why not.
    pub fn check(self) -> Result<(), Error> {
        match self {
            Self::Mprotect => Ok(()),
            Self::Userfaultfd => sys::probe_userfaultfd().map_err(|source| Error::Engine {
                engine: self,
                source,
            }),
        }
    }
}
