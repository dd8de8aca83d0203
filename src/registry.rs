//! Which arenas exist, for the handler to look up an address without a lock.
//!
//! Slots are never freed, only emptied and used again. A handler that found its address in a slot counts
//! itself as a user and looks again; who empties the slot waits for the users to go. So a fault
//! elsewhere that scans the slots meets no arena that is being dropped.

#![allow(unsafe_code, reason = "the handler finds arenas by address")]

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::home::Home;
use crate::sync::lock;

/// One arena's address range. `start` is 0 in an empty slot.
pub(crate) struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    home: AtomicPtr<Home>,
    users: AtomicU32,
}

const SLOTS: usize = 64;

/// Slots, and a place for more when they are full.
struct Chunk {
    slots: [Slot; SLOTS],
    next: OnceLock<Box<Chunk>>,
}

static FIRST: Chunk = Chunk::new();

/// Held by who adds or removes an arena, and across a fork.
static CHANGES: Mutex<()> = Mutex::new(());

impl Slot {
    const fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            home: AtomicPtr::new(std::ptr::null_mut()),
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
            slots: [const { Slot::new() }; SLOTS],
            next: OnceLock::new(),
        }
    }
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    std::iter::successors(Some(&FIRST), |chunk| chunk.next.get().map(|next| &**next))
        .flat_map(|chunk| &chunk.slots)
}

/// Makes an arena known to the handler, until [`remove`].
pub(crate) fn add(home: &Home) -> &'static Slot {
    let _held = lock(&CHANGES);
    let empty = slots().find(|slot| slot.start.load(Ordering::Relaxed) == 0);
    let slot = empty.unwrap_or_else(|| {
        let mut last = &FIRST;
        while let Some(next) = last.next.get() {
            last = next;
        }
        let chunk = last.next.get_or_init(|| Box::new(Chunk::new()));
        &chunk.slots[0]
    });
    let range = home.addresses();
    slot.home
        .store(std::ptr::from_ref(home).cast_mut(), Ordering::SeqCst);
    slot.end.store(range.end, Ordering::SeqCst);
    slot.start.store(range.start, Ordering::SeqCst);
    slot
}

/// Makes an arena unknown, and returns when no handler is looking at it any more.
pub(crate) fn remove(slot: &Slot) {
    let _held = lock(&CHANGES);
    slot.start.store(0, Ordering::SeqCst);
    while slot.users.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
    slot.home.store(std::ptr::null_mut(), Ordering::SeqCst);
}

/// Calls `action` with the arena that holds `address`; `None` when there is none. Async-signal-safe.
pub(crate) fn with_arena<R>(address: usize, action: impl FnOnce(&Home) -> R) -> Option<R> {
    for slot in slots() {
        if !slot.holds(address) {
            continue;
        }
        slot.users.fetch_add(1, Ordering::SeqCst);
        if slot.holds(address) {
            let home = slot.home.load(Ordering::SeqCst);
            // SAFETY: `remove` has not emptied the slot (looked at after counting as a user), so it
            // waits for the user count before the arena goes; `home` was set before `start`.
            let result = action(unsafe { &*home });
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
    pub fn homes(&self) -> impl Iterator<Item = &Home> {
        slots()
            .filter(|slot| slot.start.load(Ordering::SeqCst) != 0)
            .map(|slot| {
                let home = slot.home.load(Ordering::SeqCst);
                // SAFETY: an arena leaves its slot before it goes, which needs the lock held here.
                unsafe { &*home }
            })
    }

    /// In the child of a fork: the handlers that were running in other threads are not there.
    pub fn forget_users(&self) {
        for slot in slots() {
            slot.users.store(0, Ordering::SeqCst);
        }
    }
}
