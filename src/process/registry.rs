//! Values found by address without a lock: how the signal handler finds an arena.
//!
//! Slots are never freed, only emptied and used again. A handler that found its address in a slot
//! counts itself as a user and looks again; a thread that empties the slot waits for the users to
//! go. So a fault elsewhere that scans the slots meets no value that is being dropped.
//!
//! Slots come in chunks, and each chunk says between which addresses its values lie. The kernel
//! mostly puts arenas that were made one after the other side by side, so all but a few chunks are
//! passed over. The bounds of a chunk are wide enough for each value in it, from before its slot is
//! filled until after that is empty.

#![allow(unsafe_code, reason = "the handler finds values by address")]

use std::ops::{Deref, Range};
use std::sync::OnceLock;

use crate::sync::{
    AtomicPtr, AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering, lock, yield_now,
};

/// Values that are registered, each with the addresses that it stands for.
pub(crate) struct Registry<T> {
    first: OnceLock<Box<Chunk<T>>>,
    /// Held by a thread that adds or removes a value, and across a fork.
    changes: Mutex<()>,
}

/// One value and its addresses. `start` is 0 in an empty slot.
struct Slot<T> {
    start: AtomicUsize,
    end: AtomicUsize,
    value: AtomicPtr<T>,
    users: AtomicU32,
}

#[cfg(not(loom))]
const SLOTS: usize = 64;
/// So few that the models' values need several chunks.
#[cfg(loom)]
const SLOTS: usize = 2;

/// Slots, and a place for more when they are full.
struct Chunk<T> {
    /// All values of the chunk lie between these addresses.
    lowest: AtomicUsize,
    highest: AtomicUsize,
    /// Slots that are not empty. Changes under the lock only.
    filled: AtomicUsize,
    slots: [Slot<T>; SLOTS],
    next: OnceLock<Box<Self>>,
}

/// Where a value is registered.
pub(crate) struct Place<'a, T> {
    registry: &'a Registry<T>,
    chunk: &'a Chunk<T>,
    slot: &'a Slot<T>,
}

impl<T> Slot<T> {
    fn new() -> Self {
        Self {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            value: AtomicPtr::new(std::ptr::null_mut()),
            users: AtomicU32::new(0),
        }
    }

    fn is_empty(&self) -> bool {
        self.start.load(Ordering::Relaxed) == 0
    }

    /// Acquire: a thread that sees `start` sees the end and the value that were set before it.
    fn holds(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        start != 0 && start <= address && address < self.end.load(Ordering::Relaxed)
    }

    fn fill(&self, addresses: &Range<usize>, value: &T) {
        let value = std::ptr::from_ref(value).cast_mut();
        self.value.store(value, Ordering::Relaxed);
        self.end.store(addresses.end, Ordering::Relaxed);
        self.start.store(addresses.start, Ordering::Release);
    }

    /// Empties the slot and waits until nobody uses what was in it.
    fn empty(&self) {
        self.start.store(0, Ordering::Relaxed);
        while self.has_users() {
            yield_now();
        }
        self.value.store(std::ptr::null_mut(), Ordering::Relaxed);
    }

    /// "I use it; is it still there?" against "it is gone; does anybody use it?" is Dekker's
    /// problem, unless both change the same word. So this adds nothing instead of loading: it comes
    /// after the user's addition, and sees it, or before, and then the user sees the slot empty.
    fn has_users(&self) -> bool {
        self.users.fetch_add(0, Ordering::AcqRel) != 0
    }

    /// The value, if it stands for `address`.
    fn find(&self, address: usize) -> Option<Found<'_, T>> {
        if !self.holds(address) {
            return None;
        }
        self.users.fetch_add(1, Ordering::AcqRel);
        let found = Found { slot: self };
        // Another value may have come between the two looks; then the one for `address` is in
        // another slot.
        self.holds(address).then_some(found)
    }
}

impl<T> Chunk<T> {
    fn new() -> Self {
        Self {
            lowest: AtomicUsize::new(usize::MAX),
            highest: AtomicUsize::new(0),
            filled: AtomicUsize::new(0),
            slots: std::array::from_fn(|_| Slot::new()),
            next: OnceLock::new(),
        }
    }

    /// A thread that comes by an address of a value does so after the value was added, and so sees
    /// bounds that were widened for it; they are narrowed only when it is gone.
    fn may_hold(&self, address: usize) -> bool {
        self.lowest.load(Ordering::Relaxed) <= address
            && address < self.highest.load(Ordering::Relaxed)
    }
}

impl<T> Registry<T> {
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            first: OnceLock::new(),
            changes: Mutex::new(()),
        }
    }

    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            first: OnceLock::new(),
            changes: Mutex::new(()),
        }
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk<T>> {
        let first = self.first.get();
        std::iter::successors(first, |chunk| chunk.next.get()).map(|chunk| &**chunk)
    }

    /// The first chunk with an empty slot, made if there is none. With the lock held.
    fn chunk_with_room(&self) -> &Chunk<T> {
        let mut chunk = self.first.get_or_init(|| Box::new(Chunk::new()));
        while chunk.filled.load(Ordering::Relaxed) == SLOTS {
            chunk = chunk.next.get_or_init(|| Box::new(Chunk::new()));
        }
        chunk
    }
}

impl<T: Sync> Registry<T> {
    /// Makes a value known, until [`Place::remove`]. No address is another value's.
    ///
    /// # Safety
    ///
    /// The value stays where it is until [`Place::remove`] has returned.
    pub unsafe fn add(&self, addresses: &Range<usize>, value: &T) -> Place<'_, T> {
        let _held = lock(&self.changes);
        let chunk = self.chunk_with_room();
        let mut slots = chunk.slots.iter();
        let slot = slots
            .find(|slot| slot.is_empty())
            .expect("the chunk has room");
        chunk.filled.fetch_add(1, Ordering::Relaxed);
        chunk.lowest.fetch_min(addresses.start, Ordering::Relaxed);
        chunk.highest.fetch_max(addresses.end, Ordering::Relaxed);
        slot.fill(addresses, value);
        Place {
            registry: self,
            chunk,
            slot,
        }
    }

    /// The value that stands for `address`; `None` when there is none. Async-signal-safe.
    pub fn find(&self, address: usize) -> Option<Found<'_, T>> {
        let chunks = self.chunks().filter(|chunk| chunk.may_hold(address));
        let mut slots = chunks.flat_map(|chunk| &chunk.slots);
        slots.find_map(|slot| slot.find(address))
    }

    /// Keeps values from coming and going while it lives.
    pub fn freeze(&self) -> Frozen<'_, T> {
        Frozen {
            registry: self,
            _held: lock(&self.changes),
        }
    }
}

impl<T> Place<'_, T> {
    /// Makes the value unknown, and returns when nobody uses it any more.
    pub fn remove(self) {
        let _held = lock(&self.registry.changes);
        self.slot.empty();
        let chunk = self.chunk;
        if chunk.filled.fetch_sub(1, Ordering::Relaxed) == 1 {
            chunk.lowest.store(usize::MAX, Ordering::Relaxed);
            chunk.highest.store(0, Ordering::Relaxed);
        }
    }
}

/// A value that was found. It stays registered while this lives.
pub(crate) struct Found<'a, T> {
    slot: &'a Slot<T>,
}

impl<T> Deref for Found<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        let value = self.slot.value.load(Ordering::Relaxed);
        // SAFETY: the slot was not empty when the user had been counted, so the value stays (`add`)
        // until the count goes down; the slot's value was set before its `start`.
        unsafe { &*value }
    }
}

impl<T> Drop for Found<'_, T> {
    fn drop(&mut self) {
        // Release: the value goes after it was used.
        self.slot.users.fetch_sub(1, Ordering::Release);
    }
}

/// A registry in which values neither come nor go.
pub(crate) struct Frozen<'a, T> {
    registry: &'a Registry<T>,
    _held: MutexGuard<'a, ()>,
}

impl<T: Sync> Frozen<'_, T> {
    fn slots(&self) -> impl Iterator<Item = &Slot<T>> {
        self.registry.chunks().flat_map(|chunk| &chunk.slots)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots().filter(|slot| !slot.is_empty()).map(|slot| {
            let value = slot.value.load(Ordering::Relaxed);
            // SAFETY: a value leaves its slot before it goes, which needs the lock held here.
            unsafe { &*value }
        })
    }

    /// In the child of a fork: the handlers that were running in other threads are not there.
    pub fn forget_users(&self) {
        for slot in self.slots() {
            slot.users.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A value is the first of its addresses.
    fn addresses(value: &usize) -> Range<usize> {
        *value..*value + 100
    }

    fn add<'a>(registry: &'a Registry<usize>, value: &usize) -> Place<'a, usize> {
        // SAFETY: each test keeps its values until it has removed them, or asks no more.
        unsafe { registry.add(&addresses(value), value) }
    }

    fn find(registry: &Registry<usize>, address: usize) -> Option<usize> {
        registry.find(address).map(|found| *found)
    }

    #[test]
    fn a_value_is_found_by_its_addresses_and_no_others_while_it_is_there() {
        let registry = Registry::new();
        assert_eq!(find(&registry, 1000), None);
        let (low, high) = (1000, 2000);
        let place = add(&registry, &low);
        let _high = add(&registry, &high);
        for (address, found) in [
            (0, None),
            (999, None),
            (1000, Some(low)),
            (1099, Some(low)),
            (1100, None),
            (2099, Some(high)),
            (2100, None),
            (usize::MAX, None),
        ] {
            assert_eq!(find(&registry, address), found, "address {address}");
        }
        place.remove();
        assert_eq!(find(&registry, 1000), None);
        assert_eq!(find(&registry, 2000), Some(high));
    }

    #[test]
    fn more_values_than_a_chunk_has_slots() {
        let values: Vec<usize> = (1..=5 * SLOTS).map(|number| number * 1000).collect();
        let registry = Registry::new();
        let places = values.iter().map(|value| add(&registry, value));
        let places: Vec<_> = places.collect();
        assert_eq!(registry.chunks().count(), 5);
        // Every other one goes, and those that stay are found by their addresses.
        for (number, place) in places.into_iter().enumerate() {
            if number % 2 == 0 {
                place.remove();
            }
        }
        for (number, value) in values.iter().enumerate() {
            let found = (number % 2 != 0).then_some(*value);
            assert_eq!(find(&registry, value + 99), found);
        }
        // Slots are used again before chunks are added.
        for value in values.iter().step_by(2) {
            add(&registry, value);
        }
        assert_eq!(registry.chunks().count(), 5);
        let mut all: Vec<usize> = registry.freeze().values().copied().collect();
        all.sort_unstable();
        assert_eq!(all, values);
    }

    #[test]
    fn a_chunk_that_is_empty_is_passed_over() {
        let registry = Registry::new();
        let values = [1000, 5000, 3000];
        let places = values.each_ref().map(|value| add(&registry, value));
        let may_hold = |address| registry.chunks().any(|chunk| chunk.may_hold(address));
        assert!(may_hold(1000) && may_hold(4000) && may_hold(5099));
        assert!(!may_hold(999) && !may_hold(5100));
        places.into_iter().for_each(Place::remove);
        assert!(!may_hold(1000) && !may_hold(4000) && !may_hold(5099));
        add(&registry, &3000);
        assert!(may_hold(3000) && !may_hold(1000));
    }

    #[test]
    fn a_child_of_a_fork_waits_for_no_user_that_is_not_there() {
        let registry = Registry::new();
        let value = 1000;
        let place = add(&registry, &value);
        place.slot.users.fetch_add(1, Ordering::Relaxed);
        registry.freeze().forget_users();
        place.remove();
    }

    /// While values come and go, threads look for those that stay, and for those that go.
    #[test]
    fn those_that_stay_are_always_found() {
        let staying: Vec<usize> = (1..=SLOTS).map(|number| number * 1000).collect();
        let moving: Vec<usize> = (1..=SLOTS).map(|number| number * 1000 + 500).collect();
        let registry = Registry::new();
        for (stays, moves) in staying.iter().zip(&moving) {
            let place = add(&registry, moves);
            add(&registry, stays);
            place.remove();
        }
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for _ in 0..200 {
                    let places = moving.iter().map(|value| add(&registry, value));
                    let places: Vec<_> = places.collect();
                    places.into_iter().for_each(Place::remove);
                }
            });
            while !changes.is_finished() {
                for (stays, moves) in staying.iter().zip(&moving) {
                    assert_eq!(find(&registry, *stays), Some(*stays));
                    assert!(find(&registry, *moves).is_none_or(|found| found == *moves));
                }
            }
        });
    }
}
