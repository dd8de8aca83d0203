//! The calls that this library puts itself in front of.

mod memory;
pub mod signals;
mod writes;
