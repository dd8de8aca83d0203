//! A thread that maps, fills, moves and unmaps memory all the while, by `mmap` and by `malloc`.
//!
//! A block is named in a list once it is filled, and taken off the list before anything else is
//! done with it. So where a child finds a block in the list, the block must be whole.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::World;
use crate::program::{map, unmap};

const BLOCKS: usize = 24;

pub struct Blocks([Block; BLOCKS]);

/// Filled with words that follow from `seed`.
struct Block {
    /// 0: not there.
    start: AtomicUsize,
    words: AtomicUsize,
    seed: AtomicU64,
}

/// Which block, which word of it, what is found there, and what should be.
type Wrong = (usize, usize, u64, u64);

fn word(seed: u64, at: usize) -> u64 {
    (seed + at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Blocks {
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| Block {
            start: AtomicUsize::new(0),
            words: AtomicUsize::new(0),
            seed: AtomicU64::new(0),
        }))
    }

    /// Allocates nothing.
    pub fn check(&self) -> Result<(), Wrong> {
        for (number, block) in self.0.iter().enumerate() {
            block
                .check()
                .map_err(|(at, found, expected)| (number, at, found, expected))?;
        }
        Ok(())
    }
}

impl Block {
    fn check(&self) -> Result<(), (usize, u64, u64)> {
        let start = self.start.load(Ordering::SeqCst) as *const u64;
        if start.is_null() {
            return Ok(());
        }
        let seed = self.seed.load(Ordering::SeqCst);
        for at in 0..self.words.load(Ordering::SeqCst) {
            // SAFETY: inside a block that is there.
            let found = unsafe { start.wrapping_add(at).read_volatile() };
            if found != word(seed, at) {
                return Err((at, found, word(seed, at)));
            }
        }
        Ok(())
    }

    /// Fills memory, and puts it on the list.
    fn show(&self, start: *mut u8, words: usize, seed: u64) {
        for at in 0..words {
            let place = start.cast::<u64>().wrapping_add(at);
            // SAFETY: inside memory that was just made.
            unsafe { place.write_volatile(word(seed, at)) };
        }
        self.words.store(words, Ordering::SeqCst);
        self.seed.store(seed, Ordering::SeqCst);
        self.start.store(start as usize, Ordering::SeqCst);
    }

    /// Takes it off the list.
    fn hide(&self) -> Option<(*mut u8, usize)> {
        let start = self.start.swap(0, Ordering::SeqCst) as *mut u8;
        (!start.is_null()).then(|| (start, self.words.load(Ordering::SeqCst)))
    }
}

fn expect_zeros(start: *mut u8, words: usize, what: &str) {
    for at in 0..words {
        // SAFETY: inside memory that was just made.
        let found = unsafe { start.cast::<u64>().wrapping_add(at).read_volatile() };
        assert_eq!(found, 0, "{what}: word {at} of {words} is no zero");
    }
}

pub fn run(world: &World, goes_on: impl Fn() -> bool) {
    const PAGE: usize = 4096;
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 33) as usize % below
    };
    while goes_on() {
        let number = random(BLOCKS);
        let block = &world.churn.0[number];
        // The first third of the list is `malloc`'s.
        let is_mapped = number >= BLOCKS / 3;
        block
            .check()
            .unwrap_or_else(|wrong| panic!("block {number}: {wrong:?}"));
        let seed = random(1 << 30) as u64;
        match block.hide() {
            None if is_mapped => {
                let len = (1 + random(64)) * PAGE;
                let start = map(len);
                expect_zeros(start, len / 8, "mmap");
                block.show(start, len / 8, seed);
            }
            None => {
                let words = 1 + random(1 << 15);
                // SAFETY: a plain call.
                let start = unsafe { libc::malloc(words * 8) };
                assert!(!start.is_null());
                block.show(start.cast(), words, seed);
            }
            Some((start, words)) if is_mapped => {
                let len = words * 8;
                match random(4) {
                    // SAFETY: its own memory.
                    0 if unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) } == 0 => {
                        expect_zeros(start, words, "madvise");
                        block.show(start, words, seed);
                    }
                    1 => {
                        let new = (1 + random(64)) * PAGE;
                        // SAFETY: its own memory, which is used at its new place only.
                        let moved =
                            unsafe { libc::mremap(start.cast(), len, new, libc::MREMAP_MAYMOVE) };
                        assert_ne!(moved, libc::MAP_FAILED);
                        let old = len.min(new);
                        let added = moved.cast::<u8>().wrapping_add(old);
                        expect_zeros(added, (new - old) / 8, "mremap");
                        block.show(moved.cast(), new / 8, seed);
                    }
                    _ => unmap(start, len),
                }
            }
            // SAFETY: from malloc, and not used any more.
            Some((start, _)) => unsafe { libc::free(start.cast()) },
        }
    }
    for (number, block) in world.churn.0.iter().enumerate() {
        block
            .check()
            .unwrap_or_else(|wrong| panic!("block {number}, in the end: {wrong:?}"));
    }
}
