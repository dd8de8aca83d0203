//! What the integration tests share: processes of their own, and looking at memory from outside.

#![allow(unsafe_code, reason = "signals, fork and protections are system calls")]
#![allow(
    dead_code,
    unused_imports,
    reason = "each folder of tests is a crate of its own and uses some of this"
)]

use std::time::Duration;

use pagecow::{Arena, ArenaBuilder, Snapshot};

pub mod engines;
pub mod mappings;
pub mod model;
pub mod processes;
pub mod signals;
pub mod stores;
pub mod trail;
pub mod writers;

pub use engines::{
    FAULT, by_faults, engines, for_each_engine, for_each_fault_engine, on, page_by_page,
};
pub use processes::{
    Ended, Forked, end_of_fork, end_of_forked, expect_child_ended_well, fork, in_child, in_child_on,
};
pub use trail::Trail;
pub use writers::snapshots_beside_writers;

pub fn page_size() -> usize {
    region::page::size()
}

/// An arena of `pages` pages, each filled with bytes of its own.
pub fn patterned(builder: ArenaBuilder, pages: usize) -> (Arena, Vec<u8>) {
    let mut arena = builder.build(pages * page_size()).unwrap();
    let bytes = pattern(pages);
    arena.copy_from_slice(&bytes);
    (arena, bytes)
}

/// The bytes of `pages` pages of which no two neighbours are alike.
pub fn pattern(pages: usize) -> Vec<u8> {
    let mut bytes = vec![0; pages * page_size()];
    for (page, bytes) in bytes.chunks_exact_mut(page_size()).enumerate() {
        bytes.fill((page * 7 + page / 256 + 1) as u8);
    }
    bytes
}

/// Has all brought back that was stored while snapshots lived which are gone by now, as the engine
/// that remaps does in the background.
pub fn merge(arena: &Arena) {
    arena.tend(Duration::MAX);
}

/// All frozen bytes.
pub fn bytes_of(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = vec![0; snapshot.len()];
    snapshot.read_at(0, &mut bytes).unwrap();
    bytes
}

/// The snapshot holds exactly these bytes. Says where not, without printing megabytes.
#[track_caller]
pub fn expect_bytes(snapshot: &Snapshot, wanted: &[u8]) {
    let bytes = bytes_of(snapshot);
    if bytes != wanted {
        let differs = bytes.iter().zip(wanted).position(|(a, b)| a != b);
        panic!("a wrong byte in {snapshot:?} at {differs:?}");
    }
}
