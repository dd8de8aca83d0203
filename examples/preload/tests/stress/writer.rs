//! A thread that stores in an order that can be replayed.
//!
//! Its memory has *slots*, a power of two of them. In each round it stores once to each, in the
//! order of a permutation that is the round's own. So from the number of stores alone follows what
//! each byte must be, in one pass over the memory. That number lies in memory of the same kind, and
//! is raised after each store: it and the bytes must fit exactly, but for the one store that may be
//! under way.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::program::map;

/// Bytes of a store that the kernel makes.
pub const KERNEL: usize = 3000;
/// Bytes of the file that it reads: a power of two, and as many more as a read takes.
const FILE: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// 8 bytes, by this thread.
    Words,
    /// By pread(2).
    Kernel,
}

pub struct Writer {
    kind: Kind,
    slots: usize,
    stride: usize,
    /// Where the first slot begins.
    first: usize,
    memory: *mut u8,
    len: usize,
    count: &'static AtomicU64,
    file: File,
    /// What the file holds.
    held: Vec<u8>,
}

// SAFETY: one thread stores, and others look only after it has ended, or in a process of their own.
unsafe impl Sync for Writer {}
// SAFETY: as above.
unsafe impl Send for Writer {}

/// A byte that is not what it must be.
#[derive(Clone, Copy, Debug)]
pub struct Wrong {
    pub offset: usize,
    pub found: u8,
    pub expected: u8,
    /// Stores so far.
    pub count: u64,
    /// The last store that was made to this place; `u64::MAX` for none.
    pub store: u64,
}

fn mix(number: u64) -> u64 {
    let mixed = (number ^ number >> 31).wrapping_mul(0x7fb5_d329_728e_a185);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x81da_def4_bc2d_d44d);
    mixed ^ mixed >> 33
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// `ODD` times this is 1.
const fn inverse_of_odd() -> u64 {
    let mut inverse = ODD;
    let mut round = 0;
    while round < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(ODD.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
}

impl Writer {
    pub fn new(kind: Kind, slots: usize, stride: usize, first: usize) -> Self {
        assert!(slots.is_power_of_two());
        let len = (first + slots * stride + 1).next_multiple_of(4096);
        let held: Vec<u8> = (0..(FILE + KERNEL) as u64)
            .map(|byte| mix(byte) as u8 | 1)
            .collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&held).unwrap();
        // SAFETY: a page of zeros, for ever.
        let count = unsafe { &*map(4096).cast::<AtomicU64>() };
        Self {
            kind,
            slots,
            stride,
            first,
            memory: map(len),
            len,
            count,
            file,
            held,
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// The place in its round of the store to a slot, and the other way round.
    fn place(&self, round: u64, slot: usize) -> usize {
        const BACK: u64 = inverse_of_odd();
        let mask = self.slots as u64 - 1;
        let place = (slot as u64).wrapping_sub(mix(round)).wrapping_mul(BACK);
        ((place ^ mix(!round)) & mask) as usize
    }

    fn slot(&self, round: u64, place: usize) -> usize {
        let mask = self.slots as u64 - 1;
        let slot = (place as u64 ^ mix(!round) & mask).wrapping_mul(ODD);
        (slot.wrapping_add(mix(round)) & mask) as usize
    }

    /// Where a slot's bytes are.
    fn offset(&self, slot: usize) -> usize {
        let room = self.stride - self.size();
        self.first + slot * self.stride + mix(slot as u64) as usize % (room + 1)
    }

    fn size(&self) -> usize {
        match self.kind {
            Kind::Words => size_of::<u64>(),
            Kind::Kernel => KERNEL,
        }
    }

    fn file_offset(&self, store: u64) -> usize {
        mix(store) as usize % FILE
    }

    /// Stores until `goes_on` says no; looks at what it has stored whenever `merges` has changed.
    pub fn store_while(&self, goes_on: impl Fn() -> bool, merges: &AtomicU64) {
        let mut merged = 0;
        let slots = self.slots as u64;
        let mut store = self.count();
        while goes_on() {
            let offset = self.offset(self.slot(store / slots, (store % slots) as usize));
            let to = self.memory.wrapping_add(offset);
            match self.kind {
                Kind::Words => {
                    let word = mix(store) | 1;
                    // SAFETY: inside its own memory.
                    unsafe { to.cast::<u64>().write_unaligned(word) };
                }
                Kind::Kernel => self.read_into(to, self.file_offset(store)),
            }
            store += 1;
            self.count.store(store, Ordering::SeqCst);
            let now = merges.load(Ordering::Relaxed);
            if std::mem::replace(&mut merged, now) != now
                && let Err(wrong) = self.check(false)
            {
                panic!("its own thread finds {wrong:?}");
            }
        }
    }

    fn read_into(&self, to: *mut u8, from: usize) {
        let mut done = 0;
        while done < KERNEL {
            let file = self.file.as_raw_fd();
            let at = to.wrapping_add(done).cast();
            // SAFETY: inside its own memory.
            let read = unsafe { libc::pread(file, at, KERNEL - done, (from + done) as i64) };
            assert!(read > 0, "pread: {}", std::io::Error::last_os_error());
            done += read as usize;
        }
    }

    /// Stores to some pages what never belongs there.
    pub fn scribble(&self) {
        for offset in (0..self.len).step_by(7 * 4096) {
            // SAFETY: inside the memory.
            unsafe { self.memory.wrapping_add(offset).write_volatile(0xee) };
        }
    }

    /// Compares all bytes. Where one store may be under way, its bytes may be there or not.
    /// Allocates nothing.
    pub fn check(&self, one_under_way: bool) -> Result<(), Wrong> {
        let count = self.count();
        let (round, place) = (count / self.slots as u64, count as usize % self.slots);
        let under_way = one_under_way.then(|| self.slot(round, place));
        let mut at = 0;
        for slot in 0..self.slots {
            let offset = self.offset(slot);
            self.expect_zeros(at..offset)?;
            at = offset + self.size();
            let before = |round: u64| round * self.slots as u64 + self.place(round, slot) as u64;
            let store = if self.place(round, slot) < place {
                before(round)
            } else if round > 0 {
                before(round - 1)
            } else {
                u64::MAX
            };
            let next = (under_way == Some(slot)).then_some(count);
            let bytes = |store: u64| {
                let word = (mix(store) | 1).to_ne_bytes();
                let from = self.file_offset(store);
                move |byte: usize| match self.kind {
                    _ if store == u64::MAX => 0,
                    Kind::Words => word[byte],
                    Kind::Kernel => self.held[from + byte],
                }
            };
            self.expect(offset..at, bytes(store), next.map(bytes), store)?;
        }
        self.expect_zeros(at..self.len)
    }

    fn expect_zeros(&self, range: Range<usize>) -> Result<(), Wrong> {
        let mut at = range.start;
        while at + 8 <= range.end {
            let word = self.memory.wrapping_add(at).cast::<u64>();
            // SAFETY: inside the memory.
            if unsafe { word.read_unaligned() } != 0 {
                break;
            }
            at += 8;
        }
        self.expect(at..range.end, |_| 0, None::<fn(usize) -> u8>, u64::MAX)
    }

    fn expect<F: Fn(usize) -> u8>(
        &self,
        range: Range<usize>,
        expected: impl Fn(usize) -> u8,
        or: Option<F>,
        store: u64,
    ) -> Result<(), Wrong> {
        for offset in range.clone() {
            // SAFETY: inside the memory.
            let found = unsafe { self.memory.wrapping_add(offset).read_volatile() };
            let byte = offset - range.start;
            let expected = expected(byte);
            if found != expected && or.as_ref().is_none_or(|or| or(byte) != found) {
                let count = self.count();
                return Err(Wrong {
                    offset,
                    found,
                    expected,
                    count,
                    store,
                });
            }
        }
        Ok(())
    }
}
