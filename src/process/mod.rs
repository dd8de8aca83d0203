//! An arena as the process knows it: found by address, kept through forks.

pub(crate) mod fork;
pub(crate) mod progress;
pub(crate) mod registered;
pub(crate) mod registry;
