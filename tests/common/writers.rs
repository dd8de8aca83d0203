//! Snapshots of an arena that threads write all the while.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pagecow::{Arena, Snapshot};

use super::page_size;

/// Acts on `count` snapshots, one after the other, while two threads store to all pages.
pub fn snapshots_beside_writers(arena: &mut Arena, count: usize, act: impl Fn(&Snapshot)) {
    let snapshotter = arena.snapshotter();
    let words = arena.atomic_u64();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let stop = &stop;
            scope.spawn(move || {
                let page = page_size() / 8;
                let mut turn = writer;
                while !stop.load(Relaxed) {
                    turn += 7;
                    words[turn * page % words.len()].fetch_add(1, Relaxed);
                }
            });
        }
        for _ in 0..count {
            act(&snapshotter.snapshot().unwrap());
        }
        stop.store(true, Relaxed);
    });
}
