//! An arena that an image is put into.

use std::ops::Range;

use crate::arena::Arena;
use crate::image::error::{ErrorKind, Result};
use crate::image::format::{Header, Run};
use crate::image::stretches::are_zeros;
use crate::page::PageSize;

/// Where the bytes of a run go in an arena of `len` bytes, and how many of them: fewer than there
/// are where the image's last page is larger than what is left of the arena. Then the others are
/// zeros.
pub(super) fn place_of(
    header: &Header,
    run: &Run,
    bytes: Option<&[u8]>,
    len: usize,
) -> Result<Range<usize>> {
    // Below 2^52, as was checked with the header.
    let start = (run.first * header.page_size as u64) as usize;
    let end = (run.end() * header.page_size as u64) as usize;
    let inside = start.min(len)..end.min(len);
    match bytes {
        Some(bytes) if !are_zeros(&bytes[inside.len()..]) => Err(ErrorKind::PageSize {
            image: header.page_size,
            here: PageSize::host().bytes(),
        }
        .into()),
        _ => Ok(inside),
    }
}

/// Stores a run's bytes, or zeros, to where they go.
pub(super) fn put(arena: &mut Arena, place: Range<usize>, bytes: Option<&[u8]>) {
    let page_size = arena.page_size();
    let place = &mut arena[place];
    match bytes {
        Some(bytes) => place.copy_from_slice(&bytes[..place.len()]),
        // What is zeros already stays untouched.
        None => place
            .chunks_mut(page_size)
            .filter(|page| !are_zeros(page))
            .for_each(|page| page.fill(0)),
    }
}
