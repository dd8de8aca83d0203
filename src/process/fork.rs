//! Around fork(2): no page is claimed, no gate is passed and no lock of ours is held by another thread
//! at the moment of the fork, so that the child finds none that nobody will ever give back.
//!
//! The child inherits the arenas as private memory, with their protection and the handler: it reads and
//! writes its own copy, and the snapshots in it are its own.

#![allow(unsafe_code, reason = "locks held from one hook to the next")]

use std::cell::UnsafeCell;
use std::io;
use std::sync::MutexGuard;

use crate::cow::commit::Ledger;
use crate::process::registered::Home;
use crate::process::registry::{self, Frozen};
use crate::sync::{current_thread, lock};
use crate::sys;

/// What is held across a fork, by the thread that forks. Fields are dropped in this order.
struct Held {
    arenas: Vec<HeldArena>,
    frozen: Frozen,
    /// A signal handler that stores to an arena would wait for the thread that it interrupts.
    _masked: sys::signal::Masked,
}

struct HeldArena {
    home: &'static Home,
    ledger: MutexGuard<'static, Ledger>,
    _reclaim: MutexGuard<'static, ()>,
}

/// Where `Held` waits for the fork to be over. Not thread-local: the first use of such a value
/// allocates, and the gates are closed.
struct Place(UnsafeCell<Option<Held>>);

// SAFETY: used only by the thread that has the registry frozen, which the `Held` in it stands for.
unsafe impl Sync for Place {}

static HELD: Place = Place(UnsafeCell::new(None));

pub(crate) fn install() -> io::Result<()> {
    static HOOKS: sys::fork::Hooks = sys::fork::Hooks {
        before,
        after_in_parent,
        after_in_child,
    };
    sys::fork::install(&HOOKS)
}

fn before() {
    let frozen = registry::freeze();
    let arenas: Vec<HeldArena> = frozen
        .homes()
        .map(|home| {
            // SAFETY: an arena leaves the registry before it goes, and that is frozen until the
            // `Held` of which this is a part is dropped, after the arenas in it.
            let home: &'static Home = unsafe { &*std::ptr::from_ref(home) };
            // In the order of `release`.
            let reclaim = lock(&home.reclaim);
            let ledger = lock(&home.ledger);
            // The thread that has set them aside would not be there in the child to bring them back.
            home.store.wait_for_aside();
            HeldArena {
                home,
                ledger,
                _reclaim: reclaim,
            }
        })
        .collect();
    let held = Held {
        arenas,
        frozen,
        _masked: sys::signal::Masked::new(),
    };
    // Nothing is allocated from here on: who waits at a gate may hold any lock. The readers' gates
    // first: a reader may be interrupted by a signal handler that stores to an arena.
    for arena in &held.arenas {
        arena.home.versions.readers.close();
    }
    for arena in &held.arenas {
        arena.home.gate.close();
    }
    // SAFETY: this thread has the registry frozen, so nobody else uses the place.
    unsafe { *HELD.0.get() = Some(held) };
}

fn after_in_parent() {
    release(|_| ());
}

fn after_in_child() {
    let this = current_thread();
    release(|held| {
        held.frozen.forget_users();
        for arena in &mut held.arenas {
            // Other threads' guards, and commits that waited, do not exist here.
            let ledger = &mut arena.ledger;
            ledger.guard = ledger.guard.take().filter(|guard| guard.owner == this);
            ledger.commits_waiting = 0;
            let open = ledger.guard.as_ref().map(|guard| guard.pages);
            arena.home.move_to_mprotect(ledger, open);
            arena.home.mappings.forked();
            arena.home.store.forget_prefaulting();
        }
        // After the arenas, each of which asks whether it was still open in the parent.
        sys::forget_descriptor();
    });
}

fn release(adjust: impl FnOnce(&mut Held)) {
    // SAFETY: the same thread that froze the registry in `before`, or its copy in the child.
    let Some(mut held) = (unsafe { (*HELD.0.get()).take() }) else {
        return;
    };
    adjust(&mut held);
    for arena in &held.arenas {
        arena.home.gate.open();
        arena.home.versions.readers.open();
    }
}
