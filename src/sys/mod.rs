//! The only place with system calls. One folder per platform; `fake` is the backend of the models.
//!
//! # Contract
//!
//! A backend makes calls, and decides nothing: which call protects which page is
//! [`crate::protect`]'s. It offers:
//!
//! - [`Memory`]: zero-filled pages, reserved but not resident until touched.
//!   [`guarded`](Memory::guarded) is an arena's: its mapping borders on no other, so a call over
//!   all of it splits none. `read` may run while others store to the same bytes, and then yields
//!   some mixture; `copy_page` takes only a page that nobody can store to, and `put_page` stores to
//!   one that is writable.
//! - [`Memory::protect`]: the permission of a mapping. Each border between two permissions is one
//!   of mappings; [`ProtectError::NoMappings`] means that the kernel's limit of them is reached.
//! - [`userfaultfd::Descriptor`]: the permission of pages one by one, which splits nothing. It ends
//!   when somebody closes the descriptor, which [`check`](userfaultfd::Descriptor::check) tells,
//!   and in the child of a fork.
//! - [`Zeroed`]: a slice of atomics in lazily zeroed memory.
//! - `file`: writing memory to a file at a place of it, while others store to that memory; what
//!   arrives is as what `read` yields.
//! - `futex`: sleeping and waking by address. A sleeper may wake early, never late.
//! - `random`: bits that tell things apart, in any process.
//! - `signal`, `fork`, `thread`, `clock`, `mappings`, [`die`].
//!
//! A page is writable when both permissions say so. Each of the two calls that change them changes
//! page by page. When it has returned for [`Permission::ReadOnly`] no store to its pages succeeds
//! any more on any thread. When it failed it may have changed a part of its pages.
//!
//! Async-signal-safe, since they are called
//!
//! - in the handler: `copy_page`, `differs`, `Memory::protect`, `Descriptor::protect`,
//!   `Descriptor::check`, `futex`, `clock::now` and `since`, `mappings::add`, `in_use` and `limit`,
//!   `thread_number`, `die`, and the values of a `Zeroed`;
//! - with a gate closed, for which a thread may wait that holds any lock: besides, `first_touched`;
//! - in the child of a fork: besides, `userfaultfd::forget_descriptor`.

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

/// What stores to a page do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// They are refused.
    ReadOnly,
    /// They succeed.
    Writable,
}

/// `len` bytes of some memory, from `start` on. Others may store to them meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub memory: &'a Memory,
    pub start: usize,
    pub len: usize,
}

impl Piece<'_> {
    /// Adds the next piece to this one, if it begins where this one ends; else returns `false`.
    pub fn join(&mut self, next: &Self) -> bool {
        let joins = std::ptr::eq(self.memory, next.memory) && self.start + self.len == next.start;
        if joins {
            self.len += next.len;
        }
        joins
    }
}

/// How pages that hold nothing yet are made resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Populate {
    /// By one call, where the kernel has it: three times as fast, but it holds the lock of all
    /// mappings, which is not fair. A thread that changes mappings meanwhile waits for up to 8 ms
    /// (measured).
    ByCall,
    /// By touching each.
    ByTouch,
}

/// An access to memory that is mapped, which the processor refused.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub address: usize,
    pub access: Access,
}

/// What was refused. A jump is neither.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// A store, or a read-modify-write.
    Write,
}

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
