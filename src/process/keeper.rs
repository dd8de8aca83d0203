//! The keeper: one background thread for all arenas, which [tends](crate::cow::tend) them.
//!
//! An arena is on its list from when a snapshot of it is taken or dropped, until nothing is left to
//! do for it; one that is to stand ready for snapshots, for as long as it exists. The thread is
//! started by the first of them and sleeps while the list is empty.
//! A keeper that is late, or that could not be started, costs speed and memory, nothing else.
//!
//! It tends one arena at a time, named as *busy* under the lock, and holds no lock of its own
//! meanwhile. An arena that goes waits until it is not busy. Across a fork the lock is held by the
//! thread that forks, so a child finds it free. The child has no keeper until it takes a snapshot.

#![allow(
    unsafe_code,
    reason = "arenas by address; each waits for the keeper before it goes"
)]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::cow::tend::Tended;
use crate::process::registered::Registered;
use crate::sync::{lock, wait_on, wait_on_for};
use crate::sys;

/// Of a processor's time, one part in this many at most.
const SHARE: u64 = 10;
/// The same while it merges ([`crate::remap`]): the sooner that is done, the sooner the next
/// snapshot can be taken at once.
const MERGE_SHARE: u64 = 2;
/// For how long slices are merged in a row, in nanoseconds: a writer that meets one after the other
/// waits for some of them, and then goes on for as long.
const MERGE_RUN: u64 = 250_000;
/// While snapshots live: how long between two rounds, when there was something to do, and when not.
const SOON: u64 = 1_000_000;
const SLOW: u64 = 50_000_000;
/// How long after the system has refused the thread it is asked again.
const RETRY: u64 = 1_000_000_000;

pub(super) struct State {
    /// Whether a snapshot was taken or dropped since the arena was last tended.
    arenas: BTreeMap<Address, bool>,
    /// The arena that is being tended.
    busy: Option<Address>,
    /// A snapshot was taken or dropped since the last round began.
    asked: bool,
    /// The thread waits to be asked.
    waits: bool,
    /// The process that the thread is in; 0 when it was never started.
    process: u32,
    /// When the system last refused to start it; 0 for never.
    refused_at: u64,
}

/// An arena, which stays where it is until [`forget`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Address(*const Registered);

// SAFETY: only read by, and arenas may be shared between threads.
unsafe impl Send for Address {}

static STATE: Mutex<State> = Mutex::new(State {
    arenas: BTreeMap::new(),
    busy: None,
    asked: false,
    waits: false,
    process: 0,
    refused_at: 0,
});
/// An arena was added, or asked for attention.
static ASKED: Condvar = Condvar::new();
/// An arena is not busy any more.
static DONE: Condvar = Condvar::new();

/// Whether an arena was ever on the list.
#[derive(Default)]
pub(super) struct Known(AtomicBool);

/// Has an arena looked after, since a snapshot of it was taken or dropped.
pub(super) fn look_after(arena: &Registered, known: &Known) {
    let mut state = hold();
    state.look_after(arena, known);
    wake(state);
}

/// Has the thread go to work, if it was asked to.
pub(super) fn wake(mut state: MutexGuard<'_, State>) {
    let this = std::process::id();
    if state.asked && state.process != this && sys::clock::since(state.refused_at) > RETRY {
        if start() {
            state.process = this;
        } else {
            state.refused_at = sys::clock::now();
        }
    }
    let waits = state.asked && std::mem::take(&mut state.waits);
    drop(state);
    if waits {
        ASKED.notify_one();
    }
}

/// Takes an arena off the list before it goes, once it is not being tended.
pub(super) fn forget(arena: &Registered, known: &Known) {
    if !known.0.load(Ordering::Relaxed) {
        return;
    }
    let address = Address(arena);
    let mut state = lock(&STATE);
    state.arenas.remove(&address);
    while state.busy == Some(address) {
        state = wait_on(&DONE, state);
    }
}

/// Keeps the keeper from beginning anything, across a fork.
pub(super) fn hold() -> MutexGuard<'static, State> {
    lock(&STATE)
}

impl State {
    /// As [`look_after`], for the thread that forks.
    pub fn look_after(&mut self, arena: &Registered, known: &Known) {
        known.0.store(true, Ordering::Relaxed);
        self.arenas.insert(Address(arena), true);
        self.asked = true;
    }

    /// In the child of a fork: the keeper is not there.
    pub fn forget_keeper(&mut self) {
        self.busy = None;
        self.waits = false;
        self.process = 0;
        self.refused_at = 0;
    }
}

fn start() -> bool {
    // The thread begins with the mask of this one. Both allocate, and an allocator may keep its
    // records in an arena.
    let _masked = sys::signal::Masked::all_but_faults();
    sys::thread::start(c"pagecow-keeper", run)
}

fn run() -> ! {
    let mut state = lock(&STATE);
    let mut pause = SOON;
    loop {
        let begin = sys::clock::of_thread();
        state.asked = false;
        let next;
        (state, next) = round(state);
        let took = sys::clock::of_thread().saturating_sub(begin);
        // Nobody wakes it here, so that it stays within its share.
        let (share, least) = match next {
            Tended::Merge => (MERGE_SHARE, 0),
            _ => (SHARE, SOON),
        };
        state = wait_on_for(&ASKED, state, (took * (share - 1)).max(least));
        pause = match next {
            Tended::Watch => (pause * 2).min(SLOW),
            _ => SOON,
        };
        if state.asked {
            continue;
        }
        state.waits = true;
        state = match next {
            Tended::Merge | Tended::More => state,
            Tended::Watch => wait_on_for(&ASKED, state, pause),
            Tended::Later(time) => wait_on_for(&ASKED, state, time),
            Tended::Idle => wait_on(&ASKED, state),
        };
        state.waits = false;
    }
}

/// Tends each arena once. Returns what is left to do for the one that needs it soonest.
fn round(mut state: MutexGuard<'_, State>) -> (MutexGuard<'_, State>, Tended) {
    let mut soonest = Tended::Idle;
    let mut after = Bound::Unbounded;
    while let Some((&address, asked)) = state.arenas.range_mut((after, Bound::Unbounded)).next() {
        *asked = false;
        after = Bound::Excluded(address);
        state.busy = Some(address);
        drop(state);
        // SAFETY: it is on the list, and so exists; it is busy, and so waits before it goes.
        let arena = unsafe { &*address.0 };
        let tended = tend(arena);
        state = lock(&STATE);
        state.busy = None;
        DONE.notify_all();
        soonest = match (tended, state.arenas.get(&address)) {
            // It has left the list meanwhile.
            (_, None) => soonest,
            // A snapshot was taken or dropped meanwhile.
            (_, Some(true)) => Tended::More,
            (Tended::Idle, Some(false)) => {
                state.arenas.remove(&address);
                soonest
            }
            (tended, Some(false)) => soonest.min(tended),
        };
    }
    (state, soonest)
}

/// Some steps, which together take less than a millisecond.
fn tend(arena: &Registered) -> Tended {
    const STEPS: usize = 8;
    let begin = sys::clock::of_thread();
    let mut tended = Tended::More;
    for _ in 0..STEPS {
        tended = arena.tend_once();
        let merged =
            tended == Tended::Merge && sys::clock::of_thread().saturating_sub(begin) >= MERGE_RUN;
        if merged || !tended.is_more() {
            break;
        }
    }
    tended
}
