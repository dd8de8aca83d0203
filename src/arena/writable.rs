//! A range of an arena that is kept writable, for system calls.

#![allow(unsafe_code, reason = "hands out references into mapped memory")]

use std::io::{self, Read};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range, RangeBounds};

use crate::arena::Arena;
use crate::cow::guard::Token;
use crate::error::Error;
use crate::page::bytes_within;

/// Part of an arena that stays writable, without faults, for as long as this guard lives.
///
/// Made by [`Arena::writable`]. Derefs to `[u8]`, so that system calls may write into it. It has to
/// be dropped on the thread that made it. No snapshot of the arena is taken while it lives. One
/// that is leaked (`mem::forget`) ends when the arena itself is next asked for a snapshot or a
/// guard, or is dropped; until then snapshots by a [`Snapshotter`](crate::Snapshotter) wait, and
/// fail with [`Error::GuardHeld`] on the thread that leaked it.
pub struct Writable<'a> {
    arena: &'a Arena,
    range: Range<usize>,
    /// None for an empty range.
    _guard: Option<Token<'a>>,
    /// It is the only way to the arena's bytes.
    _exclusive: PhantomData<&'a mut Arena>,
}

impl Arena {
    /// Keeps a range of bytes writable, for system calls that write into memory.
    ///
    /// The kernel does not fault for its own writes: `read(2)` into a page that a snapshot has
    /// armed fails with `EFAULT`, or returns short; a `recv` of a datagram into one fails and the
    /// datagram is lost. That goes on after the last snapshot is gone, until the page is written or
    /// [`open_all`](Self::open_all) is called. The pages of the range are saved as far as live
    /// snapshots need them, and stay writable while the guard lives. No snapshot commits meanwhile:
    /// a thread that takes one waits for the guard to go. In turn this call waits for a
    /// [`snapshot`](Self::snapshot) that is under way, some 20 ms per GiB that was written; of a
    /// [`Pending::step`](crate::Pending::step) it waits for a slice, a fraction of a millisecond.
    ///
    /// ```
    /// use std::io::Read;
    /// # let file = tempfile::tempfile()?;
    /// # file.set_len(5000)?;
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// let snapshot = arena.snapshot()?;
    /// let mut part = arena.writable(100..5000)?;
    /// (&file).read_exact(&mut part)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`]. With the store used up the snapshots fail, not this call.
    pub fn writable(&mut self, range: impl RangeBounds<usize>) -> Result<Writable<'_>, Error> {
        let range = bytes_within(&range, self.len())?;
        let core = self.core();
        core.end_leaked_guards();
        let pages = core.page_size().pages_of(&range);
        Ok(Writable {
            arena: self,
            range,
            _guard: pages.map(|pages| core.begin_guard(pages)),
            _exclusive: PhantomData,
        })
    }

    /// Fills a range of bytes from `source`, until the range is full or the source has no more;
    /// returns how many bytes arrived. Works for armed pages, where a system call that reads into a
    /// plain slice fails.
    ///
    /// Goes through a buffer of 256 KiB and a [`writable`](Self::writable) guard for what has
    /// arrived in it: saves the pages that bytes arrive for and no others, and keeps no snapshot
    /// waiting while the source does.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] (as [`io::ErrorKind::InvalidInput`]), and what `source` says; what
    /// arrived before that stays.
    pub fn read_from(
        &mut self,
        range: impl RangeBounds<usize>,
        mut source: impl Read,
    ) -> io::Result<usize> {
        let range = bytes_within(&range, self.len())?;
        let mut buffer = vec![0; range.len().min(256 << 10)];
        let mut at = range.start;
        while at < range.end {
            let room = buffer.len().min(range.end - at);
            match source.read(&mut buffer[..room]) {
                Ok(0) => break,
                Ok(read) => {
                    self.writable(at..at + read)?
                        .copy_from_slice(&buffer[..read]);
                    at += read;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(at - range.start)
    }
}

impl Deref for Writable<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.arena[self.range.clone()]
    }
}

impl DerefMut for Writable<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.arena.as_mut_ptr().wrapping_add(self.range.start);
        // SAFETY: a range inside the arena, which is mapped and initialised, and which was borrowed
        // exclusively for as long as `self` lives. As for a whole arena, snapshots read the same
        // memory.
        unsafe { std::slice::from_raw_parts_mut(start, self.range.len()) }
    }
}

impl std::fmt::Debug for Writable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writable")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}
