//! A library for `LD_PRELOAD` that gives programs, as they are, a `fork()` whose time does not grow
//! with their memory.
//!
//! It serves what the program's allocator maps from memory that can be frozen by remapping
//! ([`pagecow::forkable`]), freezes that before a `fork()`, and merges what was written to once the
//! children are gone. See `docs/redis.md`.
//!
//! Calls that it puts itself in front of allocate nothing, and do not panic. Where anything is
//! refused at the beginning, the program goes on as without the library.

#![allow(unsafe_code, reason = "stands between programs and the kernel")]

// In a test program they would stand in front of its own calls.
#[cfg(not(test))]
mod begin;
#[cfg(not(test))]
mod calls;
#[cfg(not(test))]
mod fork;
#[cfg(not(test))]
mod inside;
#[cfg(not(test))]
mod log;
#[cfg(not(test))]
mod merge;
#[cfg(not(test))]
mod real;
#[cfg(not(test))]
mod served;
#[cfg(not(test))]
mod unserved;

mod space;

/// The program's allocator must not be called from inside it.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
