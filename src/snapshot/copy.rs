//! A snapshot to a file, without a buffer in between.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem;
use std::ops::{Range, RangeBounds};
use std::os::unix::fs::FileExt;

use crate::cow::output::Output;
use crate::cow::supply::Refill;
use crate::page::bytes_within;
use crate::snapshot::Snapshot;
use crate::snapshot::aligned::AlignedPage;
use crate::snapshot::source::Source;
use crate::snapshot::touched::Touched;
use crate::sys::{Piece, file};

/// How many bytes are written and checked at a time: a multiple of every page size.
///
/// With more of them in one call the kernel takes larger pages for the file, which a virtual
/// machine may first have to get from its host (measured: four times the time with 1 MiB). With
/// fewer it makes more calls.
const CHUNK: usize = 256 << 10;

/// How many pages are read at a time for a file that takes no rewriting.
const STREAM_PAGES: usize = 16;

impl Snapshot {
    /// Writes the frozen bytes to a file at its position, as many as
    /// [`requested_len`](Self::requested_len) says, and returns that number. The position moves
    /// behind them.
    ///
    /// The kernel takes the bytes straight from the saved copies and from live memory, so they are
    /// copied once, not twice as with [`reader`](Self::reader). Writers go on meanwhile. A page
    /// that one of them has overwritten while it was written to the file is written there again,
    /// from its copy. So **the file may be read, by anybody, only after the call has returned
    /// `Ok`**.
    ///
    /// Pages that were never touched are zeros. Where the file ended before them they become a
    /// hole, which takes no space. Elsewhere zeros are written over what the file held.
    ///
    /// Files that cannot be written twice, or not at any place, get each byte once, through a
    /// buffer, as by [`reader`](Self::reader): pipes, sockets, devices, and files opened to append
    /// (`O_APPEND`) or for direct access (`O_DIRECT`, where position and length must be multiples
    /// of the block size, as for all such writes).
    ///
    /// ```
    /// use std::io::{Read, Seek};
    /// let mut arena = pagecow::Arena::new(10_000)?;
    /// arena[..5].copy_from_slice(b"hello");
    /// let snapshot = arena.snapshot()?;
    /// arena[..5].copy_from_slice(b"HELLO");
    ///
    /// let mut file = tempfile::tempfile()?;
    /// assert_eq!(snapshot.copy_to(&file)?, 10_000);
    /// file.rewind()?;
    /// let mut saved = Vec::new();
    /// file.read_to_end(&mut saved)?;
    /// assert_eq!(saved.len(), 10_000);
    /// assert_eq!(&saved[..6], b"hello\0");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the system says (no space left, not open for writing, ...), and, inside an
    /// [`io::Error`], [`Error::StoreExhausted`](crate::Error::StoreExhausted) or
    /// [`Error::Engine`](crate::Error::Engine) when the snapshot can no longer be read.
    ///
    /// After an error the range of the file holds nothing of use: any part of it may be as before,
    /// frozen or newer bytes. The position is the one before the call, but for files that get each
    /// byte once: those got the first bytes, up to some point, and exactly these.
    pub fn copy_to(&self, file: &File) -> io::Result<u64> {
        self.copy_range_to(..self.requested_len(), file)
    }

    /// As [`copy_to`](Self::copy_to), for a range of the frozen bytes, up to [`len`](Self::len)
    /// where it has no end. The first byte of the range is written at the file's position. So a
    /// program can save in pieces, and look at other things in between; pieces of 256 KiB cost
    /// hardly more than all at once.
    ///
    /// ```
    /// let arena = pagecow::Arena::new(10 << 20)?;
    /// let snapshot = arena.snapshot()?;
    /// let file = tempfile::tempfile()?;
    /// let len = snapshot.requested_len();
    /// for start in (0..len).step_by(1 << 20) {
    ///     // Here the program tells how far it is.
    ///     snapshot.copy_range_to(start..len.min(start + (1 << 20)), &file)?;
    /// }
    /// assert_eq!(file.metadata()?.len(), 10 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As `copy_to`, and [`Error::OutOfBounds`](crate::Error::OutOfBounds) (as
    /// [`io::ErrorKind::InvalidInput`]) when the range is not inside the arena; then nothing was
    /// written.
    pub fn copy_range_to(&self, range: impl RangeBounds<usize>, file: &File) -> io::Result<u64> {
        let range = bytes_within(&range, self.len())?;
        if range.is_empty() {
            return Ok(0);
        }
        match Target::of(&range, file)? {
            Some(place) => place.fill(self, &range)?,
            None => self.stream_to(&range, file)?,
        }
        Ok(range.len() as u64)
    }

    /// What the last copy found to be touched, which stays true. Asking the kernel each time would
    /// wait for its lock of all mappings, which writers that fault hold with mprotect.
    fn take_touched(&self) -> Touched {
        let kept = self.held.touched.try_lock();
        kept.map_or_else(|_| Touched::default(), |mut kept| mem::take(&mut *kept))
    }

    fn keep_touched(&self, touched: Touched) {
        if let Ok(mut kept) = self.held.touched.try_lock() {
            *kept = touched;
        }
    }

    /// Each byte once, in order.
    fn stream_to(&self, range: &Range<usize>, mut file: &File) -> io::Result<()> {
        let mut reader = self.reader();
        reader.seek(SeekFrom::Start(range.start as u64))?;
        // At a multiple of its size, which direct access asks for.
        let mut buffer = AlignedPage::zeroed(STREAM_PAGES * self.page_size());
        let mut left = range.len();
        while left > 0 {
            let some = left.min(buffer.len());
            let some = &mut buffer[..some];
            reader.read_exact(some)?;
            file.write_all(some)?;
            left -= some.len();
        }
        Ok(())
    }
}

/// The place of a range in a file that can be written at any place, and twice.
struct Target<'a> {
    file: &'a File,
    /// The first byte of the range, in the snapshot.
    start: usize,
    /// The same in the file, and one past the last.
    position: u64,
    end: u64,
    /// Where the file ended: what was not written from there on is zeros.
    file_end: u64,
}

impl<'a> Target<'a> {
    /// `None` when the file is not of that kind.
    fn of(range: &Range<usize>, mut file: &'a File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        let once = libc::O_APPEND | libc::O_DIRECT;
        if !metadata.is_file() || file::flags(file)? & once != 0 {
            return Ok(None);
        }
        let position = match file.stream_position() {
            Ok(position) => position,
            Err(error) if error.raw_os_error() == Some(libc::ESPIPE) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Self {
            file,
            start: range.start,
            position,
            end: position.saturating_add(range.len() as u64),
            file_end: metadata.len(),
        }))
    }

    fn fill(mut self, snapshot: &Snapshot, range: &Range<usize>) -> io::Result<()> {
        let core = snapshot.core();
        let page_size = core.page_size();
        let offset_of = |page: usize| page * page_size.bytes();
        let mut touched = snapshot.take_touched();
        let mut refill = Refill::default();
        let mut at = range.start;
        while at < range.end {
            let page = page_size.page_of(at).get();
            let most = range.end.min(offset_of(page).saturating_add(CHUNK));
            let run = touched.next_from(snapshot, page);
            let end = match run {
                Some(run) if run.start == page => {
                    let end = most.min(offset_of(run.end));
                    match snapshot.source() {
                        Source::Copies(live) => {
                            core.write_out(live, &(at..end), &mut self)?;
                            refill.after((end - at) / page_size.bytes(), core);
                        }
                        Source::Frozen { frozen, .. } => {
                            let place = self.place_of(at);
                            self.file.write_all_at(&frozen[at..end], place)?;
                        }
                    }
                    end
                }
                zeros_up_to => {
                    snapshot.check()?;
                    let end = zeros_up_to.map_or(range.end, |run| offset_of(run.start));
                    self.zeros(at, end.min(range.end))?
                }
            };
            at = end;
        }
        snapshot.keep_touched(touched);
        self.end()
    }

    /// Makes the bytes from `at` up to `end`, or some of them, zeros; returns how far it went.
    fn zeros(&self, at: usize, end: usize) -> io::Result<usize> {
        let place = self.place_of(at);
        let written = self.file_end.saturating_sub(place);
        if written == 0 {
            return Ok(end);
        }
        let len = written.min((end - at).min(CHUNK) as u64) as usize;
        file::write_zeros_at(self.file, place, len)?;
        Ok(at + len)
    }

    fn place_of(&self, at: usize) -> u64 {
        self.position.saturating_add((at - self.start) as u64)
    }

    /// Makes the file as long as it must be, and moves its position behind the range.
    fn end(mut self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.end {
            self.file.set_len(self.end)?;
        }
        self.file.seek(SeekFrom::Start(self.end))?;
        Ok(())
    }
}

impl Output for Target<'_> {
    fn put(&mut self, at: usize, pieces: &[Piece<'_>]) -> io::Result<()> {
        file::write_all_at(self.file, self.place_of(at), pieces)
    }
}
