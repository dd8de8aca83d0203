//! What pagecow shares with the rest of a process: signals, faults, forks, descriptors, system
//! calls.

#[path = "../common/mod.rs"]
mod common;

mod allocator;
mod closed_descriptor;
mod closed_file;
mod foreign_faults;
mod foreign_handlers;
mod forks;
mod handler;
mod keeper;
mod remap;
mod self_check;
mod system_calls;
