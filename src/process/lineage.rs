//! What tells the snapshots of one arena from those of all others, in any process.
//!
//! A lineage is two words: one of the arena, one of the process. Each is drawn when it is first
//! asked for, without a lock, so that a fork at any moment leaves nothing half done. A forked child
//! draws the process's word again: from then on its arenas take snapshots of their own, whose
//! numbers the parent's have as well.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

static PROCESS: Word = Word(AtomicU64::new(0));

/// Random bits that are drawn once; 0 until then.
#[derive(Default)]
struct Word(AtomicU64);

impl Word {
    fn get(&self) -> io::Result<u64> {
        let seen = self.0.load(Ordering::Relaxed);
        if seen != 0 {
            return Ok(seen);
        }
        let drawn = sys::random()?.max(1);
        // The first thread's word counts, for all.
        let first = self
            .0
            .compare_exchange(0, drawn, Ordering::Relaxed, Ordering::Relaxed);
        Ok(first.err().unwrap_or(drawn))
    }
}

/// An arena's part of it.
#[derive(Default)]
pub(super) struct Lineage(Word);

impl Lineage {
    /// The same in each call until the process forks, and in the child the same from then on.
    pub fn get(&self) -> io::Result<u128> {
        let (process, arena) = (PROCESS.get()?, self.0.get()?);
        Ok(u128::from(process) << 64 | u128::from(arena))
    }
}

/// In the child of a fork: its arenas go their own way.
pub(super) fn begin_in_child() {
    PROCESS.0.store(0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_keeps_its_lineage_and_shares_it_with_no_other() {
        let (one, other) = (Lineage::default(), Lineage::default());
        let drawn = one.get().unwrap();
        assert_eq!(one.get().unwrap(), drawn);
        assert_ne!(other.get().unwrap(), drawn);
    }
}
