//! Around fork(2): all arenas are [held still](Still), and none comes or goes.
//!
//! The child inherits the arenas as private memory, with their protection and the handler: it reads
//! and writes its own copy, and the snapshots in it are its own. Memory that is remapped is made
//! private for that, and the parent leaves the file alone while a descendant may look at it.

#![allow(unsafe_code, reason = "locks held from one hook to the next")]

use std::cell::UnsafeCell;
use std::io;
use std::sync::MutexGuard;

use crate::cow::fork::Still;
use crate::process::keeper;
use crate::process::lineage;
use crate::process::registered::{ARENAS, Registered};
use crate::process::registry::Frozen;
use crate::process::remapped::Remapped;
use crate::remap;
use crate::remap::children::{self, Children};
use crate::sys;

/// What is held across a fork, by the thread that forks. Fields are dropped in this order.
struct Held {
    remapped: Vec<remap::Still<'static>>,
    children: MutexGuard<'static, Children>,
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
    let count = frozen.values().filter_map(Registered::remap).count();
    let mut remapped = Vec::with_capacity(count);
    let arenas = Still::hold(arenas);
    // Nothing is allocated from here on: gates are closed. Their states after the arenas' ledgers.
    for one in frozen.values().filter_map(Registered::remap) {
        // SAFETY: as above.
        let one: &'static Remapped = unsafe { &*std::ptr::from_ref(one) };
        remapped.push(one.remap.hold_still());
    }
    let mut children = children::hold();
    if count > 0 {
        children.before();
    }
    for still in &mut remapped {
        still.before();
    }
    let held = Held {
        remapped,
        children,
        arenas,
        frozen,
        keeper,
    };
    // SAFETY: this thread has the registry frozen, so nobody else uses the place.
    unsafe { *HELD.0.get() = Some(held) };
}

fn after_in_parent() {
    let Some(mut held) = take() else {
        return;
    };
    for still in &mut held.remapped {
        still.in_parent();
    }
    held.children.in_parent();
    drop((held.remapped, held.children, held.arenas));
    // There is something to merge once the child is gone.
    for registered in held.frozen.values() {
        if registered.remap().is_some() {
            registered.look_after_in(&mut held.keeper);
        }
    }
    drop(held.frozen);
    keeper::wake(held.keeper);
}

fn after_in_child() {
    let Some(mut held) = take() else {
        return;
    };
    held.frozen.forget_users();
    lineage::begin_in_child();
    let remapped = held.frozen.values().filter(|one| one.remap().is_some());
    let mut cores = remapped.map(Registered::core);
    for still in &mut held.remapped {
        // In the same order.
        let Some(core) = cores.next() else { break };
        if still.in_child() {
            core.get_ready_to_arm();
        }
    }
    held.children.in_child();
    held.arenas.adjust_in_child();
    held.keeper.forget_keeper();
    // After the arenas, each of which asks whether it was still open in the parent.
    sys::userfaultfd::forget_descriptor();
}

fn take() -> Option<Held> {
    // SAFETY: the same thread that froze the registry in `before`, or its copy in the child.
    unsafe { (*HELD.0.get()).take() }
}
