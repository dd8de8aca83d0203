//! An arena as the process knows it: found by address, kept through forks.

#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod probe;
#[cfg(not(loom))]
mod progress;
#[cfg(not(loom))]
pub(crate) mod registered;
mod registry;

#[cfg(all(test, loom))]
mod models;
