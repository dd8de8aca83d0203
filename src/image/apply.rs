//! A delta that brings an arena up to date.

use std::io::Read;

use crate::arena::Arena;
use crate::image::decoder::Decoder;
use crate::image::error::{Error, Result};
use crate::image::format::Run;
use crate::image::id::Id;
use crate::image::info::Info;
use crate::image::loader::expect;
use crate::image::source::{Next, Source};
use crate::image::target;

/// A run that has arrived, and was found to be as it was saved.
struct Arrived {
    run: Run,
    at: u64,
    stored: Box<[u8]>,
}

/// Applies a delta that comes from a stream to an arena that holds what it applies to; returns what
/// it says of itself. Not a byte behind it is taken from the stream.
///
/// `parent` is the id of what the arena holds: [`Info::id`] of what was loaded or applied last. The
/// arena's bytes have to be the same as then.
///
/// All of the delta is received and checked before any of it is stored: memory for as many bytes as
/// arrive is needed meanwhile. Stores go as any others do, so snapshots of the arena stay what they
/// are.
///
/// ```
/// use pagecow::{Arena, image};
/// let mut arena = Arena::new(1 << 20)?;
/// let base = arena.snapshot()?;
/// arena[..5].copy_from_slice(b"hello");
/// let newer = arena.snapshot()?;
///
/// let mut wire = Vec::new();
/// image::write_to(&base, &mut wire)?;
/// image::write_delta_to(&newer, &base, &mut wire)?;
///
/// let mut wire = &wire[..];
/// let (mut replica, info) = image::read_from(&mut wire)?;
/// let info = image::apply(&mut replica, info.id, &mut wire)?;
/// assert_eq!(&replica[..5], b"hello");
/// assert_eq!(info.id, image::Id::of(&newer)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ErrorKind::WrongParent`](super::ErrorKind::WrongParent) and
/// [`WrongLength`](super::ErrorKind::WrongLength) when the delta is not for what is there; what
/// [`load`](super::load) says of an image that is none, or is damaged. The arena is as before.
pub fn apply(arena: &mut Arena, parent: Id, from: impl Read) -> Result<Info, Error> {
    let mut source = Source::stream(from)?;
    let header = *source.header();
    expect(&header, &parent, arena.requested_len() as u64)?;
    let mut decoder = Decoder::default();
    let mut arrived = Vec::new();
    let mut stored = Vec::new();
    let info = loop {
        match source.next(&mut stored)? {
            Next::End(info) => break info,
            Next::Run { run, at } => {
                let bytes = decoder.bytes(&header, &run, at, &stored)?;
                target::place_of(&header, &run, bytes, arena.len())?;
                arrived.push(Arrived {
                    run,
                    at,
                    stored: stored.as_slice().into(),
                });
            }
        }
    };
    for Arrived { run, at, stored } in arrived {
        let again = "it went well above";
        let bytes = decoder.bytes(&header, &run, at, &stored).expect(again);
        let place = target::place_of(&header, &run, bytes, arena.len()).expect(again);
        target::put(arena, place, bytes);
    }
    Ok(info)
}
