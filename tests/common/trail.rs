//! Stores in an order by which a snapshot shows which of them it has.

use std::sync::atomic::{AtomicU64, Ordering};

use super::page_size;

/// Stores the numbers 1, 2, 3, ... to one word of each page, page after page, again and again. A
/// snapshot must hold all stores up to some number, and none after it.
pub struct Trail<'a> {
    words: &'a [AtomicU64],
    /// Which word of each page.
    word: usize,
    next: u64,
}

impl<'a> Trail<'a> {
    pub fn new(words: &'a [AtomicU64], word: usize) -> Self {
        Self {
            words,
            word,
            next: 1,
        }
    }

    pub fn step(&mut self) {
        let words_per_page = page_size() / 8;
        let pages = (self.words.len() / words_per_page) as u64;
        let page = (self.next % pages) as usize;
        self.words[page * words_per_page + self.word].store(self.next, Ordering::Release);
        self.next += 1;
    }

    /// How many steps `bytes` hold. Panics when they lack one of the steps before the last.
    #[track_caller]
    pub fn steps_in(bytes: &[u8], word: usize) -> u64 {
        let found: Vec<u64> = bytes
            .chunks_exact(page_size())
            .map(|page| u64::from_ne_bytes(page[word * 8..][..8].try_into().unwrap()))
            .collect();
        let pages = found.len() as u64;
        let last = found.iter().copied().max().unwrap_or(0);
        for (page, found) in found.into_iter().enumerate() {
            let behind = (last + pages - page as u64) % pages;
            let wanted = last.saturating_sub(behind);
            assert_eq!(found, wanted, "page {page} after {last} steps");
        }
        last
    }
}
