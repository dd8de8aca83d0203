//! A snapshot as a stream of bytes.

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use crate::snapshot::Snapshot;

/// How many pages are read at a time.
const PAGES: usize = 16;

/// The frozen bytes of a snapshot as a stream: [`Read`], [`BufRead`] and [`Seek`].
///
/// Made by [`Snapshot::reader`], which it keeps alive. Reads from a snapshot that has failed return
/// [`Error::StoreExhausted`](crate::Error::StoreExhausted) inside an [`io::Error`].
pub struct SnapshotReader {
    snapshot: Snapshot,
    /// Where the next byte is read from.
    position: u64,
    /// Bytes that were read ahead, of which `start..` are not consumed; the last of them lies just
    /// before byte `buffer_end` of the snapshot.
    buffer: Vec<u8>,
    start: usize,
}

impl SnapshotReader {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            position: 0,
            buffer: Vec::new(),
            start: 0,
        }
    }

    fn left(&self) -> usize {
        (self.snapshot.len() as u64).saturating_sub(self.position) as usize
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.start == self.buffer.len() && buf.len() >= self.snapshot.page_size() {
            let count = buf.len().min(self.left());
            self.snapshot.read_at(
                self.position.min(self.snapshot.len() as u64) as usize,
                &mut buf[..count],
            )?;
            self.position += count as u64;
            return Ok(count);
        }
        let ahead = self.fill_buf()?;
        let count = ahead.len().min(buf.len());
        buf[..count].copy_from_slice(&ahead[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for SnapshotReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.buffer.len() && self.left() > 0 {
            let page = self.snapshot.page_size();
            let position = self.position as usize;
            // Up to a page border, so that later reads are of whole pages.
            let count = (PAGES * page - position % page).min(self.left());
            self.start = 0;
            self.buffer.resize(count, 0);
            if let Err(error) = self.snapshot.read_at(position, &mut self.buffer) {
                self.buffer.clear();
                return Err(error.into());
            }
        }
        Ok(&self.buffer[self.start..])
    }

    fn consume(&mut self, amount: usize) {
        let amount = amount.min(self.buffer.len() - self.start);
        self.start += amount;
        self.position += amount as u64;
    }
}

impl Seek for SnapshotReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(by) => (self.snapshot.len() as u64).checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        let target = target.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "cannot seek to before the snapshot's first byte",
            )
        })?;
        self.buffer.clear();
        self.start = 0;
        self.position = target;
        Ok(target)
    }
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader")
            .field("snapshot", &self.snapshot.id())
            .field("position", &self.position)
            .field("len", &self.snapshot.len())
            .finish_non_exhaustive()
    }
}
