//! Memory that is measured, and what is done to it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use pagecow::Arena;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::support::engines::Engine;
use crate::support::{mapping, said};

/// An arena, every page of which was written.
pub fn arena(len: usize) -> Result<Arena, String> {
    remapping()?.plain_arena(len)
}

pub fn remapping() -> Result<Engine, String> {
    Engine::try_from("remap".to_owned()).map_err(|error| error.to_string())
}

pub fn words_of(arena: &Arena) -> &[AtomicU64] {
    // SAFETY: the arena outlives them, and besides them only snapshots use it.
    unsafe { mapping::words(arena.as_mut_ptr(), arena.len()) }
}

/// Ordinary memory, every page of which was written.
pub fn plain(len: usize) -> Result<&'static [AtomicU64], String> {
    let bytes = mapping::ordinary(len, false)?;
    mapping::fill(bytes);
    // SAFETY: never unmapped, and used only through the words from here on.
    Ok(unsafe { mapping::words(bytes.as_mut_ptr(), len) })
}

pub fn words_per_page() -> usize {
    region::page::size() / 8
}

/// Nanoseconds per page of storing to each page in this order.
pub fn write_pages(words: &[AtomicU64], order: &[usize]) -> f64 {
    let begin = Instant::now();
    for page in order {
        words[page * words_per_page()].store(1, Relaxed);
    }
    begin.elapsed().as_nanos() as f64 / order.len() as f64
}

pub fn order(pages: usize, random: bool, part: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pages).collect();
    if random {
        order.shuffle(&mut StdRng::seed_from_u64(7));
    }
    order.truncate(pages / part);
    order
}

/// Waits until nothing is left to merge.
pub fn await_merged(arena: &Arena) -> Result<(), String> {
    while !arena.prepare().map_err(said)?.is_ready() {
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// An arena that is merged now, every page of which was written while it was frozen.
pub fn leave_to_merge(arena: &Arena) -> Result<(), String> {
    let snapshot = arena.snapshot().map_err(said)?;
    write_pages(words_of(arena), &order(arena.page_count(), false, 1));
    if arena.stats().pages_saved < arena.page_count() as u64 {
        return Err("not every page was copied".to_owned());
    }
    drop(snapshot);
    Ok(())
}
