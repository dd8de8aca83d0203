//! What goes through the socket between the two.
//!
//! The replica says what it has, the primary answers with an image that brings it up to date, and
//! so on. The replica's word is 25 bytes: 1 and an id, or 0 and any. The answer is one byte for the
//! kind, and an image.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use pagecow::image::Id;

use crate::chain::Failure;

/// Which kind of image follows.
pub const BASE: u8 = b'B';
pub const DELTA: u8 = b'D';

/// Says what the replica has.
pub fn say(mut to: impl Write, has: Option<Id>) -> io::Result<()> {
    let mut word = [0; 25];
    if let Some(id) = has {
        word[0] = 1;
        word[1..17].copy_from_slice(&id.lineage.to_le_bytes());
        word[17..].copy_from_slice(&id.snapshot.to_le_bytes());
    }
    to.write_all(&word)
}

/// Hears what a replica has.
pub fn hear(mut from: impl Read) -> io::Result<Option<Id>> {
    let mut word = [0; 25];
    from.read_exact(&mut word)?;
    let lineage = u128::from_le_bytes(word[1..17].try_into().expect("16 bytes"));
    let snapshot = u64::from_le_bytes(word[17..].try_into().expect("8 bytes"));
    Ok((word[0] == 1).then_some(Id { lineage, snapshot }))
}

/// Listens at a path, in place of a process that was killed and left its socket there.
pub fn listener(path: &Path) -> Result<UnixListener, Failure> {
    let _ = fs::remove_file(path);
    let cannot = |error| format!("cannot listen at {}: {error}", path.display());
    Ok(UnixListener::bind(path).map_err(cannot)?)
}
