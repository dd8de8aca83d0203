//! Ordinary memory, to compare with.

#![allow(unsafe_code, reason = "mmap")]

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::{io, ptr};

/// A private mapping of `len` zero bytes, with huge pages or without, that is never unmapped.
pub fn ordinary(len: usize, huge: bool) -> Result<&'static mut [u8], String> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(format!("mmap: {}", io::Error::last_os_error()));
    }
    // SAFETY: never unmapped, zero-filled, and no other code knows of it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast(), len) };
    advise(bytes, huge);
    Ok(bytes)
}

/// Private zero bytes between two forbidden pages; the first byte was written. Never unmapped.
pub fn between_forbidden_pages(len: usize) -> Result<*mut u8, String> {
    let page = region::page::size();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len + 2 * page,
            libc::PROT_NONE,
            flags,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(format!("mmap: {}", io::Error::last_os_error()));
    }
    let inner = start.cast::<u8>().wrapping_add(page);
    // SAFETY: inside the new mapping, of which no other code knows.
    if unsafe { libc::mprotect(inner.cast(), len, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        return Err(format!("mprotect: {}", io::Error::last_os_error()));
    }
    // SAFETY: as above, and writable now.
    unsafe { inner.write_volatile(0) };
    Ok(inner)
}

/// How many mappings this process has.
pub fn count() -> Result<usize, String> {
    let mappings = std::fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
    Ok(mappings.lines().count())
}

/// Why the kernel does not grant a process this many mappings; `None` when it does.
pub fn lacks_mappings(wanted: usize) -> Option<String> {
    let known = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let most: usize = known.trim().parse().unwrap_or(0);
    (most < wanted).then(|| format!("needs {wanted} mappings, vm.max_map_count is {most}"))
}

/// Resident memory of this process, counted page by page.
pub fn resident_kib() -> Result<usize, String> {
    let known =
        std::fs::read_to_string("/proc/self/smaps_rollup").map_err(|error| error.to_string())?;
    known
        .lines()
        .find_map(|line| line.strip_prefix("Rss:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or_else(|| "the kernel does not say what is resident".to_owned())
}

/// Asks for huge pages or for small ones, whatever the system's default is. For memory that was not
/// touched yet.
pub fn advise(bytes: &mut [u8], huge: bool) {
    let advice = if huge {
        libc::MADV_HUGEPAGE
    } else {
        libc::MADV_NOHUGEPAGE
    };
    // SAFETY: whole pages that are borrowed exclusively; their contents stay. Kernels without huge
    // pages refuse, and then the pages are small.
    unsafe { libc::madvise(bytes.as_mut_ptr().cast(), bytes.len(), advice) };
}

/// Memory as words that several threads may store to.
///
/// # Safety
///
/// From `start` on, `len` bytes must be mapped for as long as the words are used, and only atomic
/// stores may store to them.
pub unsafe fn words<'a>(start: *mut u8, len: usize) -> &'a [AtomicU64] {
    // SAFETY: as above; whole pages, so aligned and a multiple of 8 long.
    unsafe { std::slice::from_raw_parts(start.cast(), len / 8) }
}

/// Writes something to each word, so that each page is resident.
pub fn fill(bytes: &mut [u8]) {
    for (index, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = (index as u64 + 1).to_ne_bytes();
    }
}

/// Which part of this memory is in huge pages, from 0 to 1, as the kernel says.
pub fn huge_share(bytes: &[u8]) -> Result<f64, String> {
    let mappings =
        std::fs::read_to_string("/proc/self/smaps").map_err(|error| error.to_string())?;
    let asked = bytes.as_ptr_range();
    let asked = asked.start as usize..asked.end as usize;
    let (mut inside, mut huge) = (false, 0);
    for line in mappings.lines() {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if name == "AnonHugePages:" && inside {
            let kib: usize = rest.trim_end_matches("kB").trim().parse().unwrap_or(0);
            huge += kib << 10;
        } else if let Some(range) = address_range(name) {
            inside = range.start < asked.end && asked.start < range.end;
        }
    }
    Ok(huge as f64 / bytes.len() as f64)
}

fn address_range(name: &str) -> Option<Range<usize>> {
    let (start, end) = name.split_once('-')?;
    let parse = |address| usize::from_str_radix(address, 16).ok();
    Some(parse(start)?..parse(end)?)
}
