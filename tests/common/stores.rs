//! Stores of all kinds.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use super::page_size;

/// Ways to store to some bytes, which are 64 at least.
pub type Store = fn(&mut [u8], u8);

pub const STORES: [(&str, Store); 6] = [
    ("bytes", |bytes, value| {
        for byte in bytes {
            // SAFETY: a byte that is borrowed exclusively.
            unsafe { std::ptr::from_mut(byte).write_volatile(value) };
        }
    }),
    ("unaligned words", |bytes, value| {
        let odd = 1 + bytes.as_ptr().align_offset(8);
        for word in bytes[odd..].chunks_exact_mut(8) {
            let word = word.as_mut_ptr().cast::<u64>();
            // SAFETY: eight bytes that are borrowed exclusively.
            unsafe { word.write_unaligned(u64::from_ne_bytes([value; 8])) };
        }
    }),
    ("a whole copy", |bytes, value| {
        bytes.copy_from_slice(&vec![value; bytes.len()]);
    }),
    ("a string instruction", |bytes, value| {
        let from = vec![value; bytes.len()];
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as many bytes, borrowed exclusively, none of them the others.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") from.len() => _,
                inout("rsi") from.as_ptr() => _,
                inout("rdi") bytes.as_mut_ptr() => _,
                options(nostack, preserves_flags),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        bytes.copy_from_slice(&from);
    }),
    ("vectors", |bytes, value| {
        #[cfg(target_arch = "x86_64")]
        for part in bytes.chunks_exact_mut(16) {
            use std::arch::x86_64::{_mm_set1_epi8, _mm_storeu_si128};
            // SAFETY: part of the processor's base.
            let vector = unsafe { _mm_set1_epi8(value as i8) };
            // SAFETY: sixteen bytes, borrowed exclusively.
            unsafe { _mm_storeu_si128(part.as_mut_ptr().cast(), vector) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        bytes.fill(value);
    }),
    ("atomics", |bytes, value| {
        let at = bytes.as_ptr().align_offset(8);
        let word = bytes[at..][..8].as_mut_ptr().cast::<u64>();
        // SAFETY: aligned, and borrowed exclusively.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.fetch_xor(u64::from_ne_bytes([value; 8]), Ordering::SeqCst);
        let now = word.load(Ordering::SeqCst);
        word.compare_exchange(now, !now, Ordering::SeqCst, Ordering::SeqCst)
            .unwrap();
    }),
];

/// The same store to memory and to what it must be after that; both must have changed.
#[track_caller]
pub fn store(name: &str, store: Store, memory: &mut [u8], mirror: &mut [u8], value: u8) {
    let before = mirror.to_vec();
    store(memory, value);
    // Where the words are is the same in both: pages begin at multiples of everything.
    let mut aligned = AlignedCopy::of(&before, memory.as_ptr() as usize % page_size());
    store(aligned.bytes(), value);
    mirror.copy_from_slice(aligned.bytes());
    assert!(mirror != before && memory == mirror, "{name}");
}

/// Bytes that lie as far from a border of pages as others.
struct AlignedCopy {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedCopy {
    fn of(bytes: &[u8], offset: usize) -> Self {
        let mut memory = vec![0; bytes.len() + 2 * page_size()];
        let start = memory.as_ptr().align_offset(page_size()) + offset;
        let len = bytes.len();
        memory[start..start + len].copy_from_slice(bytes);
        Self { memory, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }
}
