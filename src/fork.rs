//! Around fork(2): no page is claimed, no gate is passed and no lock of ours is held by another thread
//! at the moment of the fork, so that the child finds none that nobody will ever give back.
//!
//! The child inherits the arenas as private memory, with their protection and the handler: it reads and
//! writes its own copy, and the snapshots in it are its own.

#![allow(unsafe_code, reason = "locks held from one hook to the next")]

use std::cell::RefCell;
use std::io;
use std::sync::MutexGuard;

use crate::commit::Ledger;
use crate::home::Home;
use crate::registry::{self, Frozen};
use crate::sync::{current_thread, lock};
use crate::sys;

/// What is held across a fork, by the thread that forks. Fields are dropped in this order.
struct Held {
    arenas: Vec<HeldArena>,
    frozen: Frozen,
}

struct HeldArena {
    home: &'static Home,
    ledger: MutexGuard<'static, Ledger>,
    _reclaim: MutexGuard<'static, ()>,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

pub(crate) fn install() -> io::Result<()> {
    sys::fork::install(sys::fork::Hooks {
        before,
        after_in_parent,
        after_in_child,
    })
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
            HeldArena {
                home,
                ledger: lock(&home.ledger),
                _reclaim: reclaim,
            }
        })
        .collect();
    // The gates last, and nothing is allocated from here on: who waits at one may hold any lock.
    for arena in &arenas {
        arena.home.gate.close();
        arena.home.versions.readers.close();
    }
    HELD.with(|held| *held.borrow_mut() = Some(Held { arenas, frozen }));
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
            ledger.guard = ledger.guard.filter(|owner| *owner == this);
            ledger.commits_waiting = 0;
        }
    });
}

fn release(adjust: impl FnOnce(&mut Held)) {
    let Some(mut held) = HELD.with(|held| held.borrow_mut().take()) else {
        return;
    };
    adjust(&mut held);
    for arena in &held.arenas {
        arena.home.versions.readers.open();
        arena.home.gate.open();
    }
}
