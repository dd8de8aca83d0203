//! Copying a page past the processor's caches: nobody reads the copy soon, and fetching its old
//! contents first would cost half as much again.

#![allow(unsafe_code, reason = "pointers, and the processor's own stores")]

/// Copies `bytes` bytes.
///
/// # Safety
///
/// Two different ranges of `bytes` bytes, a multiple of 64, each aligned to 64; nobody else stores
/// to either.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn page(to: *mut u8, from: *const u8, bytes: usize) {
    use std::arch::x86_64::{__m128i, _mm_sfence, _mm_stream_si128};
    const LANES: usize = 4;
    let (to, from) = (
        to.cast::<[__m128i; LANES]>(),
        from.cast::<[__m128i; LANES]>(),
    );
    for line in 0..bytes / size_of::<[__m128i; LANES]>() {
        // SAFETY: inside the range, aligned, and plain bytes (this function's contract).
        let values = unsafe { from.wrapping_add(line).read() };
        let target = to.wrapping_add(line).cast::<__m128i>();
        for (lane, value) in values.into_iter().enumerate() {
            // SAFETY: as above. SSE2 is part of x86-64.
            unsafe { _mm_stream_si128(target.wrapping_add(lane), value) };
        }
    }
    // Such stores are ordered by nothing else, not even by a locked instruction's release.
    // SAFETY: a fence.
    unsafe { _mm_sfence() };
}

/// As above.
///
/// # Safety
///
/// As above.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn page(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: this function's contract.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_bytes_arrive_and_none_beside_them() {
        #[repr(align(64))]
        struct Aligned([u8; 4096]);
        let from = Aligned(std::array::from_fn(|at| (at * 7 % 251) as u8));
        let mut to = Aligned([0xee; 4096]);
        // SAFETY: inside two different arrays, aligned, a multiple of 64 long.
        unsafe { super::page(to.0.as_mut_ptr().wrapping_add(64), from.0.as_ptr(), 3968) };
        assert_eq!(to.0[64..4032], from.0[..3968]);
        assert!(
            to.0[..64]
                .iter()
                .chain(&to.0[4032..])
                .all(|byte| *byte == 0xee)
        );
    }
}
