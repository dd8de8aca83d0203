//! A program whose allocator keeps its records in an arena, as `docs/soundness.md` allows where
//! nobody forks: pagecow's own threads store to the arena too, wherever they allocate.

#![allow(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::time::Duration;

use crate::common::{by_faults, in_child, page_by_page, page_size};

/// More frames than are always kept.
const PAGES: usize = 4096;

/// Where the records are; 0: there are none.
static RECORDS: AtomicUsize = AtomicUsize::new(0);
static RECORDED: AtomicUsize = AtomicUsize::new(0);

struct Recording;

/// Each record is in a page of its own, which mostly was not written since the last snapshot.
fn record() {
    let start = RECORDS.load(Relaxed);
    if start != 0 {
        let page = RECORDED.fetch_add(1, Relaxed) % PAGES;
        // SAFETY: in the arena, which stays for as long as `RECORDS` says where it is.
        let record = unsafe { AtomicU8::from_ptr((start + page * page_size()) as *mut u8) };
        record.fetch_add(1, Relaxed);
    }
}

// SAFETY: the system's allocator, and records that are not part of what it gives.
unsafe impl GlobalAlloc for Recording {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        record();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        record();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Recording = Recording;

/// The keeper allocates as it starts and as it gives memory back.
#[test]
fn that_keeps_its_records_in_an_arena() {
    let ended = in_child(|engine| {
        let builder = page_by_page(engine).decay(Duration::from_millis(20));
        let mut arena = builder.build(PAGES * page_size()).unwrap();
        RECORDS.store(arena.as_ptr() as usize, Relaxed);
        let first = arena.snapshot().unwrap();
        arena.fill(1);
        // All pages are armed again.
        let second = arena.snapshot().unwrap();
        drop(first);
        // What the kernel has copied goes when no snapshot is left, and is brought back then.
        let second = by_faults(engine).then_some(second);
        let most = (arena.len() / 2) as u64;
        while arena.stats().store_resident_bytes > most {
            std::thread::yield_now();
        }
        drop(second);
        RECORDS.store(0, Relaxed);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}
