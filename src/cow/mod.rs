//! Copy on write: the operations on an arena, one a file, and the [state] that they work on.

pub(crate) mod commit;
pub(crate) mod core;
pub(crate) mod fault;
#[cfg(not(loom))]
pub(crate) mod fork;
pub(crate) mod guard;
#[cfg(not(loom))]
mod invariants;
pub(crate) mod open;
pub(crate) mod prepare;
pub(crate) mod read;
pub(crate) mod release;
pub(crate) mod state;

#[cfg(all(test, loom))]
pub(crate) mod models;
