//! The arena: live memory that snapshots can be taken of.

#![allow(unsafe_code, reason = "hands out references into mapped memory")]

pub(crate) mod pending;

use std::io::{self, Read};
use std::ops::{Bound, Deref, DerefMut, Range, RangeBounds};
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Weak};

use crate::arena::pending::{Pending, take_snapshot};
use crate::cow::core::Core;
use crate::error::Error;
use crate::options::{Engine, Options, Window};
use crate::process::registered::Registered;
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::sys;

/// Live memory that snapshots can be taken of.
///
/// An arena is a stretch of zero-filled memory with a fixed address, read and written like any other:
/// it derefs to `[u8]`, gives out raw pointers ([`as_mut_ptr`](Self::as_mut_ptr)) and slices of atomics
/// ([`atomic_u64`](Self::atomic_u64)) for writers on several threads. Memory is reserved at once and
/// becomes resident as it is touched.
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
/// Dropping the arena leaves its snapshots readable; the memory is unmapped when the last of them goes.
pub struct Arena {
    registered: Arc<Registered>,
}

/// Options for a new [`Arena`].
///
/// ```
/// let arena = pagecow::Arena::builder()
///     .store_limit(16 << 20)
///     .build(256 << 20)?;
/// # Ok::<(), pagecow::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ArenaBuilder {
    options: Options,
}

/// Takes snapshots of an arena from another thread than the one that writes.
///
/// Cheap to clone and to send. Does not keep the arena alive.
///
/// ```
/// let mut arena = pagecow::Arena::new(1 << 20)?;
/// let snapshotter = arena.snapshotter();
/// let saver = std::thread::spawn(move || snapshotter.snapshot());
/// arena[0] = 1;
/// let snapshot = saver.join().unwrap()?;
/// # Ok::<(), pagecow::Error>(())
/// ```
#[derive(Clone)]
pub struct Snapshotter {
    registered: Weak<Registered>,
}

/// Part of an arena that stays writable, without faults, for as long as this guard lives.
///
/// Made by [`Arena::writable`]. Derefs to `[u8]`, so that system calls may write into it. It has to be
/// dropped on the thread that made it. No snapshot of the arena is taken while it lives. One that is
/// leaked (`mem::forget`) ends when the arena itself is next asked for a snapshot or a guard, or is
/// dropped; until then snapshots by a [`Snapshotter`] wait, and fail with [`Error::GuardHeld`] on the
/// thread that leaked it.
pub struct Writable<'a> {
    arena: &'a mut Arena,
    range: Range<usize>,
    /// Guards are counted per thread.
    _not_send: std::marker::PhantomData<*mut ()>,
}

impl Arena {
    /// An arena of `len` bytes, rounded up to whole pages, zero-filled.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] for no bytes or absurdly many, [`Error::Window`] for a [`Window`] that makes
    /// no sense, [`Error::Engine`] when the system lacks the [`Engine`], [`Error::Reserve`] when
    /// the system has not the address space, [`Error::Install`] when the fault handler cannot be
    /// installed.
    pub fn new(len: usize) -> Result<Self, Error> {
        Self::builder().build(len)
    }

    /// Options for a new arena.
    pub fn builder() -> ArenaBuilder {
        ArenaBuilder {
            options: Options::default(),
        }
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
        self.core().pages()
    }

    /// The address of the first byte, for reading. The same for the arena's whole life.
    pub fn as_ptr(&self) -> *const u8 {
        self.core().memory().as_ptr()
    }

    /// The address of the first byte, for writing: through it several threads may write at once, as far
    /// as the language allows (no two unsynchronised accesses to the same bytes unless atomic, and no
    /// `&arena[..]` or `&mut arena[..]` alive meanwhile).
    ///
    /// Stores through this pointer are what a snapshot taken by another thread is exact about; see
    /// [`docs/soundness.md`](crate::docs::soundness) for `&mut` borrows that live across a
    /// snapshot.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.core().memory().as_mut_ptr()
    }

    /// Freezes the arena's bytes as they are now.
    ///
    /// Takes write permission from what was written since the last snapshot, most of it ahead of time and
    /// in slices, while writers on other threads run; then stops those that store for about a tenth of a
    /// millisecond. After that the first write to each page faults once and saves the page. The call takes
    /// about 20 ms per GiB of resident memory that was written since, and one to three microseconds for each
    /// separate run of written pages and for each page copied since; more with busy writers. A program
    /// whose writing thread takes the snapshots itself is better off with [`prepare`](Self::prepare).
    ///
    /// # Errors
    ///
    /// [`Error::HandlerReplaced`] or [`Error::SignalMasked`] when a write would not reach our handler;
    /// [`Error::Engine`] when somebody has closed the engine's file descriptor;
    /// [`Error::GuardHeld`] when the calling thread holds a guard of another arena; [`Error::Reserve`] and
    /// [`Error::Protect`] when the system refuses. In each case nothing is armed and nothing lost.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        self.core().end_guard();
        take_snapshot(&self.registered)
    }

    /// Begins a snapshot that is committed later: [`Pending::step`] does what takes long, in pieces,
    /// and [`Pending::commit`] freezes the bytes as they are then. Nothing is armed by this call.
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn prepare(&self) -> Result<Pending, Error> {
        self.core().end_guard();
        Pending::new(&self.registered)
    }

    /// A handle with which another thread may take snapshots while this one writes. Get it before
    /// [`atomic_u64`](Self::atomic_u64), which borrows the arena for as long as the atomics are used:
    ///
    /// ```
    /// use std::sync::atomic::Ordering::Relaxed;
    /// let mut arena = pagecow::Arena::new(1 << 20)?;
    /// let snapshotter = arena.snapshotter();
    /// let words = arena.atomic_u64();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| words[0].fetch_add(1, Relaxed));
    ///     scope.spawn(|| words[1].fetch_add(1, Relaxed));
    ///     snapshotter.snapshot().map(drop)
    /// })?;
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn snapshotter(&self) -> Snapshotter {
        Snapshotter {
            registered: Arc::downgrade(&self.registered),
        }
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
        // SAFETY: the arena's memory, for as long as it is borrowed; exclusively borrowed, so that no
        // plain reference to it lives; any byte is a valid atomic byte.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len()) }
    }

    /// The arena as a slice of atomic 64-bit words (native byte order), for writers on several threads.
    pub fn atomic_u64(&mut self) -> &[AtomicU64] {
        // SAFETY: as above; pages are aligned to more than 8 bytes and of a multiple of 8.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() / 8) }
    }

    /// Keeps a range of bytes writable, for system calls that write into memory.
    ///
    /// The kernel does not fault for its own writes: `read(2)` into a page that a snapshot has
    /// armed fails with `EFAULT`, or returns short; a `recv` of a datagram into one fails and the
    /// datagram is lost. That goes on after the last snapshot is gone, until the page is written or
    /// [`open_all`](Self::open_all) is called. The pages of the range are saved as far as live
    /// snapshots need them, and stay writable while the guard lives. No snapshot commits meanwhile:
    /// a thread that takes one waits for the guard to go.
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
        let range = checked_range(&range, self.len())?;
        if let Some(pages) = self.core().page_size().pages_of(&range) {
            self.core().begin_guard(pages);
        }
        Ok(Writable {
            arena: self,
            range,
            _not_send: std::marker::PhantomData,
        })
    }

    /// Fills a range of bytes from `source`, until the range is full or the source has no more; returns
    /// how many bytes arrived. Works for armed pages, where a system call that reads into a plain slice fails.
    ///
    /// Goes through a buffer of 256 KiB and a [`writable`](Self::writable) guard for what has arrived in it:
    /// saves the pages that bytes arrive for and no others, and keeps no snapshot waiting while the
    /// source does.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`] (as [`io::ErrorKind::InvalidInput`]), and what `source` says; what arrived
    /// before that stays.
    pub fn read_from(
        &mut self,
        range: impl RangeBounds<usize>,
        mut source: impl Read,
    ) -> io::Result<usize> {
        let range = checked_range(&range, self.len())?;
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

    /// Makes the whole arena writable, when no snapshot lives; returns whether that was so. While
    /// one does it does nothing.
    ///
    /// When the last snapshot goes, pages stay armed until they are written: stores to them still
    /// fault, and system calls that write into them, such as `read(2)` and `recv(2)`, still fail
    /// with `EFAULT`. After this call neither happens, until the next snapshot is taken (in a child
    /// of `fork()` with [`Engine::Userfaultfd`]: until the fork). It is one system call, which
    /// takes longer the more pages are resident.
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
        self.core().open_all()
    }

    fn core(&self) -> &Core {
        self.registered.core()
    }

    /// What the snapshots of this arena have cost so far.
    pub fn stats(&self) -> Stats {
        stats_of(&self.registered)
    }

    /// Compares page words, dirty set, copies and real page protection with each other: `Err` says
    /// what does not agree. For tests, with no writer running. Walks all pages.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> Result<(), String> {
        self.core().check_invariants()
    }
}

impl ArenaBuilder {
    /// The most bytes that saved pages may take, rounded down to whole pages (default: no limit). No more
    /// address space is reserved for them either; without a limit that is two to four times the arena's, or
    /// more where several snapshots live long. A
    /// snapshot that has failed keeps its copies until it is dropped. When a write needs a copy and
    /// none can be made, the snapshots that need it fail ([`Error::StoreExhausted`]) and the
    /// writer goes on.
    pub fn store_limit(mut self, bytes: usize) -> Self {
        self.options.store_limit = bytes;
        self
    }

    /// How many neighbours a first write saves along with its page (default: [`Window::default`],
    /// with at most 4 copies made per page written, all copies counted). A store whose limit could
    /// not hold all pages of the arena besides older snapshots' gets no copies ahead, since they
    /// might take a frame that a write needs. Copies ahead for one snapshot can leave too few for
    /// the next while both live: with several at once, ask for the arena's size for each, or for
    /// [`Window::Page`].
    pub fn window(mut self, window: Window) -> Self {
        self.options.window = window;
        self
    }

    /// How write permission is taken and given (default: [`Engine::Mprotect`]).
    pub fn engine(mut self, engine: Engine) -> Self {
        self.options.engine = engine;
        self
    }

    /// Whether the system is asked for huge pages, 2 MiB on x86-64 (default: no). Taking a snapshot
    /// then takes a twentieth of the time or less, and pages of a huge page of which none was
    /// written stay one; the first write to a page after a snapshot splits its huge page, for good.
    /// Has no effect where the system has no transparent huge pages
    /// (`/sys/kernel/mm/transparent_hugepage/enabled` says "never").
    pub fn huge_pages(mut self, huge_pages: bool) -> Self {
        self.options.huge_pages = huge_pages;
        self
    }

    /// An arena of `len` bytes, rounded up to whole pages, zero-filled.
    ///
    /// # Errors
    ///
    /// As [`Arena::new`].
    pub fn build(self, len: usize) -> Result<Arena, Error> {
        Ok(Arena {
            registered: Registered::new(len, &self.options)?,
        })
    }
}

impl Snapshotter {
    /// Freezes the arena's bytes as they are now; as [`Arena::snapshot`]. Waits while a
    /// [`writable`](Arena::writable) guard lives in another thread.
    ///
    /// # Errors
    ///
    /// As [`Arena::snapshot`], [`Error::GuardHeld`] also for a guard of this arena, and
    /// [`Error::ArenaDropped`].
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        take_snapshot(&self.registered()?)
    }

    /// What the snapshots of the arena have cost so far.
    ///
    /// # Errors
    ///
    /// [`Error::ArenaDropped`].
    pub fn stats(&self) -> Result<Stats, Error> {
        let registered = self.registered()?;
        Ok(stats_of(&registered))
    }

    /// Begins a snapshot that is committed later; as [`Arena::prepare`].
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn prepare(&self) -> Result<Pending, Error> {
        Pending::new(&self.registered()?)
    }

    fn registered(&self) -> Result<Arc<Registered>, Error> {
        pending::upgrade(&self.registered)
    }
}

fn stats_of(registered: &Registered) -> Stats {
    registered.core().stats(sys::signal::forwarded())
}

/// The bytes that a range means in an arena of `len` bytes.
fn checked_range(range: &impl RangeBounds<usize>, len: usize) -> Result<Range<usize>, Error> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    if start > end || end > len {
        return Err(Error::OutOfBounds { start, end, len });
    }
    Ok(start..end)
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
        self.core().end_guard();
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

impl std::fmt::Debug for Snapshotter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshotter").finish_non_exhaustive()
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
        let range = self.range.clone();
        &mut self.arena[range]
    }
}

impl Drop for Writable<'_> {
    fn drop(&mut self) {
        if !self.range.is_empty() {
            self.arena.core().end_guard();
        }
    }
}

impl std::fmt::Debug for Writable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writable")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}
