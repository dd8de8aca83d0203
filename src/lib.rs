// Of two definitions of a link the first one counts: these are rustdoc's, and the README's own are
// for people who read the file itself.
#![cfg_attr(
    doc,
    doc = "[`docs/design.md`]: docs::design\n[`docs/soundness.md`]: docs::soundness\n\
           [`docs/testing.md`]: docs::testing\n[`docs/benchmarks.md`]: docs::benchmarks\n"
)]
#![doc = include_str!("../README.md")]
#![cfg_attr(loom, allow(dead_code, reason = "the models need no public face"))]

mod commit;
mod density;
mod dirty;
mod error;
mod fault;
mod gate;
mod guard;
mod mappings;
mod open;
mod options;
mod page;
mod prepare;
mod read;
mod release;
mod shared;
mod stats;
mod store;
mod sync;
mod sys;
mod table;
mod versions;
mod window;

#[cfg(not(loom))]
mod aligned;
#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod home;
#[cfg(not(loom))]
mod invariants;
#[cfg(not(loom))]
mod pages;
#[cfg(not(loom))]
mod pending;
#[cfg(not(loom))]
mod progress;
#[cfg(not(loom))]
mod reader;
#[cfg(not(loom))]
mod registry;
#[cfg(not(loom))]
mod snapshot;
#[cfg(not(loom))]
mod touched;

#[cfg(all(test, loom))]
mod models;

#[cfg(doc)]
pub mod docs;

#[cfg(not(loom))]
pub use arena::{Arena, ArenaBuilder, Snapshotter, Writable};
pub use error::Error;
pub use options::{Engine, Window};
#[cfg(not(loom))]
pub use pages::{Page, Pages};
#[cfg(not(loom))]
pub use pending::{Left, Pending};
#[cfg(not(loom))]
pub use reader::SnapshotReader;
#[cfg(not(loom))]
pub use snapshot::{Snapshot, SnapshotStats};
pub use stats::{Histogram, Stats};
