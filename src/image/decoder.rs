//! The bytes of a run, from those that are kept.

use crate::image::error::{ErrorKind, Result};
use crate::image::format::{Encoding, Header, Run};

#[cfg(feature = "zstd")]
use crate::image::format::damaged;

#[derive(Default)]
pub(super) struct Decoder {
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    #[cfg(feature = "zstd")]
    bytes: Vec<u8>,
}

impl Decoder {
    /// The bytes of a run whose record stands at byte `at`; `None` for zeros.
    pub fn bytes<'b>(
        &'b mut self,
        header: &Header,
        run: &Run,
        at: u64,
        stored: &'b [u8],
    ) -> Result<Option<&'b [u8]>> {
        match run.encoding {
            Encoding::Plain => Ok(Some(stored)),
            Encoding::Zeros => Ok(None),
            Encoding::Zstd => self.decompress(header, run, at, stored).map(Some),
        }
    }

    #[cfg(not(feature = "zstd"))]
    #[expect(clippy::unused_self, reason = "used with the feature")]
    fn decompress(&self, _: &Header, _: &Run, at: u64, _: &[u8]) -> Result<&[u8]> {
        Err(ErrorKind::Compressed { at }.into())
    }

    #[cfg(feature = "zstd")]
    fn decompress(&mut self, header: &Header, run: &Run, at: u64, stored: &[u8]) -> Result<&[u8]> {
        let io = |source| ErrorKind::Io {
            doing: "decompress",
            source,
        };
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(io)?),
        };
        // At most `MOST_IN_RUN`, as was checked.
        let len = run.pages as usize * header.page_size;
        self.bytes.resize(len, 0);
        let at = at + crate::image::format::RECORD as u64;
        match zstd.decompress_to_buffer(stored, &mut self.bytes[..]) {
            Ok(got) if got == len => Ok(&self.bytes),
            Ok(got) => Err(damaged(
                at,
                format!("{got} bytes, compressed, instead of {len},"),
            )),
            Err(error) => Err(damaged(
                at,
                format!("pages that do not decompress ({error})"),
            )),
        }
    }
}
