//! The process's kernel mappings: counting them and using them up.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;

use super::page_size;

/// Mappings that the kernel allows a process.
pub fn limit() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    text.trim().parse().unwrap()
}

/// Mappings that this process has.
pub fn count() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| !line.ends_with("[vsyscall]"))
        .count()
}

/// Resident memory of this process, in bytes: counted page by page, where the kernel offers that.
/// Without the pages of files, since code becomes resident by the first call of it.
pub fn resident() -> usize {
    let counted = std::fs::read_to_string("/proc/self/smaps_rollup");
    let text = counted.unwrap_or_else(|_| std::fs::read_to_string("/proc/self/status").unwrap());
    let mut words = text
        .lines()
        .filter(|line| line.starts_with("Anonymous:") || line.starts_with("RssAnon:"))
        .flat_map(str::split_whitespace);
    let kib: usize = words.nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Memory of this process's page tables, in bytes.
pub fn page_tables() -> usize {
    status("VmPTE:")
}

/// Address space of this process, in bytes.
pub fn address_space() -> usize {
    status("VmSize:")
}

fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name));
    let kib: usize = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}

/// With less than there is, no memory is mapped any more.
pub fn limit_address_space(bytes: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a valid limit.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(result, 0);
}

/// The frames of memory that the pages of `bytes` are in, 0 for pages that are not resident; `None`
/// where this process is not told.
pub fn frames(bytes: &[u8]) -> Option<Vec<u64>> {
    let mut entries = vec![0; bytes.len() / page_size() * 8];
    let at = bytes.as_ptr() as usize / page_size() * 8;
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(&mut entries, at as u64).unwrap();
    let frame = |entry: &[u8; 8]| u64::from_ne_bytes(*entry) & ((1 << 55) - 1);
    let frames: Vec<u64> = entries.as_chunks().0.iter().map(frame).collect();
    frames.iter().any(|frame| *frame != 0).then_some(frames)
}

/// How many of `bytes` are in huge pages.
pub fn in_huge_pages(bytes: &[u8]) -> usize {
    resident_as("AnonHugePages:", bytes)
}

/// How many of `bytes` are in memory that no file has, such as copies of a file's.
pub fn anonymous_in(bytes: &[u8]) -> usize {
    resident_as("Anonymous:", bytes)
}

fn resident_as(kind: &str, bytes: &[u8]) -> usize {
    let (start, end) = (bytes.as_ptr() as usize, bytes.as_ptr_range().end as usize);
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    let mut kib = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        let number = |hex| usize::from_str_radix(hex, 16).ok();
        let range = first
            .split_once('-')
            .and_then(|(from, to)| Some(number(from)?..number(to)?));
        if let Some(range) = range {
            inside = range.start < end && start < range.end;
        } else if inside && first == kind {
            kib += words.next().unwrap().parse::<usize>().unwrap();
        }
    }
    kib << 10
}

/// Address space that the kernel makes no huge pages in, in bytes.
pub fn without_huge_pages() -> usize {
    let mappings = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut size = 0;
    let mut sum = 0;
    for line in mappings.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Size:") => size = words.next().unwrap().parse().unwrap(),
            Some("VmFlags:") if words.any(|flag| flag == "nh") => sum += size,
            _ => {}
        }
    }
    sum << 10
}

/// Has the kernel give this process no huge pages. They would make neighbours of a touched page
/// resident.
pub fn forbid_huge_pages() {
    // SAFETY: numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    assert_eq!(result, 0);
}

/// Whether all pages of `len` bytes from `start` can be written.
pub fn is_writable(start: *const u8, len: usize) -> bool {
    region::query_range(start, len)
        .unwrap()
        .all(|part| part.unwrap().is_writable())
}

/// A private mapping that is none of pagecow's.
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    pub fn new(pages: usize, protection: i32) -> Self {
        Self::try_new(pages, protection)
            .unwrap_or_else(|| panic!("mmap: {}", std::io::Error::last_os_error()))
    }

    /// `None` when the kernel refuses.
    pub fn try_new(pages: usize, protection: i32) -> Option<Self> {
        let len = pages * page_size();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        let start = start.cast();
        (start != libc::MAP_FAILED.cast()).then_some(Self { start, len })
    }

    /// Writable, and of a file, which may be shorter.
    pub fn of_file(file: &File, pages: usize) -> Self {
        let len = pages * page_size();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (flags, file) = (libc::MAP_SHARED, file.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let start = start.cast();
        Self { start, len }
    }

    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Changes the protection of one page; `false` when the kernel refuses.
    pub fn protect(&self, page: usize, protection: i32) -> bool {
        assert!(page < self.len / page_size());
        let start = self.start.wrapping_add(page * page_size());
        // SAFETY: a page of our own mapping, to which nobody has a reference.
        unsafe { libc::mprotect(start.cast(), page_size(), protection) == 0 }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nobody has a reference.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Uses mappings up until `left` remain, give or take a few. They come back when it is dropped.
pub fn leave(left: usize) -> Mapping {
    let limit = limit();
    let filler = Mapping::new(2 * limit, libc::PROT_NONE);
    let wanted = (limit - left).saturating_sub(count()) / 2;
    for step in 0..wanted {
        assert!(
            filler.protect(2 * step + 1, libc::PROT_READ),
            "step {step} of {wanted}"
        );
    }
    let found = limit - count();
    assert!(
        found.abs_diff(left) <= 8,
        "{found} mappings are left, not {left}"
    );
    filler
}

/// Uses mappings up until none can be split any more.
pub fn leave_none() -> Mapping {
    let filler = leave(20);
    let last = filler.len / page_size() - 1;
    // From the upper end, where nothing is split so far. A page in the middle takes two mappings
    // more, which the kernel may refuse when one is left. The page at the end takes one.
    let refused = (1..20).any(|step| !filler.protect(last - 2 * step, libc::PROT_READ));
    assert!(refused, "mappings did not run out");
    filler.protect(last, libc::PROT_READ);
    filler
}

/// Page faults that needed no input, of the calling thread so far.
pub fn minor_faults() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a structure of this kind.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    assert_eq!(result, 0);
    // SAFETY: zero bytes are valid, and the call filled it in.
    unsafe { usage.assume_init() }.ru_minflt
}
