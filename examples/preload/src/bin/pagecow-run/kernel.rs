//! Whether this kernel, with the limits that this process has, grants what the library needs: that
//! is found out by a program that has it.

use std::io::{Read, Write};
use std::process::{Command, ExitCode, Output, Stdio};

use crate::library::Preload;

const LEN: usize = 4 << 20;

/// How it serves, or why it does not.
pub fn check(preload: &Preload) -> Result<String, String> {
    if std::env::var_os("PAGECOW_OFF").is_some_and(|value| value == "1") {
        return Err("PAGECOW_OFF=1 is set".to_owned());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(own)
        .arg("--probe")
        .env("LD_PRELOAD", preload.list())
        // The log goes to the pipe that this process reads.
        .env("PAGECOW_LOG", "/proc/self/fd/1")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("no program can be started: {error}"))?;
    judge(&output)
}

fn judge(output: &Output) -> Result<String, String> {
    let log = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // "pagecow NUMBER: WHAT"
    let lines = || {
        log.lines()
            .filter_map(|line| line.strip_prefix("pagecow ")?.split_once(": "))
            .map(|(_, what)| what)
    };
    if let Some(why) = lines().find_map(|line| line.strip_prefix("not served: ")) {
        return Err(why.to_owned());
    }
    let Some(how) = lines().find(|line| line.starts_with("serving ")) else {
        let why = errors.lines().next().unwrap_or("it has said nothing");
        return Err(format!("the library was not loaded: {why}"));
    };
    if !output.status.success() {
        let why = lines().find(|line| line.contains("refused"));
        let why = why.or(errors.lines().next()).unwrap_or_default();
        return Err(format!("a fork on trial failed ({}): {why}", output.status));
    }
    if !lines().any(|line| line.starts_with("fork: ")) {
        return Err("the library did not notice a fork on trial".to_owned());
    }
    Ok(how.to_owned())
}

/// The program: forks once, and looks whether either side sees only its own.
pub fn probe() -> ExitCode {
    match forks_well() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a side of a fork saw the other's bytes");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn forks_well() -> std::io::Result<bool> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), LEN, access, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: zeros of that length, which nobody else has.
    let bytes = unsafe { std::slice::from_raw_parts_mut(mapped.cast::<u8>(), LEN) };
    bytes.fill(1);
    let (mut told, mut tell) = std::io::pipe()?;
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(std::io::Error::last_os_error());
    }
    if child == 0 {
        drop(tell);
        let is_told = told.read_exact(&mut [0]).is_ok();
        let is_well = is_told && bytes.iter().all(|byte| *byte == 1);
        bytes.fill(3);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!is_well)) };
    }
    bytes.fill(2);
    tell.write_all(&[0])?;
    let mut status = 0;
    // SAFETY: a live variable.
    if unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
        return Err(std::io::Error::last_os_error());
    }
    Ok(status == 0 && bytes.iter().all(|byte| *byte == 2))
}
