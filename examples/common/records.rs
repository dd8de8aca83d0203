//! Memory that can be checked: whatever was written to it, whether all of it is of one moment can
//! be seen in the bytes alone.
//!
//! Each page but the first is a record: how often it was written, by which of all writes last,
//! bytes that follow from these, and a checksum. The first page has the number of the last of all
//! writes, and a digest of all records, which each write brings up to date. So a page that is old,
//! new or torn beside the others does not fit the digest. Memory that is all zeros holds no write
//! yet.

use std::fmt;

const WORD: usize = 8;
/// Words of the first page: the number of the last write, and the digest.
const SEQUENCE: usize = 0;
const DIGEST: usize = 1;
/// Words of a record. Between these and the last one, the checksum, are those that follow.
const COUNT: usize = 0;
const BY: usize = 1;
const FILLING: usize = 2;

/// What is wrong with some memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A record that no write has left like this.
    Torn { page: usize },
    /// A record of a later write than the last.
    TooNew { page: usize, by: u64, last: u64 },
    /// The records do not add up to as many writes as there were.
    Count { records: u64, last: u64 },
    /// Each record is right, but they are not of one moment.
    Mixed { last: u64 },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Torn { page } => write!(f, "page {page} is torn"),
            Wrong::TooNew { page, by, last } => {
                write!(f, "page {page} is of write {by}, the rest of write {last}")
            }
            Wrong::Count { records, last } => {
                write!(f, "pages show {records} writes, but there were {last}")
            }
            Wrong::Mixed { last } => write!(f, "not all pages are of write {last}'s moment"),
        }
    }
}

impl std::error::Error for Wrong {}

/// Makes the next write, to one page, and returns its number. Most writes go to a sixteenth of the
/// pages.
pub fn write(memory: &mut [u8], page_size: usize) -> u64 {
    let sequence = word(memory, SEQUENCE) + 1;
    let dice = mix(sequence);
    let records = memory.len() / page_size - 1;
    let among = if dice.is_multiple_of(10) {
        records
    } else {
        records.div_ceil(16)
    };
    let page = 1 + (dice >> 8) as usize % among;

    let (first, record) = memory.split_at_mut(page * page_size);
    let record = &mut record[..page_size];
    let before = term(page, record);
    let count = word(record, COUNT) + 1;
    let words = page_size / WORD;
    set(record, COUNT, count);
    set(record, BY, sequence);
    let mut sum = mix(count) ^ mix(sequence);
    for at in FILLING..words - 1 {
        let filling = sequence.wrapping_add(at as u64);
        set(record, at, filling);
        sum = sum.rotate_left(5) ^ filling;
    }
    set(record, words - 1, sum);

    let digest = word(first, DIGEST).wrapping_sub(before);
    set(first, DIGEST, digest.wrapping_add(term(page, record)));
    set(first, SEQUENCE, sequence);
    sequence
}

/// The number of the last write that memory holds, from its first bytes.
pub fn last_write(first: [u8; 8]) -> u64 {
    u64::from_ne_bytes(first)
}

/// Checks all of some memory, and returns the number of the last write that it holds.
pub fn check(memory: &[u8], page_size: usize) -> Result<u64, Wrong> {
    let last = word(memory, SEQUENCE);
    let (mut records, mut digest) = (0, 0_u64);
    for (page, record) in memory.chunks_exact(page_size).enumerate().skip(1) {
        let by = word(record, BY);
        if !is_whole(record) {
            return Err(Wrong::Torn { page });
        }
        if by > last {
            return Err(Wrong::TooNew { page, by, last });
        }
        records += word(record, COUNT);
        digest = digest.wrapping_add(term(page, record));
    }
    if records != last {
        return Err(Wrong::Count { records, last });
    }
    if digest != word(memory, DIGEST) {
        return Err(Wrong::Mixed { last });
    }
    Ok(last)
}

/// Whether one write left it, or none ever went there.
fn is_whole(record: &[u8]) -> bool {
    let (count, by) = (word(record, COUNT), word(record, BY));
    if count == 0 {
        return record.iter().all(|&byte| byte == 0);
    }
    let words = record.len() / WORD;
    let mut sum = mix(count) ^ mix(by);
    for at in FILLING..words - 1 {
        if word(record, at) != by.wrapping_add(at as u64) {
            return false;
        }
        sum = sum.rotate_left(5) ^ word(record, at);
    }
    word(record, words - 1) == sum
}

/// What a record adds to the digest.
fn term(page: usize, record: &[u8]) -> u64 {
    match word(record, COUNT) {
        0 => 0,
        count => mix(mix(mix(page as u64) ^ count) ^ word(record, BY)),
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let bytes = &bytes[at * WORD..][..WORD];
    u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
}

fn set(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at * WORD..][..WORD].copy_from_slice(&word.to_ne_bytes());
}

/// Numbers that look like random ones.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;
    const PAGES: usize = 40;

    fn after(writes: u64) -> Vec<u8> {
        let mut memory = vec![0; PAGES * PAGE];
        for number in 1..=writes {
            assert_eq!(write(&mut memory, PAGE), number);
        }
        memory
    }

    fn page(memory: &[u8], page: usize) -> &[u8] {
        &memory[page * PAGE..][..PAGE]
    }

    #[test]
    fn each_moment_is_right() {
        let mut memory = after(0);
        for number in 1..300 {
            write(&mut memory, PAGE);
            assert_eq!(check(&memory, PAGE), Ok(number));
        }
    }

    #[test]
    fn a_page_of_another_moment_is_found() {
        let (old, new) = (after(100), after(200));
        for other in 0..PAGES {
            let differs = page(&old, other) != page(&new, other);
            for (memory, from) in [(&old, &new), (&new, &old)] {
                let mut mixed = memory.clone();
                mixed[other * PAGE..][..PAGE].copy_from_slice(page(from, other));
                assert_eq!(check(&mixed, PAGE).is_err(), differs, "page {other}");
            }
        }
    }

    #[test]
    fn two_pages_whose_counts_add_up_are_found() {
        let memory = after(500);
        let (a, b) = (1, 2);
        let mut swapped = memory.clone();
        swapped[a * PAGE..][..PAGE].copy_from_slice(page(&memory, b));
        swapped[b * PAGE..][..PAGE].copy_from_slice(page(&memory, a));
        assert_eq!(check(&swapped, PAGE), Err(Wrong::Mixed { last: 500 }));
    }

    #[test]
    fn any_wrong_byte_of_a_record_is_found() {
        // All writes go to page 1 or 2.
        let mut memory = vec![0; 3 * PAGE];
        for _ in 0..20 {
            write(&mut memory, PAGE);
        }
        for at in PAGE..2 * PAGE {
            let mut wrong = memory.clone();
            wrong[at] ^= 4;
            assert!(check(&wrong, PAGE).is_err(), "byte {at}");
        }
    }
}
