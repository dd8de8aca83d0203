//! The calls that this library puts itself in front of.

mod memory;
mod protection;
pub mod signals;
mod writes;
