//! Children of `fork()`: the kernel's own frozen view of memory.

#![allow(unsafe_code, reason = "forks children and ends them")]

use std::io;
use std::time::{Duration, Instant};

/// A child process. Dropping this ends the child, if it has not ended before.
pub struct Child(libc::pid_t);

impl Child {
    /// A child that ends at once; also returns how long the fork took.
    pub fn short() -> Result<(Self, Duration), String> {
        let begin = Instant::now();
        // SAFETY: the child ends at once.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the process without running any of its clean-up.
            unsafe { libc::_exit(0) };
        }
        let took = begin.elapsed();
        Ok((Self::parents(child)?, took))
    }

    /// A child that sleeps until this is dropped or the thread that forked ends. It shares all
    /// memory with its parent meanwhile.
    pub fn sleeping() -> Result<Self, String> {
        // SAFETY: the child makes only the two calls below, and never returns.
        let child = unsafe { libc::fork() };
        if child != 0 {
            return Self::parents(child);
        }
        // SAFETY: only sets when the child ends.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            // SAFETY: sleeps.
            unsafe { libc::pause() };
        }
    }

    fn parents(child: libc::pid_t) -> Result<Self, String> {
        if child < 0 {
            return Err(format!("fork: {}", io::Error::last_os_error()));
        }
        Ok(Self(child))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: as above; how it ended does not matter.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

/// How many minor faults the calling thread has had so far: pages that the kernel made for it.
pub fn minor_faults() -> u64 {
    // SAFETY: all zeroes are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes to what it is given.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_minflt as u64
}
