//! The `writable` guards of an arena, which keep commits away.

// Orders nothing, so it is plain in models too.
use std::sync::Arc as PlainArc;
use std::sync::atomic::AtomicBool as PlainBool;

use crate::page::PageRange;
use crate::sync::{Ordering, ThreadId, current_thread};

/// The guards of an arena that live.
#[derive(Default)]
pub(in crate::cow) struct Guards {
    living: Vec<Guard>,
    /// How many began so far, which is the number of the newest.
    begun: u64,
}

pub(in crate::cow) struct Guard {
    pub number: u64,
    owner: ThreadId,
    pages: PageRange,
    /// For its thread to know when it ends, wherever that is.
    lives: Lives,
}

/// Whether a guard lives, shared by the guard's arena and its thread. Changes under the ledger's
/// lock.
pub(in crate::cow) type Lives = PlainArc<PlainBool>;

impl Guards {
    /// Begins a guard of the calling thread; returns its number.
    pub fn begin(&mut self, pages: PageRange, lives: Lives) -> u64 {
        self.begun += 1;
        self.living.push(Guard {
            number: self.begun,
            owner: current_thread(),
            pages,
            lives,
        });
        self.begun
    }

    /// Ends those that `ends` says; returns whether there was one.
    pub fn end(&mut self, ends: impl Fn(&Guard) -> bool) -> bool {
        let before = self.living.len();
        self.living.retain(|guard| {
            let stays = !ends(guard);
            guard.lives.store(stays, Ordering::Relaxed);
            stays
        });
        self.living.len() < before
    }

    pub fn any(&self) -> bool {
        !self.living.is_empty()
    }

    /// The pages that each of them keeps.
    pub fn pages(&self) -> impl Iterator<Item = PageRange> {
        self.living.iter().map(|guard| guard.pages)
    }

    /// In the child of a fork, where only the thread that forked is: the others' do not exist.
    #[cfg(not(loom))]
    pub fn keep_only_of(&mut self, thread: ThreadId) {
        self.living.retain(|guard| guard.owner == thread);
    }
}
