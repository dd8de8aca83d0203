//! What happens when the library is loaded.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::inside::{Inside, is_inside};
use crate::log::log;
use crate::{calls, fork, log, served};

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

const GIB: usize = 1 << 30;
/// Address space costs nothing: as many times the machine's memory.
const TIMES_MEMORY: usize = 2;

/// The value of a variable of the environment.
fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: before the program's own code runs nobody changes the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: a string that ends in zero, as above.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

static BEGUN: AtomicBool = AtomicBool::new(false);

/// When the first mapping is asked for, or when constructors run: an allocator's may run earlier.
pub extern "C" fn begin() {
    if BEGUN.load(Ordering::Relaxed) || is_inside() || BEGUN.swap(true, Ordering::Relaxed) {
        return;
    }
    let _inside = Inside::enter();
    if variable(c"PAGECOW_OFF").is_some_and(|value| value == c"1") {
        return;
    }
    if let Some(path) = variable(c"PAGECOW_LOG") {
        log::open(path);
    }
    let asked = variable(c"PAGECOW_GIB").and_then(|gib| gib.to_str().ok()?.parse::<usize>().ok());
    let len = asked.map_or_else(usual_len, |gib| gib.saturating_mul(GIB));
    let populates = variable(c"PAGECOW_POPULATE").is_some_and(|value| value == c"1");
    if let Err(why) = calls::signals::begin() {
        log!("not served: {why}");
        return;
    }
    if !fork::install() {
        log!("not served: no hooks around forks");
        return;
    }
    match served::begin(len, populates) {
        Ok(()) => log!("serving from {} GiB of address space", len / GIB),
        Err(why) => log!("not served: {why}"),
    }
}

fn usual_len() -> usize {
    // SAFETY: plain calls.
    let (pages, size) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    let memory = (pages.max(0) as usize).saturating_mul(size.max(0) as usize);
    (memory.saturating_mul(TIMES_MEMORY))
        .next_multiple_of(GIB)
        .clamp(16 * GIB, 4096 * GIB)
}
