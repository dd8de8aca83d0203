//! An arena as the process knows it: found by address, kept through forks.

#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
pub(crate) mod frozen;
#[cfg(not(loom))]
mod handler;
#[cfg(not(loom))]
mod keeper;
#[cfg(not(loom))]
mod lineage;
#[cfg(not(loom))]
mod progress;
#[cfg(not(loom))]
pub(crate) mod registered;
mod registry;
#[cfg(not(loom))]
pub(crate) mod remapped;

#[cfg(all(test, loom))]
mod models;

#[cfg(not(loom))]
use crate::error::{Error, Result};
#[cfg(not(loom))]
use crate::options::Engine;
#[cfg(not(loom))]
use crate::sys;

/// Installs what arenas of this engine need in the process: hooks around forks, the fault handler.
/// Each is installed once, by the first arena that needs it, and stays.
#[cfg(not(loom))]
fn install(engine: Engine) -> Result<()> {
    let failed = |source| Error::Install { source };
    fork::install().map_err(failed)?;
    // While nobody forks: a child would wait for a thread that is not there.
    let _nobody_forks = registered::ARENAS.freeze();
    sys::mappings::refresh_limit();
    engine.check()?;
    handler::install(engine).map_err(failed)
}
