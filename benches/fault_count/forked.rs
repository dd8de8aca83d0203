//! The row `fork`: minor faults of a process that writes each page while a child keeps the old
//! bytes.
//!
//! The count is exact to the page, for these reasons. The process is fresh and has written each
//! page once. It has no huge pages. A thread counts its own faults, over the loop only. And it has
//! run that same loop over one page of its own *after* the fork, so that its stack and the counters
//! are its own again.

use std::io::{Read, Write};
use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::{io, ptr, thread};

use crate::{Row, add_up, fill, shuffled, store};

/// First argument of the fresh process; the length and the number of threads follow.
pub const ALONE: &str = "--fork-alone";

/// Starts a fresh process for the measurement.
pub fn row(len: usize, threads: usize) -> Result<Row, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args([ALONE, &len.to_string(), &threads.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let numbers: Option<Vec<u64>> = said
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    match numbers.as_deref() {
        Some(&[pages_written, faults]) if output.status.success() => Ok(Row {
            bench: "fault_count",
            engine: None,
            case: "fork",
            threads,
            pages_written,
            faults,
            spurious: None,
            soft: None,
            pages_saved: None,
            protect_calls: None,
            vma_peak: None,
            exact: faults == pages_written,
        }),
        _ => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// What the fresh process does.
pub fn alone(args: impl Iterator<Item = String>) -> ExitCode {
    let numbers: Vec<usize> = args.map_while(|arg| arg.parse().ok()).collect();
    let &[len, threads] = numbers.as_slice() else {
        eprintln!("fault_count: {ALONE} is for its own use");
        return ExitCode::from(2);
    };
    match measure(len, threads) {
        Ok((pages_written, faults)) => {
            println!("{pages_written} {faults}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// An ordinary private mapping, of small pages, that is never unmapped.
fn map(len: usize) -> io::Result<&'static mut [u8]> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: our own mapping. Kernels without huge pages refuse, and that is fine.
    unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
    // SAFETY: never unmapped, zero-filled, and no other code knows of it.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), len) })
}

fn atomic(bytes: &'static mut [u8]) -> &'static [AtomicU64] {
    // SAFETY: whole pages, so aligned and a multiple of 8 long, borrowed exclusively for ever.
    unsafe { std::slice::from_raw_parts(bytes.as_mut_ptr().cast(), bytes.len() / 8) }
}

/// Minor faults of the calling thread so far.
fn minor_faults(usage: &mut libc::rusage) -> u64 {
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage) };
    usage.ru_minflt as u64
}

fn measure(len: usize, threads: usize) -> io::Result<(u64, u64)> {
    let page_size = region::page::size();
    let bytes = map(len)?;
    fill(bytes);
    let before = bytes.to_vec();
    let order = shuffled(0, len / page_size);
    let shares: Vec<Vec<usize>> = order
        .chunks(order.len().div_ceil(threads))
        .map(<[_]>::to_vec)
        .collect();
    let own: Vec<_> = shares
        .iter()
        .map(|_| map(page_size).map(atomic))
        .collect::<io::Result<_>>()?;
    let (mut ready, mut done) = io::pipe()?;
    let image: *const [u8] = bytes;
    let words = atomic(bytes);

    // SAFETY: one thread so far. The child compares, and ends without returning.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(done);
        let _ = ready.read(&mut [0]);
        // SAFETY: the child's own memory, to which nothing writes in this process.
        let unchanged = unsafe { &*image } == before.as_slice();
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!unchanged)) };
    }
    if child < 0 {
        return Err(io::Error::last_os_error());
    }

    let start = Barrier::new(threads);
    let faults = thread::scope(|scope| {
        let writers: Vec<_> = shares
            .iter()
            .zip(own)
            .map(|(share, own)| {
                let start = &start;
                scope.spawn(move || {
                    // SAFETY: plain numbers, for which zero bytes are valid.
                    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
                    for _ in 0..2 {
                        minor_faults(&mut usage);
                        store(own, page_size / 8, &[0]);
                    }
                    start.wait();
                    let before = minor_faults(&mut usage);
                    store(words, page_size / 8, share);
                    minor_faults(&mut usage) - before
                })
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().expect("writers do not panic"))
            .sum()
    });

    done.write_all(&[1])?;
    let mut status = 0;
    // SAFETY: `status` is writable.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if status != 0 {
        return Err(io::Error::other("the child's memory has changed"));
    }
    let mut expected = before;
    let pages_written = add_up(&shares, &mut expected, page_size);
    // SAFETY: the writers have ended.
    if unsafe { &*image } != expected.as_slice() {
        return Err(io::Error::other("a store was lost"));
    }
    Ok((pages_written, faults))
}
