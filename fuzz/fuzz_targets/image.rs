//! Any bytes as an image: a clear error or an arena, never a panic, and never half of a delta.
//!
//! The first byte says what is done with the others. Checksums would keep nearly all inputs from
//! getting any further; so where its lowest bit is set, those of the header, of records and of runs
//! are made right first.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pagecow::image::{self, ErrorKind, Id, Loader};
use pagecow::{Arena, Engine};

const HEADER: usize = 96;
const RECORD: usize = 32;
/// Memory that an arena may ask for here. More is refused by the system or not, which is no matter
/// of ours.
const MOST: u64 = 64 << 20;

/// Puts the checksum of the bytes before it where the last four are.
fn sum(bytes: &mut [u8]) {
    if let Some((before, place)) = bytes.split_last_chunk_mut::<4>() {
        *place = crc32c::crc32c(before).to_le_bytes();
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// Makes the checksums right, of as many records as there are.
fn mend(bytes: &mut [u8]) {
    let Some((header, mut rest)) = bytes.split_at_mut_checked(HEADER) else {
        return;
    };
    sum(header);
    let mut whole = crc32c::crc32c(&header[..HEADER - 4]);
    while let Some((record, behind)) = rest.split_at_mut_checked(RECORD) {
        if record.starts_with(b"end.") {
            whole = crc32c::crc32c_append(whole, &record[..24]);
            record[24..28].copy_from_slice(&whole.to_le_bytes());
            sum(record);
            return;
        }
        let stored = number(&record[16..20]).min(behind.len());
        let (stored, behind) = behind.split_at_mut(stored);
        record[20..24].copy_from_slice(&crc32c::crc32c(stored).to_le_bytes());
        whole = crc32c::crc32c_append(whole, &record[..28]);
        sum(record);
        rest = behind;
    }
}

/// How long the arena is that the header asks for.
fn asked_for(bytes: &[u8]) -> u64 {
    bytes.get(16..24).map_or(0, |len| number(len) as u64)
}

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if how & 1 != 0 {
        mend(&mut bytes);
    }
    let builder = || Arena::builder().engine(Engine::Mprotect).keeper(false);
    if asked_for(&bytes) <= MOST {
        let loaded = Loader::new().arena(builder()).read_from(&bytes[..]);
        if let Ok((arena, info)) = loaded {
            // What was loaded can be saved, and is that again.
            let snapshot = arena.snapshot().unwrap();
            let mut again = Vec::new();
            image::write_to(&snapshot, &mut again).unwrap();
            let (arena_again, _) = Loader::new()
                .arena(builder())
                .read_from(&again[..])
                .unwrap();
            assert!(info.parent.is_none() && arena[..] == arena_again[..]);
        }
    }
    // As a delta of an arena that has bytes.
    let Some(parent) = bytes.get(48..72) else {
        return;
    };
    let parent = Id {
        lineage: u128::from_le_bytes(parent[..16].try_into().unwrap()),
        snapshot: u64::from_le_bytes(parent[16..].try_into().unwrap()),
    };
    let len = asked_for(&bytes).clamp(1, 1 << 20) as usize;
    let mut arena = builder().build(len).unwrap();
    arena.fill(3);
    let applied = image::apply(&mut arena, parent, &bytes[..]);
    if let Err(error) = applied {
        assert!(!matches!(error.kind(), ErrorKind::Cancelled));
        assert!(arena.iter().all(|byte| *byte == 3), "half of a delta");
    }
});
