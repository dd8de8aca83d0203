//! A test that starts itself again with the library, and what the program does that it starts.

#![allow(
    dead_code,
    reason = "each folder of tests is a crate of its own and uses some of this"
)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common;

/// Set in the program that has the library.
const MARK: &str = "PAGECOW_TEST";
/// When a program that hangs fails; a child of it before, so that it is named.
const SECONDS: u32 = 600;
const SECONDS_OF_CHILD: u32 = 500;

/// Whether this is the program that has the library.
pub fn in_program() -> bool {
    std::env::var_os(MARK).is_some()
}

/// This executable, to be started for the test of this name, with the library.
pub fn again(name: &str, log: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", common::library())
        .env("PAGECOW_LOG", log)
        .env(MARK, "1");
    command
}

/// Has `scenario` lived in a program that has the library. Returns what that logged; `None` in
/// that program.
pub fn preloaded(name: &str, scenario: impl FnOnce()) -> Option<String> {
    started(name, &[], || Ok(()), scenario)
}

/// The same, where the program is started with these variables, and `before` was done in it, which
/// is async-signal-safe.
pub fn started(
    name: &str,
    variables: &[(&str, &str)],
    before: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
    scenario: impl FnOnce(),
) -> Option<String> {
    if in_program() {
        end_after(SECONDS);
        scenario();
        return None;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = again(name, log.path());
    command.envs(variables.iter().copied());
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

/// Ends this process if it lives that long.
pub fn end_after(seconds: u32) {
    // SAFETY: a plain call.
    unsafe { libc::alarm(seconds) };
}

/// The same, of a child. Async-signal-safe.
pub fn end_child_that_hangs() {
    end_after(SECONDS_OF_CHILD);
}

/// As an allocator maps it.
pub fn map(len: usize) -> *mut u8 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    mapped.cast()
}

pub fn unmap(start: *mut u8, len: usize) {
    // SAFETY: mapped by `map`, and not used any more.
    assert_eq!(unsafe { libc::munmap(start.cast(), len) }, 0);
}

pub fn bytes<'a>(start: *mut u8, len: usize) -> &'a mut [u8] {
    // SAFETY: mapped by `map`, for the tests.
    unsafe { std::slice::from_raw_parts_mut(start, len) }
}

/// Whether memory is the library's.
pub fn is_served(start: *const u8) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(from)..number(to)).contains(&start.addr()) && rest.contains("memfd:pagecow")
    })
}

/// Forks; the child does `act` and ends. Returns its process.
pub fn fork(act: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child does what `act` does, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        // It ends with its parent, and by itself.
        // SAFETY: a plain call.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        end_child_that_hangs();
        let went_well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_ok();
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!went_well)) };
    }
    child
}

pub fn expect_ended_well(child: libc::pid_t) {
    let mut status = 0;
    // SAFETY: a live variable.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed");
}

/// Waits until the library has merged what the last fork froze.
pub fn await_merged() {
    let own = format!("pagecow {}: ", std::process::id());
    await_log(|log| {
        let own = log.lines().filter_map(|line| line.strip_prefix(&own));
        let mut events =
            own.filter(|line| line.starts_with("fork: ") || line.starts_with("merged: "));
        events
            .next_back()
            .is_some_and(|last| last.starts_with("merged: "))
    });
}

/// Waits until what the library has logged is like this.
pub fn await_log(is_there: impl Fn(&str) -> bool) {
    let path = std::env::var_os("PAGECOW_LOG").unwrap();
    let begin = Instant::now();
    while !is_there(&std::fs::read_to_string(&path).unwrap()) {
        assert!(begin.elapsed() < Duration::from_secs(300), "not logged");
        std::thread::sleep(Duration::from_millis(5));
    }
}
