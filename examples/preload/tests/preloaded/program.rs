//! A program that has the library, and what it does.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common;

pub const LEN: usize = 64 << 20;

/// Set in the program that has the library.
pub const MARK: &str = "PAGECOW_TEST";

/// Has `scenario` lived in a program with the library, and returns what that logged.
pub fn preloaded(name: &str, scenario: impl FnOnce()) -> String {
    if std::env::var_os(MARK).is_some() {
        // SAFETY: a plain call. A scenario that hangs fails.
        unsafe { libc::alarm(600) };
        scenario();
        return String::new();
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", common::library())
        .env("PAGECOW_LOG", log.path())
        .env(MARK, "1")
        .output()
        .unwrap();
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        output.status.success(),
        "{}\n{}{}\n{log}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{log}");
    log
}

pub fn in_program() -> bool {
    std::env::var_os(MARK).is_some()
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

pub fn is_served(start: *mut u8) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(from)..number(to)).contains(&(start as usize)) && rest.contains("memfd:pagecow")
    })
}

/// Forks; the child does `act` and ends. Returns its process.
pub fn fork(act: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child does what `act` does, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        // It ends with its parent, and by itself.
        // SAFETY: plain calls.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::alarm(500);
        }
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

/// Waits until the library says so.
pub fn await_merged() {
    let path = std::env::var_os("PAGECOW_LOG").unwrap();
    let count = |what: &str| {
        std::fs::read_to_string(&path)
            .unwrap()
            .matches(what)
            .count()
    };
    let forks = count("fork: child");
    let begin = Instant::now();
    while count("merged:") == 0 || forks == 0 {
        assert!(begin.elapsed() < Duration::from_secs(300), "not merged");
        std::thread::sleep(Duration::from_millis(5));
    }
}
