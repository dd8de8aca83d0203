//! Which arenas exist, for the handler to look up an address without a lock.
//!
//! Slots are never freed, only emptied and used again. A handler that found its address in a slot counts
//! itself as a user and looks again; who empties the slot waits for the users to go. So a fault
//! elsewhere that scans the slots meets no arena that is being dropped.
//!
//! Slots come in chunks, and each chunk says between which addresses its arenas lie; the kernel mostly puts arenas
//! that were made one after the other side by side, so all but a few chunks are passed over. The bounds of a chunk
//! are wide enough for each arena in it, from before its slot is filled until after that is empty.

#![allow(unsafe_code, reason = "the handler finds arenas by address")]

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::process::registered::Registered;
use crate::sync::lock;

/// One arena's address range. `start` is 0 in an empty slot.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    registered: AtomicPtr<Registered>,
    users: AtomicU32,
}

const SLOTS: usize = 64;

/// Slots, and a place for more when they are full.
struct Chunk {
    /// All arenas of the chunk lie between these addresses.
    lowest: AtomicUsize,
    highest: AtomicUsize,
    /// Slots that are not empty. Changes under the lock only.
    filled: AtomicUsize,
    slots: [Slot; SLOTS],
    next: OnceLock<Box<Chunk>>,
}

/// Where an arena is registered.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    chunk: &'static Chunk,
    slot: &'static Slot,
}

static FIRST: Chunk = Chunk::new();

/// Held by who adds or removes an arena, and across a fork.
static CHANGES: Mutex<()> = Mutex::new(());

impl Slot {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            registered: AtomicPtr::new(std::ptr::null_mut()),
            users: AtomicU32::new(0),
        }
    }

    /// SeqCst, here and in `remove`: "I use it; is it still there?" against "it is gone; does anybody
    /// use it?" is Dekker's problem.
    fn holds(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::SeqCst);
        start != 0 && start <= address && address < self.end.load(Ordering::SeqCst)
    }
}

impl Chunk {
    const fn new() -> Self {
        Self {
            lowest: AtomicUsize::new(usize::MAX),
            highest: AtomicUsize::new(0),
            filled: AtomicUsize::new(0),
            slots: [const { Slot::new() }; SLOTS],
            next: OnceLock::new(),
        }
    }

    /// Whoever stores to an arena came by its address after it was added, and so sees bounds that were widened
    /// for it; they are narrowed only when it is gone.
    fn may_hold(&self, address: usize) -> bool {
        self.lowest.load(Ordering::SeqCst) <= address
            && address < self.highest.load(Ordering::SeqCst)
    }

    /// The first chunk from this one on with an empty slot, made if there is none. With the lock held.
    fn with_room(&'static self) -> &'static Self {
        let mut chunk = self;
        while chunk.filled.load(Ordering::Relaxed) == SLOTS {
            chunk = chunk.next.get_or_init(|| Box::new(Self::new()));
        }
        chunk
    }
}

fn chunks() -> impl Iterator<Item = &'static Chunk> {
    std::iter::successors(Some(&FIRST), |chunk| chunk.next.get().map(|next| &**next))
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    chunks().flat_map(|chunk| &chunk.slots)
}

/// Makes an arena known to the handler, until [`remove`].
pub(crate) fn add(registered: &Registered) -> Place {
    let _held = lock(&CHANGES);
    let chunk = FIRST.with_room();
    let mut slots = chunk.slots.iter();
    let slot = slots
        .find(|slot| slot.start.load(Ordering::Relaxed) == 0)
        .expect("the chunk has room");
    chunk.filled.fetch_add(1, Ordering::Relaxed);
    let range = registered.addresses();
    chunk.lowest.fetch_min(range.start, Ordering::SeqCst);
    chunk.highest.fetch_max(range.end, Ordering::SeqCst);
    slot.registered
        .store(std::ptr::from_ref(registered).cast_mut(), Ordering::SeqCst);
    slot.end.store(range.end, Ordering::SeqCst);
    slot.start.store(range.start, Ordering::SeqCst);
    Place { chunk, slot }
}

/// Makes an arena unknown, and returns when no handler is looking at it any more.
pub(crate) fn remove(place: Place) {
    let Place { chunk, slot } = place;
    let _held = lock(&CHANGES);
    slot.start.store(0, Ordering::SeqCst);
    while slot.users.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
    slot.registered
        .store(std::ptr::null_mut(), Ordering::SeqCst);
    if chunk.filled.fetch_sub(1, Ordering::Relaxed) == 1 {
        chunk.lowest.store(usize::MAX, Ordering::SeqCst);
        chunk.highest.store(0, Ordering::SeqCst);
    }
}

/// Calls `action` with the arena that holds `address`; `None` when there is none. Async-signal-safe.
pub(crate) fn with_arena<R>(address: usize, action: impl FnOnce(&Registered) -> R) -> Option<R> {
    let chunks = chunks().filter(|chunk| chunk.may_hold(address));
    for slot in chunks.flat_map(|chunk| &chunk.slots) {
        if !slot.holds(address) {
            continue;
        }
        slot.users.fetch_add(1, Ordering::SeqCst);
        if slot.holds(address) {
            let registered = slot.registered.load(Ordering::SeqCst);
            // SAFETY: `remove` has not emptied the slot (looked at after counting as a user), so it
            // waits for the user count before the arena goes; `registered` was set before `start`.
            let result = action(unsafe { &*registered });
            slot.users.fetch_sub(1, Ordering::SeqCst);
            return Some(result);
        }
        // Its arena changed between two looks; ours is in another slot.
        slot.users.fetch_sub(1, Ordering::SeqCst);
    }
    None
}

/// Keeps arenas from coming and going while it lives.
pub(crate) struct Frozen {
    _held: MutexGuard<'static, ()>,
}

pub(crate) fn freeze() -> Frozen {
    Frozen {
        _held: lock(&CHANGES),
    }
}

impl Frozen {
    /// All arenas.
    pub fn arenas(&self) -> impl Iterator<Item = &Registered> {
        slots()
            .filter(|slot| slot.start.load(Ordering::SeqCst) != 0)
            .map(|slot| {
                let registered = slot.registered.load(Ordering::SeqCst);
                // SAFETY: an arena leaves its slot before it goes, which needs the lock held here.
                unsafe { &*registered }
            })
    }

    /// In the child of a fork: the handlers that were running in other threads are not there.
    pub fn forget_users(&self) {
        for slot in slots() {
            slot.users.store(0, Ordering::SeqCst);
        }
    }
}
