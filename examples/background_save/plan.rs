//! What the writers write, as pure functions: the checker replays it from here.

/// 64-bit words in a record.
pub const RECORD_WORDS: usize = 8;
/// Bytes in a record; one stands at the start of each page.
pub const RECORD_BYTES: usize = RECORD_WORDS * 8;

/// What one write leaves at the start of its page: the sequence number, words derived from it, a
/// checksum. The words are stored in this order.
pub type Record = [u64; RECORD_WORDS];

/// Which writer writes what, and in which order. Writer `w` owns the pages `p` with
/// `p % writers == w`.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    seed: u64,
    pages: usize,
    writers: usize,
}

impl Plan {
    /// A plan for `pages` pages; never more writers than pages.
    ///
    /// Two runs need different seeds. Otherwise a file that one saved and the other loads would
    /// hold records that look like the other's own.
    pub fn new(seed: u64, pages: usize, writers: usize) -> Plan {
        assert!(pages > 0 && writers > 0);
        Plan {
            seed,
            pages,
            writers: writers.min(pages),
        }
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn writers(&self) -> usize {
        self.writers
    }

    /// The pages that `writer` owns, in ascending order.
    pub fn owned(&self, writer: usize) -> impl Iterator<Item = usize> + use<> {
        (writer..self.pages).step_by(self.writers)
    }

    /// The page to which `writer` makes its write number `seq` (numbers start at 1).
    pub fn page(&self, writer: usize, seq: u64) -> usize {
        let owned = (self.pages - writer).div_ceil(self.writers);
        let hash = mix(self.seed ^ mix(writer as u64) ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
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
