//! Around fork(2): all arenas are [held still](Still), and none comes or goes.
//!
//! The child inherits the arenas as private memory, with their protection and the handler: it reads
//! and writes its own copy, and the snapshots in it are its own.

#![allow(unsafe_code, reason = "locks held from one hook to the next")]

use std::cell::UnsafeCell;
use std::io;
use std::sync::MutexGuard;

use crate::cow::fork::Still;
use crate::process::keeper;
use crate::process::registered::{ARENAS, Registered};
use crate::process::registry::Frozen;
use crate::sys;

/// What is held across a fork, by the thread that forks. Fields are dropped in this order.
struct Held {
    arenas: Still<'static>,
    frozen: Frozen<'static, Registered>,
    keeper: MutexGuard<'static, keeper::State>,
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
    let keeper = keeper::hold();
    let frozen = ARENAS.freeze();
    let arenas = frozen.values().map(|registered| {
        // SAFETY: an arena leaves the registry before it goes, and that is frozen until the
        // `Held` of which this is a part is dropped, after the arenas in it.
        let registered: &'static Registered = unsafe { &*std::ptr::from_ref(registered) };
        registered.core()
    });
    let held = Held {
        arenas: Still::hold(arenas),
        frozen,
        keeper,
    };
    // SAFETY: this thread has the registry frozen, so nobody else uses the place.
    unsafe { *HELD.0.get() = Some(held) };
}

fn after_in_parent() {
    drop(take());
}

fn after_in_child() {
    let Some(mut held) = take() else {
        return;
    };
    held.frozen.forget_users();
    held.arenas.adjust_in_child();
    held.keeper.forget_keeper();
    // After the arenas, each of which asks whether it was still open in the parent.
    sys::userfaultfd::forget_descriptor();
}

fn take() -> Option<Held> {
    // SAFETY: the same thread that froze the registry in `before`, or its copy in the child.
    unsafe { (*HELD.0.get()).take() }
}
