//! The only place with system calls. One folder per platform; `fake` is the backend of the models.
//!
//! What a backend offers, and what it promises:
//!
//! - [`Memory`]: zero-filled pages, reserved but not resident until touched. `read` may run while others
//!   store to the same bytes and then yields some mixture; `copy_page` only from a page nobody can store to.
//! - [`Protection`]: an arena's memory and its protection. `arm` and `disarm` take page ranges inside the
//!   arena. When `arm` returns no store to the range succeeds any more on any thread; while it runs,
//!   some pages are armed and some not yet. A failed call may have changed part of its range.
//!   [`ProtectError::NoMappings`] means that the call would have split a mapping and the kernel's limit
//!   is reached; a call over the whole arena splits none. `whole_end` says where a call to `arm` is better
//!   ended.
//! - [`Zeroed`]: a slice of atomics in lazily zeroed memory.
//! - `futex`: sleeping and waking by address. A sleeper may wake early, never late.
//! - `signal`, `fork`, `clock`, `mappings`, [`die`].
//!
//! Async-signal-safe: `copy_page`, `read`, `differs`, `arm`, `disarm`, `unfold`, `check`, `futex`,
//! `clock::now`, `mappings`, `thread_number`, `die`.

mod blocks;

#[cfg(loom)]
mod fake;
#[cfg(loom)]
pub(crate) use fake::*;

#[cfg(all(not(loom), target_os = "linux"))]
mod linux;
#[cfg(all(not(loom), target_os = "linux"))]
pub(crate) use linux::*;

#[cfg(not(any(loom, target_os = "linux")))]
compile_error!(
    "pagecow needs Linux: its handler reads the kernel's signal context. \
     Another platform is a further folder beside src/sys/linux."
);

/// A type of which zero bytes are a valid value.
///
/// # Safety
///
/// Zero bytes are a valid value of the type, equal to its `Default`, and it needs no drop.
#[allow(
    unsafe_code,
    reason = "a promise about bytes that the compiler cannot check"
)]
pub(crate) unsafe trait ZeroValid: Default {}

// SAFETY: the value 0.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl ZeroValid for crate::sync::AtomicU64 {}

/// Why a protect call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtectError {
    /// It would need one more mapping than the kernel allows the process.
    NoMappings,
    /// Anything else: the error number.
    Refused(i32),
}

impl From<ProtectError> for std::io::Error {
    fn from(error: ProtectError) -> Self {
        Self::from_raw_os_error(match error {
            ProtectError::NoMappings => libc::ENOMEM,
            ProtectError::Refused(number) => number,
        })
    }
}
