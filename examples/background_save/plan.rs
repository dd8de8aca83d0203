//! What the writers write, as pure functions: the checker replays it from here.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// 64-bit words in a record.
pub const RECORD_WORDS: usize = 8;
/// Bytes in a record; one stands at the start of each page.
pub const RECORD_BYTES: usize = RECORD_WORDS * 8;

/// What one write leaves at the start of its page: the sequence number, words derived from it, a
/// checksum. The words are stored in this order.
pub type Record = [u64; RECORD_WORDS];

/// Of all writers together.
const HOT_PAGES: usize = 500;
/// One write in this many goes to any page, beside those to hot ones.
const ANYWHERE: u64 = 20;

/// Which pages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// All pages alike
    Uniform,
    /// 500 hot pages, and any page one time in 20
    Hot,
}

impl Pattern {
    /// How many of `pages` pages are written soon: all of them, or the hot ones.
    pub fn soon(self, pages: usize) -> usize {
        match self {
            Pattern::Uniform => pages,
            Pattern::Hot => pages.min(HOT_PAGES),
        }
    }
}

/// Which writer writes what, and in which order. Writer `w` owns the pages `p` with
/// `p % writers == w`.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    seed: u64,
    pages: usize,
    writers: usize,
    pattern: Pattern,
}

impl Plan {
    /// A plan for `pages` pages; never more writers than pages.
    ///
    /// Two runs need different seeds. Otherwise a file that one saved and the other loads would
    /// hold records that look like the other's own.
    pub fn new(seed: u64, pages: usize, writers: usize, pattern: Pattern) -> Plan {
        assert!(pages > 0 && writers > 0);
        Plan {
            seed,
            pages,
            writers: writers.min(pages),
            pattern,
        }
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn writers(&self) -> usize {
        self.writers
    }

    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// The pages that `writer` owns, in ascending order.
    pub fn owned(&self, writer: usize) -> impl Iterator<Item = usize> + use<> {
        (writer..self.pages).step_by(self.writers)
    }

    /// The page to which `writer` makes its write number `seq` (numbers start at 1).
    pub fn page(&self, writer: usize, seq: u64) -> usize {
        let owned = (self.pages - writer).div_ceil(self.writers);
        let hash = mix(self.seed ^ mix(writer as u64) ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let hash = match self.pattern {
            Pattern::Uniform => hash,
            Pattern::Hot if hash.is_multiple_of(ANYWHERE) => mix(hash),
            Pattern::Hot => {
                let own = HOT_PAGES.div_ceil(self.writers) as u64;
                mix(self.seed ^ mix(!(writer as u64)) ^ ((hash >> 32) % own))
            }
        };
        let pick = ((u128::from(hash) * owned as u128) >> 64) as usize;
        writer + pick * self.writers
    }

    /// What write number `seq` stores to `page`.
    pub fn record(&self, page: usize, seq: u64) -> Record {
        let key = self.seed ^ mix(page as u64).wrapping_add(seq.rotate_left(32));
        let mut record = [seq; RECORD_WORDS];
        for (i, word) in (1u64..).zip(&mut record[1..RECORD_WORDS - 1]) {
            *word = mix(key.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
        record[RECORD_WORDS - 1] = checksum(&record[..RECORD_WORDS - 1]);
        record
    }
}

/// Reads the record at the start of a page.
pub fn record_of(page: &[u8]) -> Record {
    let mut record = [0; RECORD_WORDS];
    for (word, bytes) in record.iter_mut().zip(page.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().expect("chunks of 8 bytes"));
    }
    record
}

/// Whether the last word is the checksum of the others.
pub fn is_whole(record: &Record) -> bool {
    record[RECORD_WORDS - 1] == checksum(&record[..RECORD_WORDS - 1])
}

/// A well-mixed function of 64 bits (the finalizer of splitmix64).
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn checksum(words: &[u64]) -> u64 {
    words.iter().fold(0x243f_6a88_85a3_08d3, |sum, word| {
        (sum ^ word)
            .rotate_left(23)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn hot_pages_get_nearly_all_writes() {
        const PAGES: usize = 50_000;
        const WRITES: u64 = 100_000;
        for writers in [1, 3] {
            let plan = Plan::new(5, PAGES, writers, Pattern::Hot);
            let mut writes: HashMap<usize, u64> = HashMap::new();
            for writer in 0..writers {
                for seq in 1..=WRITES {
                    let page = plan.page(writer, seq);
                    assert!(page < PAGES && page % writers == writer);
                    *writes.entry(page).or_default() += 1;
                }
            }
            // A page that is not hot gets few writes.
            let hot: Vec<u64> = writes.values().copied().filter(|&n| n > 50).collect();
            assert!((450..=510).contains(&hot.len()), "{} hot pages", hot.len());
            let share = hot.iter().sum::<u64>() as f64 / (WRITES * writers as u64) as f64;
            assert!((0.94..0.97).contains(&share), "{share} of the writes");
        }
    }
}
