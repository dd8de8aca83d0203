//! Linux. Differences between processors are in `context`.

pub(crate) mod clock;
mod context;
mod copy;
mod descriptor;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod mappings;
mod mark;
mod memory;
mod mprotect;
mod pagemap;
mod racing;
mod random;
mod result;
mod room;
pub(crate) mod signal;
pub(crate) mod thread;
pub(crate) mod userfaultfd;
mod views;
mod zeroed;

pub(crate) use mark::Mark;
pub(crate) use memory::Memory;
pub(crate) use random::random;
pub(crate) use room::has_room;
pub(crate) use views::{Branch, Views};
pub(crate) use zeroed::Zeroed;

/// Writes a fixed text to standard error and aborts: for the fault path, which can do nothing else.
#[cold]
#[allow(
    unsafe_code,
    reason = "nothing but write(2) is allowed in a signal handler"
)]
pub(crate) fn die(text: &'static str) -> ! {
    // SAFETY: a plain system call on a live buffer. Whether it worked does not matter any more.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    std::process::abort()
}

/// The calling thread's number, as the kernel knows it.
#[allow(unsafe_code, reason = "a system call")]
pub(crate) fn thread_number() -> u64 {
    // SAFETY: takes no arguments and cannot fail.
    let number = unsafe { libc::syscall(libc::SYS_gettid) };
    number as u64
}
