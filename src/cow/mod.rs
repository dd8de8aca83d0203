//! Copy on write: the operations on an arena, one a file, and the [state] that they work on.
//!
//! - A first write: [fault], which deals with a [run] of neighbours, chosen by [evidence]; [wall]
//!   where the kernel grants no more mappings.
//! - A snapshot: [supply] of frames, [prepare] (most is [armed](arm) ahead), [commit], [release].
//! - Its bytes: [read], [output] to files; [restore] puts the arena back to them.
//! - Between snapshots: [tend]; an arena that stands [ready] for the next one.
//! - What was stored since a snapshot: [changed]; without a copy: [marks].
//! - Snapshots that another engine takes: [elsewhere].
//! - Pages that stay open: [guard] (a range), [open] (all).

mod arm;
pub(crate) mod budget;
mod changed;
pub(crate) mod commit;
pub(crate) mod core;
#[cfg(not(loom))]
pub(crate) mod elsewhere;
mod evidence;
pub(crate) mod fault;
#[cfg(not(loom))]
pub(crate) mod fork;
pub(crate) mod guard;
#[cfg(not(loom))]
mod invariants;
mod marks;
pub(crate) mod open;
pub(crate) mod output;
mod passes;
pub(crate) mod prepare;
pub(crate) mod read;
mod ready;
pub(crate) mod release;
pub(crate) mod restore;
mod run;
pub(crate) mod state;
pub(crate) mod supply;
#[cfg_attr(loom, allow(dead_code, reason = "the keeper is not modelled"))]
pub(crate) mod tend;
mod wall;

#[cfg(all(test, loom))]
pub(crate) mod models;
