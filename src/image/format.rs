//! The bytes of an image, as `docs/image-format.md` describes them: a header, then records, the
//! last of which is the end. All numbers are little-endian.

use crate::image::error::{Error, ErrorKind, Result};
use crate::image::id::Id;
use crate::page::MAX_PAGES;

pub(super) const MAGIC: [u8; 8] = *b"pagecow\n";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 96;
pub(super) const RECORD: usize = 32;

/// The most bytes of pages that a run may hold: what a reader needs at a time.
pub(super) const MOST_IN_RUN: usize = 1 << 20;

const END: u32 = u32::from_le_bytes(*b"end.");
const PLAIN: u32 = u32::from_le_bytes(*b"page");
const ZEROS: u32 = u32::from_le_bytes(*b"zero");
const ZSTD: u32 = u32::from_le_bytes(*b"zstd");

/// How the bytes of a run are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    /// Not at all: the pages are zeros.
    Zeros,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub page_size: usize,
    pub requested_len: u64,
    pub id: Id,
    /// `None` for a full image.
    pub parent: Option<Id>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Run(Run),
    End(End),
}

/// Pages that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub encoding: Encoding,
    pub first: u64,
    pub pages: u32,
    /// How many bytes follow, and their checksum.
    pub stored: u32,
    pub checksum: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub runs: u64,
    pub pages: u64,
    /// Over the header, all records and the first 24 bytes of this one.
    pub whole: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let parent = self.parent.unwrap_or(Id {
            lineage: 0,
            snapshot: 0,
        });
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.page_size as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.requested_len.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.id.lineage.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.id.snapshot.to_le_bytes());
        bytes[48..64].copy_from_slice(&parent.lineage.to_le_bytes());
        bytes[64..72].copy_from_slice(&parent.snapshot.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self> {
        if bytes[..8] != MAGIC {
            return Err(ErrorKind::NotAnImage.into());
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(ErrorKind::Version { found: version }.into());
        }
        check_seal(bytes, 0, "the header")?;
        let page_size = u32_at(bytes, 12) as usize;
        if !page_size.is_power_of_two() || !(512..=MOST_IN_RUN).contains(&page_size) {
            return Err(damaged(12, format!("pages of {page_size} bytes")));
        }
        let requested_len = u64_at(bytes, 16);
        let pages = requested_len.div_ceil(page_size as u64);
        if pages == 0 || pages > MAX_PAGES as u64 {
            return Err(damaged(16, format!("an arena of {requested_len} bytes")));
        }
        let id = Id {
            lineage: u128_at(bytes, 24),
            snapshot: u64_at(bytes, 40),
        };
        let parent = Id {
            lineage: u128_at(bytes, 48),
            snapshot: u64_at(bytes, 64),
        };
        // What a later version may say there, this one must not pass over.
        if bytes[72..HEADER - 4].iter().any(|byte| *byte != 0) {
            return Err(damaged(72, "something other than zeros".to_owned()));
        }
        Ok(Self {
            page_size,
            requested_len,
            id,
            parent: (parent.snapshot != 0).then_some(parent),
        })
    }

    /// How many pages the arena has.
    pub fn pages(&self) -> u64 {
        self.requested_len.div_ceil(self.page_size as u64)
    }
}

impl Run {
    pub fn encode(&self) -> [u8; RECORD] {
        let tag = match self.encoding {
            Encoding::Plain => PLAIN,
            Encoding::Zeros => ZEROS,
            Encoding::Zstd => ZSTD,
        };
        let mut bytes = [0; RECORD];
        bytes[..4].copy_from_slice(&tag.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.pages.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.first.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.stored.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.checksum.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// One past its last page.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(u64::from(self.pages))
    }

    /// The record is that of a run in an image with this header, of which the pages below `from`
    /// are over. It stands at byte `at`.
    pub fn check(&self, header: &Header, from: u64, at: u64) -> Result<()> {
        let end = self.end();
        if self.pages == 0 || self.first < from || end > header.pages() {
            let what = format!(
                "a run of pages {}..{end}, where those from {from} up to {} are left",
                self.first,
                header.pages()
            );
            return Err(damaged(at + 4, what));
        }
        let bytes = u64::from(self.pages) * header.page_size as u64;
        let stored = u64::from(self.stored);
        let fits = match self.encoding {
            Encoding::Plain => stored == bytes && bytes <= MOST_IN_RUN as u64,
            Encoding::Zstd => stored > 0 && stored < bytes && bytes <= MOST_IN_RUN as u64,
            Encoding::Zeros => stored == 0 && header.parent.is_some(),
        };
        if !fits {
            let what = format!(
                "a run of {bytes} bytes that are kept as {stored} ({:?})",
                self.encoding
            );
            return Err(damaged(at + 16, what));
        }
        Ok(())
    }
}

impl End {
    pub fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..4].copy_from_slice(&END.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.runs.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.pages.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.whole.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// As it is with a checksum over `before`, what came before it, and its own first bytes.
    pub fn with_whole(mut self, before: u32) -> Self {
        self.whole = crc32c::crc32c_append(before, &self.encode()[..24]);
        self
    }
}

impl Record {
    /// The record that stands at byte `at`.
    pub fn decode(bytes: &[u8; RECORD], at: u64) -> Result<Self> {
        check_seal(bytes, at, "a record")?;
        let encoding = match u32_at(bytes, 0) {
            PLAIN => Encoding::Plain,
            ZEROS => Encoding::Zeros,
            ZSTD => Encoding::Zstd,
            END => {
                return Ok(Self::End(End {
                    runs: u64_at(bytes, 8),
                    pages: u64_at(bytes, 16),
                    whole: u32_at(bytes, 24),
                }));
            }
            other => {
                return Err(damaged(
                    at,
                    format!("a record of the unknown kind {other:#x}"),
                ));
            }
        };
        Ok(Self::Run(Run {
            encoding,
            pages: u32_at(bytes, 4),
            first: u64_at(bytes, 8),
            stored: u32_at(bytes, 16),
            checksum: u32_at(bytes, 20),
        }))
    }
}

pub(super) fn damaged(at: u64, what: String) -> Error {
    ErrorKind::Damaged { at, what }.into()
}

/// What the checksum of the whole is over, of the header or of the record of a run: all but its own
/// checksum. Bytes with their own CRC behind them change a CRC over more by the same, whatever they
/// are, so that it would not tell one run from another.
pub(super) fn summed(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() - 4]
}

/// The last four bytes are a checksum of those before.
fn seal(bytes: &mut [u8]) {
    let (before, seal) = bytes.split_at_mut(bytes.len() - 4);
    seal.copy_from_slice(&crc32c::crc32c(before).to_le_bytes());
}

fn check_seal(bytes: &[u8], at: u64, what: &str) -> Result<()> {
    let before = summed(bytes);
    if crc32c::crc32c(before) == u32_at(bytes, before.len()) {
        return Ok(());
    }
    Err(damaged(
        at,
        format!("{what} that does not match its checksum"),
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}
