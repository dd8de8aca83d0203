//! Where an image is written to, and what is written of it so far.

use std::io::{self, IoSlice, Write};

use crate::image::error::{Result, io};
use crate::image::format::{Encoding, End, HEADER, Header, RECORD, Run, summed};
use crate::image::info::Info;

/// A run as it is written: its record, and the bytes behind it.
pub(super) struct Stored<B> {
    pub run: Run,
    pub bytes: B,
}

impl<B: AsRef<[u8]>> Stored<B> {
    /// These bytes, as they are kept.
    pub fn new(encoding: Encoding, first: usize, pages: usize, bytes: B) -> Self {
        let stored = bytes.as_ref();
        let run = Run {
            encoding,
            first: first as u64,
            pages: pages as u32,
            stored: stored.len() as u32,
            checksum: crc32c::crc32c(stored),
        };
        Self { run, bytes }
    }
}

pub(super) struct Sink<W> {
    to: W,
    header: Header,
    written: u64,
    /// A checksum over all but the bytes of pages, whose own checksums are in it.
    whole: u32,
    runs: u64,
    pages: u64,
}

impl<W: Write> Sink<W> {
    pub fn new(to: W, header: Header) -> Result<Self> {
        let mut sink = Self {
            to,
            header,
            written: 0,
            whole: 0,
            runs: 0,
            pages: 0,
        };
        let header: [u8; HEADER] = header.encode();
        sink.whole = crc32c::crc32c(summed(&header));
        sink.write(&mut [IoSlice::new(&header)])?;
        Ok(sink)
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes these runs, by as few calls as may be.
    pub fn put<B: AsRef<[u8]>>(&mut self, stored: &[Stored<B>]) -> Result<()> {
        let records: Vec<[u8; RECORD]> = stored.iter().map(|one| one.run.encode()).collect();
        let mut slices = Vec::with_capacity(2 * stored.len());
        for (record, Stored { run, bytes }) in records.iter().zip(stored) {
            self.whole = crc32c::crc32c_append(self.whole, summed(record));
            self.runs += 1;
            self.pages += u64::from(run.pages);
            slices.push(IoSlice::new(record));
            slices.push(IoSlice::new(bytes.as_ref()));
        }
        self.write(&mut slices)
    }

    /// Writes the end.
    pub fn end(mut self) -> Result<Info> {
        let end = End {
            runs: self.runs,
            pages: self.pages,
            whole: 0,
        };
        let end = end.with_whole(self.whole);
        self.write(&mut [IoSlice::new(&end.encode())])?;
        self.to.flush().map_err(io("write the image"))?;
        Ok(Info::new(&self.header, &end, self.written))
    }

    fn write(&mut self, slices: &mut [IoSlice<'_>]) -> Result<()> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        write_all(&mut self.to, slices).map_err(io("write the image"))?;
        self.written += len as u64;
        Ok(())
    }
}

fn write_all(to: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Leaves out those that are empty, at the beginning.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match to.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
