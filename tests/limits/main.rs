//! What there is little of: memory, kernel mappings, descriptors, room for copies.

#[path = "../common/mod.rs"]
mod common;

mod big;
mod many;
mod memory;
mod remapped;
mod store_used_up;
mod wall;
