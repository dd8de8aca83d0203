//! How far a save is, and how to end it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::image::error::{ErrorKind, Result};

/// How far a save is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many pages have been dealt with. Those that were never touched take no time.
    pub pages_done: u64,
    /// How many there are: all of the arena's, or for a delta those that changed.
    pub pages_total: u64,
    /// How many bytes of the image have been written.
    pub bytes_written: u64,
}

/// Ends a save from outside: [`cancel`](Self::cancel) on any clone of it, on any thread.
///
/// ```
/// use pagecow::image::{Cancel, ErrorKind, Saver};
/// let snapshot = pagecow::Arena::new(4096)?.snapshot()?;
/// let cancel = Cancel::new();
/// cancel.cancel();
/// let refused = Saver::new().cancel(&cancel).write_to(&snapshot, std::io::sink());
/// assert!(matches!(refused.unwrap_err().kind(), ErrorKind::Cancelled));
/// # Ok::<(), pagecow::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    cancelled: Arc<AtomicBool>,
}

impl Cancel {
    /// One that has not been cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whatever was given this ends with [`ErrorKind::Cancelled`], soon, for good.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What a save tells, and asks, between two of its parts.
#[derive(Default)]
pub(super) struct Watch<'a> {
    pub progress: Option<Box<dyn FnMut(Progress) + 'a>>,
    pub cancel: Option<Cancel>,
}

impl Watch<'_> {
    pub fn check(&self) -> Result<()> {
        match &self.cancel {
            Some(cancel) if cancel.is_cancelled() => Err(ErrorKind::Cancelled.into()),
            _ => Ok(()),
        }
    }

    pub fn tell(&mut self, progress: Progress) -> Result<()> {
        if let Some(told) = &mut self.progress {
            told(progress);
        }
        self.check()
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}
