//! Python's `os.fork()`, with the library and an allocator behind it in `LD_PRELOAD`: what children
//! see is what was there, and the parent loses nothing. Skipped, by name, where there is no
//! `python3` or no `libjemalloc.so.2`.

mod common;

use std::process::{Command, Stdio};

const ALLOCATOR: &str = "libjemalloc.so.2";
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/forks.py");

/// The interpreter itself, not a program that looks for it.
fn python() -> Option<String> {
    let asked = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .stderr(Stdio::null())
        .output();
    let asked = asked.ok().filter(|asked| asked.status.success())?;
    Some(String::from_utf8(asked.stdout).unwrap().trim().to_owned())
}

/// The loader finds it, and complains otherwise.
fn has_allocator(python: &str) -> bool {
    let mut command = Command::new(python);
    let command = command.args(["-c", ""]).env("LD_PRELOAD", ALLOCATOR);
    command.output().unwrap().stderr.is_empty()
}

/// What a variable of the environment says.
fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn forks_of_a_program_with_many_objects() {
    let test = "forks_of_a_program_with_many_objects";
    let Some(python) = python() else {
        println!("{test}: skipped: no python3");
        return;
    };
    if !has_allocator(&python) {
        println!("{test}: skipped: no {ALLOCATOR}");
        return;
    }
    let (mib, rounds) = (
        number("PAGECOW_PYTHON_MIB", 100),
        number("PAGECOW_ROUNDS", 2),
    );
    let log = tempfile::NamedTempFile::new().unwrap();
    let preloaded = format!("{} {ALLOCATOR}", common::library().to_str().unwrap());
    for (name, preload) in [("without", ALLOCATOR), ("with", &preloaded)] {
        let output = Command::new(&python)
            .args([PROGRAM, &mib.to_string(), &rounds.to_string()])
            .env("LD_PRELOAD", preload)
            .env("PAGECOW_LOG", log.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(output.status.success(), "{text}{complaints}{log}");
        println!("{name} the library, {mib} MiB: {}", text.trim());
    }
    // Those of the parent, which wrote the first line.
    let log = std::fs::read_to_string(log.path()).unwrap();
    let parent = log.split(':').next().unwrap();
    let lines = || log.lines().filter(|line| line.starts_with(parent));
    let forks = lines().filter(|line| line.contains(": fork: child"));
    assert_eq!(forks.count(), 2 * rounds, "{log}");
    assert!(lines().any(|line| line.contains(": merged: ")), "{log}");
}
