//! A snapshot as a stream of bytes.

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use crate::cow::supply::Refill;
use crate::error::Result;
use crate::snapshot::Snapshot;
use crate::snapshot::touched::Touched;

/// How many pages are read at a time.
const PAGES: usize = 16;

/// The frozen bytes of a snapshot as a stream: [`Read`], [`BufRead`] and [`Seek`].
///
/// Pages that were never touched come as zeros without being looked at, so that they cost no
/// memory.
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
    touched: Touched,
    refill: Refill,
}

impl Snapshot {
    /// The frozen bytes as a stream.
    ///
    /// ```
    /// use std::io::Read;
    /// let mut arena = pagecow::Arena::new(4096)?;
    /// arena[..3].copy_from_slice(b"abc");
    /// let snapshot = arena.snapshot()?;
    /// let mut bytes = Vec::new();
    /// snapshot.reader().take(3).read_to_end(&mut bytes)?;
    /// assert_eq!(bytes, b"abc");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader::new(self.clone())
    }
}

impl SnapshotReader {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self {
            snapshot,
            position: 0,
            buffer: Vec::new(),
            start: 0,
            touched: Touched::default(),
            refill: Refill::default(),
        }
    }

    /// Fills `buf` with the bytes from `offset` on, all of them inside the snapshot.
    fn fill(&mut self, offset: usize, buf: &mut [u8]) -> Result<()> {
        let core = self.snapshot.core();
        let page_size = core.page_size();
        let mut at = offset;
        let mut rest = buf;
        let mut all_saved = true;
        while !rest.is_empty() {
            let page = page_size.page_of(at).get();
            let touched = self.touched.next_from(&self.snapshot, page);
            let zeros_end = touched
                .as_ref()
                .map_or(core.pages().get(), |pages| pages.start);
            let end = match &touched {
                Some(pages) if pages.start == page => pages.end.min(page + PAGES),
                _ => zeros_end,
            };
            let room = (end * page_size.bytes() - at).min(rest.len());
            let (now, later) = rest.split_at_mut(room);
            if zeros_end > page {
                self.snapshot.check()?;
                now.fill(0);
            } else {
                all_saved &= self.snapshot.read_unconfirmed(at, now)?;
                if self.snapshot.frozen().is_none() {
                    self.refill.after(now.len() / page_size.bytes(), core);
                }
            }
            at += now.len();
            rest = later;
        }
        if all_saved {
            return Ok(());
        }
        self.snapshot.confirm()
    }

    fn left(&self) -> usize {
        (self.snapshot.len() as u64).saturating_sub(self.position) as usize
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.start == self.buffer.len() && buf.len() >= self.snapshot.page_size() {
            let count = buf.len().min(self.left());
            self.fill(self.position as usize, &mut buf[..count])?;
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
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(count, 0);
            self.fill(position, &mut buffer)?;
            self.buffer = buffer;
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
