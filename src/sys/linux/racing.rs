//! Loads of bytes to which others may store meanwhile. The compiler may neither assume that they
//! stand still nor read them twice: so they are volatile, or the processor's own
//! (docs/soundness.md).

#![allow(unsafe_code, reason = "pointers, and the processor's own loads")]

/// From this many bytes on, one instruction copies faster than a loop of loads does.
#[cfg(target_arch = "x86_64")]
const LONG: usize = 512;
/// Words compared at a time.
const LINE: usize = 8;

/// Copies bytes. What arrives is some mixture of old and new.
///
/// # Safety
///
/// There are as many as `into` has, none of them in it.
#[inline]
pub(super) unsafe fn read(from: *const u8, into: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if into.len() >= LONG {
        let words = into.len() / size_of::<u64>();
        let (first, rest) = into.split_at_mut(words * size_of::<u64>());
        // SAFETY: loads the bytes that there are (this function's contract) and stores as many. The
        // direction flag is clear, as everywhere.
        unsafe {
            std::arch::asm!(
                "rep movsq",
                inout("rcx") words => _,
                inout("rsi") from => _,
                inout("rdi") first.as_mut_ptr() => _,
                options(nostack, preserves_flags)
            );
        }
        // SAFETY: what is left.
        return unsafe { read_by_words(from.wrapping_add(first.len()), rest) };
    }
    // SAFETY: this function's contract.
    unsafe { read_by_words(from, into) };
}

/// As [`read`].
///
/// # Safety
///
/// As there.
unsafe fn read_by_words(mut from: *const u8, into: &mut [u8]) {
    let (head, rest) = into.split_at_mut(from.align_offset(8).min(into.len()));
    for byte in head {
        // SAFETY: one of the bytes (this function's contract).
        *byte = unsafe { from.read_volatile() };
        from = from.wrapping_add(1);
    }
    let (words, tail) = rest.as_chunks_mut::<8>();
    for word in words {
        // SAFETY: as above, and aligned since the head was split off.
        *word = unsafe { from.cast::<u64>().read_volatile() }.to_ne_bytes();
        from = from.wrapping_add(8);
    }
    for byte in tail {
        // SAFETY: as above.
        *byte = unsafe { from.read_volatile() };
        from = from.wrapping_add(1);
    }
}

/// Whether two pages differ. Where somebody stores meanwhile, the answer means nothing.
///
/// # Safety
///
/// There are `bytes` bytes at either, a multiple of 64; both are aligned to 8.
pub(super) unsafe fn differ(one: *const u8, other: *const u8, bytes: usize) -> bool {
    let (one, other) = (one.cast::<u64>(), other.cast::<u64>());
    (0..bytes / size_of::<u64>()).step_by(LINE).any(|line| {
        let bits = (line..line + LINE).map(|word| {
            // SAFETY: inside the page and aligned (this function's contract).
            let one = unsafe { one.wrapping_add(word).read_volatile() };
            // SAFETY: as above.
            one ^ unsafe { other.wrapping_add(word).read_volatile() }
        });
        bits.fold(0, |any, bits| any | bits) != 0
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_bytes_arrive_and_none_beside_them() {
        let from: Vec<u8> = (0..2000).map(|at| (at * 7 % 251) as u8).collect();
        for start in 0..9 {
            for len in [0, 1, 7, 8, 9, 63, 511, 512, 513, 519, 520, 1500] {
                let mut into = vec![0xee; len + 2];
                // SAFETY: inside a vector, into another.
                unsafe { super::read(from.as_ptr().wrapping_add(start), &mut into[1..=len]) };
                assert_eq!(into[1..=len], from[start..start + len], "{start}, {len}");
                assert_eq!([into[0], into[len + 1]], [0xee; 2], "{start}, {len}");
            }
        }
    }

    #[test]
    fn one_bit_anywhere_differs() {
        let one = [0x5555_5555_5555_5555_u64; 32];
        let mut other = one;
        let differ = |other: &[u64; 32]| {
            // SAFETY: two arrays of words.
            unsafe { super::differ(one.as_ptr().cast(), other.as_ptr().cast(), 256) }
        };
        assert!(!differ(&other));
        for bit in 0..32 * 64 {
            other[bit / 64] ^= 1 << (bit % 64);
            assert!(differ(&other), "bit {bit}");
            other[bit / 64] ^= 1 << (bit % 64);
        }
    }
}
