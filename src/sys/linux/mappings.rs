//! The process's mapping budget: the kernel's limit, and what our arenas use of it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

/// The kernel's default, for when it cannot be asked.
static LIMIT: AtomicUsize = AtomicUsize::new(65530);
static IS_KNOWN: AtomicBool = AtomicBool::new(false);
static IN_USE: AtomicI64 = AtomicI64::new(0);

/// Asks the kernel for the limit: the first time, and where it begins to matter
/// ([`crate::window::reach`]) if it is what it was. Not in the handler.
pub(crate) fn refresh_limit() {
    if IS_KNOWN.swap(true, Ordering::Relaxed) && in_use() < limit() / 2 {
        return;
    }
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if let Some(limit) = limit {
        LIMIT.store(limit, Ordering::Relaxed);
    }
}

/// Mappings that the kernel allows the process.
pub(crate) fn limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// Mappings that all arenas use, as far as we know.
pub(crate) fn in_use() -> usize {
    IN_USE.load(Ordering::Relaxed).max(0) as usize
}

pub(crate) fn add(change: i64) {
    IN_USE.fetch_add(change, Ordering::Relaxed);
}
