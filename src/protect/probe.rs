//! Which engines work where the program runs.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::options::Engine;
use crate::sys::{Views, userfaultfd};

impl Engine {
    /// The engine that costs least where the program runs: [`Userfaultfd`](Self::Userfaultfd) when
    /// the system allows it, else [`Mprotect`](Self::Mprotect).
    pub fn best() -> Self {
        match Self::Userfaultfd.check() {
            Ok(()) => Self::Userfaultfd,
            Err(_) => Self::Mprotect,
        }
    }

    /// Whether arenas with this engine can be made here. Tries it until it works once in the
    /// process; what goes wrong after that is found when an arena is made.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`]: why not.
    pub fn check(self) -> Result<(), Error> {
        let tried = match self {
            Self::Mprotect => Ok(()),
            Self::Userfaultfd => try_userfaultfd(),
            Self::Remap => try_remap(),
        };
        tried.map_err(|source| Error::Engine {
            engine: self,
            source,
        })
    }
}

/// Freezes and merges a few pages, once.
fn try_remap() -> io::Result<()> {
    static WORKED: AtomicBool = AtomicBool::new(false);
    if !WORKED.load(Ordering::Relaxed) {
        Views::probe()?;
        WORKED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Once it worked it is not tried again: an arena finds out by itself.
fn try_userfaultfd() -> io::Result<()> {
    static WORKED: AtomicBool = AtomicBool::new(false);
    if !WORKED.load(Ordering::Relaxed) {
        userfaultfd::probe()?;
        WORKED.store(true, Ordering::Relaxed);
    }
    Ok(())
}
