//! The arena: live memory that snapshots can be taken of.

#![allow(unsafe_code, reason = "hands out references into mapped memory")]

mod builder;
mod copied;
mod mark;
mod pending;
mod restore;
mod snapshotter;
mod tend;
mod with;
mod writable;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64};

pub use crate::arena::builder::ArenaBuilder;
pub use crate::arena::pending::{Left, Pending};
pub use crate::arena::restore::Restored;
pub use crate::arena::snapshotter::Snapshotter;
pub use crate::arena::writable::Writable;
use crate::cow::core::Core;
use crate::error::Error;
use crate::process::registered::Registered;
use crate::snapshot::Snapshot;
use crate::stats::Stats;

/// Live memory that snapshots can be taken of.
///
/// An arena is a stretch of zero-filled memory with a fixed address, read and written like any
/// other: it derefs to `[u8]`, gives out raw pointers ([`as_mut_ptr`](Self::as_mut_ptr)) and slices
/// of atomics ([`atomic_u64`](Self::atomic_u64)) for writers on several threads. Memory is reserved
/// at once and becomes resident as it is touched.
///
/// ```
/// let mut arena = pagecow::Arena::new(64 << 10)?;
/// arena[..5].copy_from_slice(b"hello");
/// let before = arena.snapshot()?;
/// arena[..5].copy_from_slice(b"HELLO");
///
/// let mut frozen = [0; 5];
/// before.read_at(0, &mut frozen)?;
/// assert_eq!(&frozen, b"hello");
/// assert_eq!(&arena[..5], b"HELLO");
/// assert_eq!(arena.stats().pages_saved, 1);
/// # Ok::<(), pagecow::Error>(())
/// ```
///
/// Dropping the arena leaves its snapshots readable; the memory is unmapped when the last of them
/// goes.
pub struct Arena {
    registered: Arc<Registered>,
}

impl Arena {
    /// An arena of `len` bytes, rounded up to whole pages, zero-filled.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] for no bytes or absurdly many, [`Error::Window`] for a
    /// [`Window`](crate::Window) that makes no sense, [`Error::Engine`] when the system lacks the
    /// [`Engine`](crate::Engine), [`Error::Reserve`] when the system has not the address space,
    /// [`Error::Install`] when the fault handler cannot be installed.
    pub fn new(len: usize) -> Result<Self, Error> {
        Self::builder().build(len)
    }

    /// Length in bytes: whole pages, so at least [`requested_len`](Self::requested_len).
    #[expect(clippy::len_without_is_empty, reason = "an arena is never empty")]
    pub fn len(&self) -> usize {
        self.core().memory().len()
    }

    /// The length that was asked for, in bytes; [`len`](Self::len) is that, rounded up to whole
    /// pages.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(10_000)?;
    /// assert_eq!(arena.requested_len(), 10_000);
    /// assert_eq!(arena.len(), 10_000_usize.next_multiple_of(arena.page_size()));
    /// let asked = ..arena.requested_len();
    /// arena[asked].fill(1);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn requested_len(&self) -> usize {
        self.registered.requested_len()
    }

    /// Size of a page in bytes, as the system has it: 4096 on x86-64.
    pub fn page_size(&self) -> usize {
        self.core().page_size().bytes()
    }

    /// Length in pages.
    pub fn page_count(&self) -> usize {
        self.core().pages().get()
    }

    /// The address of the first byte, for reading. The same for the arena's whole life.
    pub fn as_ptr(&self) -> *const u8 {
        self.core().memory().as_ptr()
    }

    /// The address of the first byte, for writing: through it several threads may write at once, as
    /// far as the language allows (no two unsynchronised accesses to the same bytes unless atomic,
    /// and no `&arena[..]` or `&mut arena[..]` alive meanwhile).
    ///
    /// Stores through this pointer are what a snapshot taken by another thread is exact about; see
    /// [`docs/soundness.md`](crate::docs::soundness) for `&mut` borrows that live across a
    /// snapshot.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.core().memory().as_mut_ptr()
    }

    /// Freezes the arena's bytes as they are now.
    ///
    /// Takes write permission from what was written since the last snapshot, most of it ahead of
    /// time and in slices, while writers on other threads run; then stops those that store for
    /// about a tenth of a millisecond. After that the first write to each page faults once and
    /// saves the page. The call takes about 20 ms per GiB of resident memory that was written
    /// since, and one to three microseconds for each separate run of written pages and for each
    /// page copied since; more with busy writers. A program whose writing thread takes the
    /// snapshots itself is better off with [`prepare`](Self::prepare), and one whose data is whole
    /// under a lock with [`snapshot_with`](Self::snapshot_with).
    ///
    /// # Errors
    ///
    /// [`Error::HandlerReplaced`] or [`Error::SignalMasked`] when a write would not reach our
    /// handler; [`Error::Engine`] when somebody has closed the engine's file descriptor;
    /// [`Error::GuardHeld`] when the calling thread holds a guard of another arena;
    /// [`Error::Reserve`] and [`Error::Protect`] when the system refuses. In each case nothing is
    /// armed and nothing lost.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        self.core().end_leaked_guards();
        pending::take_snapshot(&self.registered)
    }

    /// The arena as a slice of atomic bytes, for writers on several threads.
    ///
    /// ```
    /// use std::sync::atomic::Ordering::Relaxed;
    /// let mut arena = pagecow::Arena::new(4096)?;
    /// let bytes = arena.atomic_u8();
    /// std::thread::scope(|scope| {
    ///     for thread in 0..4 {
    ///         scope.spawn(move || bytes[thread].store(1, Relaxed));
    ///     }
    /// });
    /// assert_eq!(&arena[..5], [1, 1, 1, 1, 0]);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn atomic_u8(&mut self) -> &[AtomicU8] {
        // SAFETY: the arena's memory, for as long as it is borrowed; exclusively borrowed, so that
        // no plain reference to it lives; any byte is a valid atomic byte.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len()) }
    }

    /// The arena as a slice of atomic 64-bit words (native byte order), for writers on several
    /// threads.
    pub fn atomic_u64(&mut self) -> &[AtomicU64] {
        // SAFETY: as above; pages are aligned to more than 8 bytes and of a multiple of 8.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() / 8) }
    }

    /// Makes the whole arena writable, when no snapshot lives; returns whether that was so. While
    /// one does it does nothing.
    ///
    /// When the last snapshot goes, pages stay armed until they are written: stores to them still
    /// fault, and system calls that write into them, such as `read(2)` and `recv(2)`, still fail
    /// with `EFAULT`. After this call neither happens, until the next snapshot is taken (in a child
    /// of `fork()` with [`Engine::Userfaultfd`](crate::Engine::Userfaultfd): until the fork). It is
    /// one system call, which takes longer the more pages are resident.
    ///
    /// The next snapshot arms all of the arena's pages, since all are open: about 20 ms per
    /// resident GiB.
    ///
    /// ```
    /// let arena = pagecow::Arena::new(1 << 20)?;
    /// let snapshot = arena.snapshot()?;
    /// assert!(!arena.open_all()?);
    /// drop(snapshot);
    /// assert!(arena.open_all()?);
    /// // read(2), recv(2), ... work on any page.
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Protect`] when the system refuses: some pages may be as they were, and nothing is
    /// lost.
    pub fn open_all(&self) -> Result<bool, Error> {
        match self.registered.remap() {
            Some(remapped) => remapped.open_all(self.core()),
            None => self.core().open_all(),
        }
    }

    fn core(&self) -> &Core {
        self.registered.core()
    }

    /// What the snapshots of this arena have cost so far.
    pub fn stats(&self) -> Stats {
        self.registered.stats()
    }

    /// Compares page words, dirty set, copies and real page protection with each other: `Err` says
    /// what does not agree. For tests, with no writer running. Walks all pages.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> Result<(), String> {
        match self.registered.remap() {
            Some(remapped) => remapped.check_invariants(self.core()),
            None => self.core().check_invariants(),
        }
    }
}

impl Deref for Arena {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped, readable and initialised for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively borrowed. Snapshots read the same memory, by volatile
        // loads whose result counts only if nobody wrote meanwhile (docs/soundness.md).
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.core().end_leaked_guards();
        self.registered.abandon();
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena")
            .field("address", &self.as_ptr())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
