//! What an arena and its snapshots do, and what each operation costs.

#[path = "../common/mod.rs"]
mod common;

mod basic;
mod copy;
mod guards;
mod huge_pages;
mod marks;
mod model;
mod public_face;
mod ready;
mod remap;
mod restore;
mod sparse;
mod timings;
mod two_phase;
mod window;
mod with;
