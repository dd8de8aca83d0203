//! Options of a new arena.

use std::time::Duration;

use crate::arena::Arena;
use crate::error::Error;
use crate::options::{Engine, Options, Window};
use crate::process::registered::Registered;

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

impl Arena {
    /// Options for a new arena.
    pub fn builder() -> ArenaBuilder {
        ArenaBuilder {
            options: Options::default(),
        }
    }
}

impl ArenaBuilder {
    /// The most bytes that saved pages may take, rounded down to whole pages (default: no limit).
    /// No more address space is reserved for them either; without a limit that is two to four times
    /// the arena's, or more where several snapshots live long. A snapshot that has failed keeps its
    /// copies until it is dropped. When a write needs a copy and none can be made, the snapshots
    /// that need it fail ([`Error::StoreExhausted`]) and the writer goes on.
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

    /// Whether the keeper looks after the arena (default: yes). The keeper is one background thread
    /// for all arenas of the process, called `pagecow-keeper`. The first snapshot starts it. It
    /// makes memory for copies resident while a snapshot lives, and gives it back after the
    /// [`decay`](Self::decay). All signals but SIGSEGV and SIGBUS are blocked in it, it takes at
    /// most a tenth of one processor (half of one while it merges, with [`Engine::Remap`]), and it
    /// sleeps when there is nothing to do. Without it, call
    /// [`Arena::tend`] now and then; where nobody does, snapshots take longer and memory stays.
    pub fn keeper(mut self, keeper: bool) -> Self {
        self.options.keeper = keeper;
        self
    }

    /// Whether the arena stands ready for a snapshot at any time (default: no).
    ///
    /// Between snapshots, and before the first, the [keeper](Self::keeper) (or
    /// [`Arena::tend`]) takes write permission from pages that were not written for a quarter of a
    /// second or more. So when [`snapshot`](Arena::snapshot) is called without notice, also from
    /// the writing thread, only what is written all the time is left to do. The keeper starts when
    /// the arena is built. It makes memory for some copies resident: a 64th of the arena's size, 16
    /// MiB at most.
    ///
    /// Nobody can tell beforehand which pages will be written. A store to one from which permission
    /// was taken costs a fault: some 8 us with userfaultfd, 12 us with mprotect.
    /// [`Stats::soft_faults`](crate::Stats::soft_faults) counts these, and
    /// [`Stats::soft_fault_time`](crate::Stats::soft_fault_time) says what they cost. That is kept
    /// to 1 % of the time that passes, all writers together, and 100 ms at once. Where more than
    /// about 1000 pages a second are written that were not written for a second, that does not
    /// pay for all of them. Then part of the arena stays writable, and snapshots take longer.
    ///
    /// System calls that write into the arena may fail with `EFAULT` also before the first
    /// snapshot: see [`Arena::writable`]. After [`Arena::open_all`] all pages stay writable until
    /// the next snapshot. With the mprotect engine, pages are left as they are while arenas use
    /// three eighths of the process's kernel mappings. When no snapshot was taken or dropped for
    /// the [`decay`](Self::decay) time, it looks once a second for what to do. With
    /// [`Engine::Remap`] it has no effect: nothing has to be armed there.
    pub fn stand_ready(mut self, stand_ready: bool) -> Self {
        self.options.stand_ready = stand_ready;
        self
    }

    /// For how long a page must have been left alone before it is armed where the arena
    /// [stands ready](Self::stand_ready), and everything else that follows from it. For tests.
    #[doc(hidden)]
    pub fn cold(mut self, cold: Duration) -> Self {
        self.options.cold = cold;
        self
    }

    /// For how long the memory of copies that are not needed any more is kept for the next
    /// snapshots, when none is taken or dropped meanwhile (default: 10 s). As many copies' memory
    /// is kept as were made between two snapshots lately; 4 MiB are always kept. With zero it is
    /// given back as the last snapshot goes. Memory that was given back costs writers after the
    /// next snapshot some microseconds a page more.
    pub fn decay(mut self, decay: Duration) -> Self {
        self.options.decay = decay;
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
