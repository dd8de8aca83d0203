// Of two definitions of a link the first one counts: these are rustdoc's, and the README's own are
// for people who read the file itself.
#![cfg_attr(
    doc,
    doc = "[`docs/design.md`]: docs::design\n[`docs/soundness.md`]: docs::soundness\n\
           [`docs/testing.md`]: docs::testing\n[`docs/benchmarks.md`]: docs::benchmarks\n\
           [`docs/engines.md`]: docs::engines\n[`docs/images.md`]: docs::images\n\
           [`docs/CONTRIBUTING.md`]: docs::contributing\n"
)]
#![doc = include_str!("../README.md")]
#![cfg_attr(loom, allow(dead_code, reason = "the models need no public face"))]

mod cow;
mod epoch;
mod error;
mod options;
mod page;
mod process;
mod protect;
mod remap;
mod stats;
mod store;
mod sync;
mod sys;
mod window;

#[cfg(not(loom))]
mod arena;
#[cfg(all(feature = "forkable", not(loom)))]
pub mod forkable;
#[cfg(not(loom))]
pub mod image;
#[cfg(not(loom))]
mod snapshot;

#[cfg(doc)]
pub mod docs;

#[cfg(not(loom))]
pub use arena::{Arena, ArenaBuilder, Left, Pending, Restored, Snapshotter, Writable};
pub use error::Error;
pub use options::{Engine, ParseEngineError, Window};
#[cfg(not(loom))]
pub use snapshot::{
    Branch, Mark, Page, Pages, Since, Snapshot, SnapshotReader, SnapshotStats, Timings, View,
};
pub use stats::{Histogram, Stats};
