//! What an image says of itself.

use crate::image::format::{End, Header};
use crate::image::id::Id;

/// What an image says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// Which snapshot it holds.
    pub id: Id,
    /// Which it applies to, for a delta; `None` for a full image.
    pub parent: Option<Id>,
    /// The length that was asked for when the arena was made, in bytes.
    pub requested_len: u64,
    /// Size of its pages, in bytes.
    pub page_size: usize,
    /// How many pages are in it: for a full image those that are not zeros, for a delta those that
    /// changed.
    pub pages: u64,
    /// Length of the image itself, in bytes.
    pub bytes: u64,
}

impl Info {
    pub(super) fn new(header: &Header, end: &End, bytes: u64) -> Self {
        Self {
            id: header.id,
            parent: header.parent,
            requested_len: header.requested_len,
            page_size: header.page_size,
            pages: end.pages,
            bytes,
        }
    }
}
