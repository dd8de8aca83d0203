//! Memory of the program's that is not served, as the heap of the C library's own allocator, which
//! asks the kernel by calls that nobody can put himself in front of. The log says what to do.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::inside::Inside;
use crate::log::log;
use crate::served::Served;

/// So much makes a fork noticeably longer, in bytes.
const LARGE: usize = 64 << 20;

static SAID: AtomicBool = AtomicBool::new(false);

/// Says so, once, if there is much of it.
pub fn say_if_much(served: &Served) {
    // Copies of served memory count as its own.
    if SAID.load(Ordering::Relaxed) || !served.forkable.is_merged() {
        return;
    }
    let bytes = anonymous_pages().unwrap_or(0) * served.page;
    if bytes >= LARGE && !SAID.swap(true, Ordering::Relaxed) {
        log!(
            "{} MiB are not served: if the program uses the C library's malloc, put libjemalloc \
             behind this library in LD_PRELOAD",
            bytes >> 20
        );
    }
}

/// Resident pages of this process alone.
fn anonymous_pages() -> Option<usize> {
    let _inside = Inside::enter();
    let mut text = [0u8; 128];
    let mut file = File::open("/proc/self/statm").ok()?;
    let read = file.read(&mut text).ok()?;
    let text = std::str::from_utf8(&text[..read]).ok()?;
    let mut numbers = text.split_ascii_whitespace().skip(1);
    let mut number = || numbers.next()?.parse::<usize>().ok();
    let (resident, shared) = (number()?, number()?);
    resident.checked_sub(shared)
}
