//! Children of `fork()`: the kernel's own frozen view of memory.

#![allow(unsafe_code, reason = "forks children and ends them")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
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

    /// A child that writes memory to a file by write(2), in pieces of 256 KiB, and ends; returns
    /// how long writing took.
    pub fn writing(memory: (*const u8, usize), file: &File) -> Result<Duration, String> {
        const PIECE: usize = 256 << 10;
        let (start, len) = memory;
        let (mut result, told) = io::pipe().map_err(|error| error.to_string())?;
        // SAFETY: the child makes only system calls, looks at the clock, and never returns.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let begin = Instant::now();
            let written = (0..len).step_by(PIECE).all(|offset| {
                let piece = PIECE.min(len - offset);
                let from = start.wrapping_add(offset);
                // SAFETY: the bytes are mapped.
                let written = unsafe { libc::write(file.as_raw_fd(), from.cast(), piece) };
                written == piece as isize
            });
            let took = if written {
                begin.elapsed().as_nanos() as u64
            } else {
                0
            };
            let _ = (&told).write_all(&took.to_ne_bytes());
            // SAFETY: ends the process without running any of its clean-up.
            unsafe { libc::_exit(0) };
        }
        drop(told);
        let _child = Self::parents(child)?;
        let mut took = [0; 8];
        result
            .read_exact(&mut took)
            .map_err(|error| error.to_string())?;
        match u64::from_ne_bytes(took) {
            0 => Err("the child could not write the file".to_owned()),
            took => Ok(Duration::from_nanos(took)),
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
