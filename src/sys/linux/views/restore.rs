//! Bringing back what was stored to private pages: throwing it away, or storing over it.

#![allow(unsafe_code, reason = "system calls")]

use super::Views;
use crate::page::{PageIndex, PageRange};

/// This process, where a call takes a descriptor of one (since Linux 6.14).
const SELF: libc::c_int = -10_001;
/// Most ranges that one call takes.
const MOST: usize = 1024;

impl Views {
    /// Throws away the copies that these private pages of the live view have: what was stored to
    /// them by the time of the call. Where the kernel refuses (they are locked, perhaps), what the
    /// file holds is stored over it.
    pub fn drop_copies(&self, runs: &[PageRange]) {
        for some in runs.chunks(MOST) {
            // One call for each costs five times as much.
            if !self.drop_at_once(some) {
                for run in some {
                    self.drop_run(*run);
                }
            }
        }
    }

    fn drop_run(&self, run: PageRange) {
        let (offset, len) = self.bytes_of(run);
        let start = self.live.wrapping_add(offset);
        // SAFETY: inside the live view, whose user asked for that.
        if unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTNEED) } != 0 {
            for page in run.iter() {
                self.put_back(page);
            }
        }
    }

    /// Stores to a private page of the live view, which has a copy of its own, what the file holds,
    /// unless that is there; returns whether it was not. As any store, it may meet others.
    pub fn put_back(&self, page: PageIndex) -> bool {
        let differs = self.differs(page);
        if differs {
            let offset = self.page_size.offset_of(page);
            let from = self.frozen.wrapping_add(offset);
            let to = self.live.wrapping_add(offset);
            // SAFETY: pages of two different views. Nobody stores to the one, which is held; the
            // user of the other asked for that (docs/soundness.md).
            unsafe { std::ptr::copy_nonoverlapping(from, to, self.page_size.bytes()) };
        }
        differs
    }

    /// `false` where not all was done: the kernel does not know the call, or refuses a part.
    fn drop_at_once(&self, runs: &[PageRange]) -> bool {
        let ranges: Vec<libc::iovec> = runs
            .iter()
            .map(|run| {
                let (offset, len) = self.bytes_of(*run);
                libc::iovec {
                    iov_base: self.live.wrapping_add(offset).cast(),
                    iov_len: len,
                }
            })
            .collect();
        let bytes: usize = ranges.iter().map(|range| range.iov_len).sum();
        // SAFETY: ranges inside the live view, whose user asked for that; the kernel reads as many
        // of them as there are.
        let dropped = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                SELF,
                ranges.as_ptr(),
                ranges.len(),
                libc::MADV_DONTNEED,
                0,
            )
        };
        dropped as usize == bytes
    }
}
