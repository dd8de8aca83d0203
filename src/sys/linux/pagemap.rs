//! Which pages the kernel holds anything of, from `/proc/thread-self/pagemap`: that of the process
//! is its first thread's, which may have ended.
//!
//! The file is opened for each look: a descriptor that is kept would show a forked child its
//! parent's memory, and programs close descriptors that they do not know.
//!
//! A page that was swapped out counts, and so does one that has a marker only: the kernel does not
//! tell them apart. Async-signal-safe.

#![allow(unsafe_code, reason = "system calls")]

use std::ops::Range;
use std::os::fd::RawFd;

use crate::page::{PageIndex, PageRange, PageSize};

// linux/fs.h, since Linux 6.7
#[repr(C)]
struct ScanArgs {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const IOCTL_SCAN: libc::Ioctl = libc::_IOWR::<ScanArgs>(b'f' as u32, 16);
/// The page is a file's, or shared.
const OF_FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;

/// Bits of an entry, where the kernel offers no scan: present, swapped.
const ENTRY_HELD: u64 = 1 << 63 | 1 << 62;
/// The page is a file's, or shared.
const ENTRY_OF_FILE: u64 = 1 << 61;
/// Entries that are read at one time.
const ENTRIES: usize = 512;

/// Most runs of a look.
pub(crate) const MOST_RUNS: usize = 32;
/// Most pages of them, so that a look takes some ten microseconds.
const MOST_PAGES: usize = 4096;

/// What a look found: runs of pages, ascending.
pub(crate) struct Look {
    runs: [Range<usize>; MOST_RUNS],
    count: usize,
    pages: usize,
    /// Up to where it went.
    pub end: usize,
}

impl Look {
    fn new(start: usize) -> Self {
        Self {
            runs: std::array::from_fn(|_| 0..0),
            count: 0,
            pages: 0,
            end: start,
        }
    }

    /// Pages of all of which the kernel holds something.
    pub(super) fn of_all(pages: Range<usize>) -> Self {
        let mut look = Self::new(pages.start);
        look.end = pages.end;
        look.add(pages);
        look
    }

    /// The runs of pages of which the kernel holds anything, from where the look began up to its
    /// end.
    pub fn runs(&self) -> &[Range<usize>] {
        &self.runs[..self.count]
    }

    /// Adds pages, none of which lies before those that were added earlier; `false` when it has
    /// enough.
    fn add(&mut self, pages: Range<usize>) -> bool {
        let count = pages.len();
        match self.runs[..self.count].last_mut() {
            Some(run) if run.end == pages.start => run.end = pages.end,
            _ if self.count == MOST_RUNS => return false,
            _ => {
                self.runs[self.count] = pages;
                self.count += 1;
            }
        }
        self.pages += count;
        true
    }
}

/// Looks at pages of memory that begins at `base`, from the first of `range` on, which is not
/// empty: at all of them, or until there is enough to tell. `None` when the system does not say.
pub(crate) fn look(base: *const u8, page_size: PageSize, range: Range<usize>) -> Option<Look> {
    let pagemap = Pagemap::open()?;
    pagemap
        .scan(base, page_size, range.clone(), MOST_PAGES, &HELD)
        .or_else(|| pagemap.entries(base, page_size, range, is_held))
}

/// The first page of `range` of which the kernel holds anything, or no page. `None` when the kernel
/// cannot scan.
pub(super) fn first(
    base: *const u8,
    page_size: PageSize,
    range: Range<usize>,
) -> Option<Option<PageIndex>> {
    let pagemap = Pagemap::open()?;
    let look = pagemap.scan(base, page_size, range, 1, &HELD)?;
    Some(look.runs().first().map(|run| PageIndex::new(run.start)))
}

/// Calls `found` with each of these pages, of a private mapping of a file that begins at `base`,
/// that has a copy of its own: that is, which was stored to. Returns up to where the system says
/// that: the end of them, unless it refuses.
pub(super) fn private(
    base: *const u8,
    page_size: PageSize,
    pages: PageRange,
    mut found: impl FnMut(PageIndex),
) -> usize {
    let Some(pagemap) = Pagemap::open() else {
        return pages.start();
    };
    let mut at = pages.start();
    while at < pages.end() {
        let left = at..pages.end();
        let look = pagemap
            .scan(base, page_size, left.clone(), usize::MAX, &COPIES)
            .or_else(|| pagemap.entries(base, page_size, left, is_copy));
        let Some(look) = look else { break };
        for page in look.runs().iter().cloned().flatten() {
            found(PageIndex::new(page));
        }
        at = look.end;
    }
    at
}

/// Which pages a scan finds.
struct Wanted {
    without: u64,
    any_of: u64,
}

const HELD: Wanted = Wanted {
    without: 0,
    any_of: PRESENT | SWAPPED,
};
const COPIES: Wanted = Wanted {
    without: OF_FILE,
    any_of: PRESENT | SWAPPED,
};

/// The same by a page's entry.
fn is_held(entry: u64) -> bool {
    entry & ENTRY_HELD != 0
}

fn is_copy(entry: u64) -> bool {
    is_held(entry) && entry & ENTRY_OF_FILE == 0
}

/// The open file.
struct Pagemap(RawFd);

impl Pagemap {
    fn open() -> Option<Self> {
        // SAFETY: a path that ends in zero; returns a descriptor.
        let descriptor = unsafe {
            libc::open(
                c"/proc/thread-self/pagemap".as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        (descriptor >= 0).then_some(Self(descriptor))
    }

    fn scan(
        &self,
        base: *const u8,
        page_size: PageSize,
        range: Range<usize>,
        most: usize,
        wanted: &Wanted,
    ) -> Option<Look> {
        let mut regions = [Region::default(); MOST_RUNS];
        let base = base as usize;
        let address = |page: usize| (base + page * page_size.bytes()) as u64;
        let page = |address: u64| (address as usize).wrapping_sub(base) / page_size.bytes();
        let mut args = ScanArgs {
            size: size_of::<ScanArgs>() as u64,
            flags: 0,
            start: address(range.start),
            end: address(range.end),
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: MOST_RUNS as u64,
            max_pages: most as u64,
            category_inverted: wanted.without,
            category_mask: wanted.without,
            category_anyof_mask: wanted.any_of,
            return_mask: PRESENT | SWAPPED,
        };
        // SAFETY: the request's own arguments; the kernel fills in at most `vec_len` regions, which
        // is how many there are, and reads nothing of the pages.
        let found = unsafe { libc::ioctl(self.0, IOCTL_SCAN, &raw mut args) };
        let found = usize::try_from(found).ok()?;
        let mut look = Look::new(range.start);
        for region in regions.get(..found)? {
            look.add(page(region.start)..page(region.end));
        }
        look.end = page(args.walk_end);
        // Anything else would not be what the kernel promises.
        let last = look.runs().last().map_or(range.start, |run| run.end);
        let sound = look.end > range.start && last <= look.end && look.end <= range.end;
        sound.then_some(look)
    }

    /// One entry for each page.
    fn entries(
        &self,
        base: *const u8,
        page_size: PageSize,
        range: Range<usize>,
        is_wanted: fn(u64) -> bool,
    ) -> Option<Look> {
        let base = base as usize / page_size.bytes();
        let mut look = Look::new(range.start);
        let mut entries = [0u64; ENTRIES];
        while look.end < range.end && look.pages < MOST_PAGES {
            let some = ENTRIES.min(range.end - look.end);
            let entries = &mut entries[..some];
            if !self.read(base + look.end, entries) {
                return None;
            }
            for entry in entries {
                if is_wanted(*entry) && !look.add(look.end..look.end + 1) {
                    return Some(look);
                }
                look.end += 1;
            }
        }
        Some(look)
    }

    /// Reads the entries of pages from this one on, counted from address zero.
    fn read(&self, page: usize, entries: &mut [u64]) -> bool {
        let bytes = size_of_val(entries);
        let offset = (page * size_of::<u64>()) as libc::off_t;
        // SAFETY: the buffer has as many bytes.
        let read = unsafe { libc::pread(self.0, entries.as_mut_ptr().cast(), bytes, offset) };
        usize::try_from(read) == Ok(bytes)
    }
}

impl Drop for Pagemap {
    fn drop(&mut self) {
        // SAFETY: our own descriptor, not used any more.
        unsafe { libc::close(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageCount;
    use crate::sys::{Memory, Populate};

    /// Memory of some pages, of which these are touched.
    fn memory(pages: usize, touched: &[usize]) -> (Memory, PageSize) {
        let page_size = PageSize::host();
        let memory = Memory::new(PageCount::new(pages), page_size).unwrap();
        // SAFETY: the whole mapping. A huge page would make neighbours resident.
        unsafe {
            libc::madvise(
                memory.as_mut_ptr().cast(),
                memory.len(),
                libc::MADV_NOHUGEPAGE,
            )
        };
        for page in touched {
            let page = PageIndex::new(*page);
            memory.populate(page.into(), page_size, Populate::ByTouch);
        }
        (memory, page_size)
    }

    /// All runs from `start` on, by as many looks as it takes, of either kind.
    fn runs(memory: &Memory, page_size: PageSize, start: usize, scan: bool) -> Option<Vec<usize>> {
        let end = memory.len() / page_size.bytes();
        let mut pages = Vec::new();
        let mut at = start;
        while at < end {
            let pagemap = Pagemap::open().unwrap();
            let look = if scan {
                pagemap.scan(memory.as_ptr(), page_size, at..end, MOST_PAGES, &HELD)?
            } else {
                pagemap
                    .entries(memory.as_ptr(), page_size, at..end, is_held)
                    .unwrap()
            };
            assert!(look.end > at);
            assert!(look.runs().is_sorted_by(|a, b| a.end < b.start));
            pages.extend(look.runs().iter().cloned().flatten());
            at = look.end;
        }
        Some(pages)
    }

    #[test]
    fn touched_pages_are_found_and_no_others() {
        let mut touched: Vec<usize> = (1000..9000).collect();
        touched.extend((20_000..20_400).step_by(3));
        touched.push(59_999);
        let (memory, page_size) = memory(60_000, &touched);
        for scan in [true, false] {
            let Some(found) = runs(&memory, page_size, 7, scan) else {
                println!("skipped: no scan before Linux 6.7");
                continue;
            };
            assert!(found == touched, "scan: {scan}");
        }
        let look = look(memory.as_ptr(), page_size, 9000..60_000).unwrap();
        assert_eq!(look.runs()[0], 20_000..20_001);
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let (memory, page_size) = memory(3000, &[2999]);
        let look = look(memory.as_ptr(), page_size, 0..2999).unwrap();
        assert_eq!((look.runs(), look.end), (&[][..], 2999));
        if let Some(first) = first(memory.as_ptr(), page_size, 5..3000) {
            assert_eq!(first, Some(PageIndex::new(2999)));
        }
    }
}
