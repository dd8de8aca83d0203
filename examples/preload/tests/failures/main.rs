//! What the library needs is refused, one thing at a time. The program runs, allocates and forks in
//! each case, and both sides of the fork have the right bytes.

#![allow(
    unsafe_code,
    reason = "maps memory, forks, and has the kernel refuse calls"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/program.rs"]
mod program;

mod at_fork;
mod at_start;
mod refuse;
mod scenario;
