//! Which snapshot an image holds.

use std::fmt;

use crate::image::error::{ErrorKind, Result};
use crate::snapshot::Snapshot;

/// Which snapshot an image holds: the same for all images of it, and that of no other snapshot, in
/// whichever process and on whichever machine.
///
/// In the child of a `fork()` arenas have another lineage than in the parent. So a delta that is
/// saved there needs a base that was saved there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// Of the arena: random bits.
    pub lineage: u128,
    /// The snapshot's number, counted from 1: [`Snapshot::id`].
    pub snapshot: u64,
}

impl Id {
    /// The id that images of this snapshot have.
    ///
    /// ```
    /// let arena = pagecow::Arena::new(4096)?;
    /// let (one, two) = (arena.snapshot()?, arena.snapshot()?);
    /// let (one, two) = (pagecow::image::Id::of(&one)?, pagecow::image::Id::of(&two)?);
    /// assert_eq!(one.lineage, two.lineage);
    /// assert_eq!((one.snapshot, two.snapshot), (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] where a sandbox forbids `getrandom`.
    pub fn of(snapshot: &Snapshot) -> Result<Self> {
        let lineage = snapshot.lineage().map_err(|source| ErrorKind::Io {
            doing: "draw random bits",
            source,
        })?;
        Ok(Self {
            lineage,
            snapshot: snapshot.id(),
        })
    }
}

/// The lineage in hexadecimal digits, a hyphen, and the number.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.lineage, self.snapshot)
    }
}
