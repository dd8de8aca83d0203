//! A test that starts itself again with the library, where something is refused; and what such a
//! program does.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common;

/// Set in the program that has the library.
const MARK: &str = "PAGECOW_TEST";
const LEN: usize = 4 << 20;

/// Has `scenario` lived in a program that is started with these variables, and in which `before`
/// was done, which is async-signal-safe. Returns what the library logged; `None` in that program.
pub fn started(
    name: &str,
    variables: &[(&str, &str)],
    before: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
    scenario: impl FnOnce(),
) -> Option<String> {
    if std::env::var_os(MARK).is_some() {
        // SAFETY: a plain call. A scenario that hangs fails.
        unsafe { libc::alarm(500) };
        scenario();
        return None;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", common::library())
        .env("PAGECOW_LOG", log.path())
        .env(MARK, "1")
        .envs(variables.iter().copied());
    // SAFETY: async-signal-safe.
    unsafe { command.pre_exec(before) };
    let output = command.output().unwrap();
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        output.status.success(),
        "{}\n{}{}\n{log}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{log}");
    Some(log)
}

/// As an allocator maps it.
pub fn map() -> &'static mut [u8] {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), LEN, access, flags, -1, 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    // SAFETY: zeros, which nobody else has.
    unsafe { std::slice::from_raw_parts_mut(mapped.cast(), LEN) }
}

/// Whether memory is the library's.
pub fn is_served(bytes: &[u8]) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        let range = number(from)..number(to);
        range.contains(&bytes.as_ptr().addr()) && rest.contains("memfd:pagecow")
    })
}

fn are(bytes: &[u8], value: u8) -> bool {
    bytes.iter().all(|byte| *byte == value)
}

/// Forks, and each side has its own bytes, on the heap, too. An error is fork(2)'s.
pub fn fork(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut heap = vec![1u8; 1 << 20];
    bytes.fill(1);
    let (mut told, mut tell) = std::io::pipe()?;
    // SAFETY: the child looks at bytes, and ends.
    let child = unsafe { libc::fork() };
    if child < 0 {
        let error = std::io::Error::last_os_error();
        assert!(are(bytes, 1) && are(&heap, 1));
        return Err(error);
    }
    if child == 0 {
        // SAFETY: a plain call.
        unsafe { libc::alarm(400) };
        drop(tell);
        let is_told = told.read_exact(&mut [0]).is_ok();
        let is_right = is_told && are(bytes, 1) && are(&heap, 1);
        bytes.fill(3);
        heap.fill(3);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!is_right || !are(bytes, 3) || !are(&heap, 3))) };
    }
    let half = bytes.len() / 2;
    bytes[half..].fill(2);
    heap.fill(2);
    tell.write_all(&[0])?;
    let mut status = 0;
    // SAFETY: a live variable.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child saw wrong bytes");
    assert!(are(&bytes[..half], 1) && are(&bytes[half..], 2) && are(&heap, 2));
    Ok(())
}

/// Allocates and forks, some times.
pub fn live() {
    let bytes = map();
    assert!(are(bytes, 0));
    for _ in 0..3 {
        fork(bytes).unwrap();
        let other = map();
        assert!(are(other, 0));
        other.fill(5);
        // SAFETY: mapped above, and not used any more.
        assert_eq!(unsafe { libc::munmap(other.as_mut_ptr().cast(), LEN) }, 0);
    }
}

/// Waits until the library has logged this.
pub fn await_logged(text: &str) {
    await_log(|log| log.contains(text));
}

/// Waits until the library has merged what the last fork froze.
pub fn await_merged() {
    await_log(|log| {
        let events = log.lines().rev();
        let mut events = events.filter(|line| line.contains("fork: ") || line.contains("merged: "));
        events.next().is_some_and(|last| last.contains("merged: "))
    });
}

fn await_log(is_there: impl Fn(&str) -> bool) {
    let path = std::env::var_os("PAGECOW_LOG").unwrap();
    let begin = Instant::now();
    while !is_there(&std::fs::read_to_string(&path).unwrap()) {
        assert!(begin.elapsed() < Duration::from_secs(300), "not logged");
        std::thread::sleep(Duration::from_millis(5));
    }
}
