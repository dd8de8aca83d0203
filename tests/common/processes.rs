//! Processes for tests of what a whole process shares, each with an alarm that ends it when it
//! hangs.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use pagecow::Engine;

use super::engines;

/// Set in a process that was started to live a scenario: the engine.
const SCENARIO: &str = "PAGECOW_TEST_SCENARIO";
/// The exit code of a scenario that came to its end: neither "all tests passed" nor "no such test".
const FINISHED: i32 = 42;
const PANICKED: i32 = 43;
/// Seconds after which a scenario counts as hung.
const ALARM: u32 = 60;

/// How a scenario ended on each engine.
#[must_use]
pub struct Ended {
    lives: Vec<Life>,
}

/// How a process ended, and what it said.
struct Life {
    engine: &'static str,
    status: ExitStatus,
    said: String,
}

/// Lives `scenario` on each engine, each time in a process of its own: this test binary again,
/// which runs nothing but the calling test. In that process the call does not return.
pub fn in_child(scenario: impl FnOnce(Engine)) -> Ended {
    in_child_on(&engines::ALL, scenario)
}

/// The same on some engines, as far as they are there.
pub fn in_child_on(wanted: &[Engine], scenario: impl FnOnce(Engine)) -> Ended {
    if let Ok(name) = std::env::var(SCENARIO) {
        set_alarm();
        no_core_dumps();
        die_of_panics();
        let engine = engines::ALL
            .into_iter()
            .find(|engine| engines::name(*engine) == name);
        scenario(engine.unwrap());
        std::process::exit(FINISHED);
    }
    let test = current_test();
    let available = engines::engines()
        .iter()
        .filter(|engine| wanted.contains(engine));
    Ended {
        lives: available
            .map(|engine| live(&test, engines::name(*engine)))
            .collect(),
    }
}

/// The test that calls this. The test harness names each test's thread after it.
fn current_test() -> String {
    let thread = std::thread::current();
    thread.name().expect("a test's thread").to_owned()
}

fn live(test: &str, engine: &'static str) -> Life {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(SCENARIO, engine)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    Life {
        engine,
        status: output.status,
        said: String::from_utf8_lossy(&said).into_owned(),
    }
}

impl Ended {
    /// The scenario came to its end.
    #[track_caller]
    pub fn expect_finished(&self) {
        for life in &self.lives {
            assert_eq!(life.status.code(), Some(FINISHED), "{life}");
        }
    }

    #[track_caller]
    pub fn expect_killed_by(&self, signal: i32) {
        for life in &self.lives {
            assert_eq!(life.status.signal(), Some(signal), "{life}");
        }
    }

    #[track_caller]
    pub fn expect_said(&self, words: &str) {
        for life in &self.lives {
            assert!(life.said.contains(words), "{words:?} is missing; {life}");
        }
    }

    #[track_caller]
    pub fn expect_not_said(&self, words: &str) {
        for life in &self.lives {
            assert!(!life.said.contains(words), "{words:?} is there; {life}");
        }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hung = match self.status.signal() {
            Some(libc::SIGALRM) => " (hung)",
            _ => "",
        };
        write!(
            f,
            "on {} the scenario ended with {}{hung}, saying:\n{}",
            self.engine, self.status, self.said
        )
    }
}

fn set_alarm() {
    // SAFETY: sets a timer that ends this process.
    unsafe { libc::alarm(ALARM) };
}

fn clear_alarm() {
    // SAFETY: ends a timer.
    unsafe { libc::alarm(0) };
}

fn no_core_dumps() {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a valid limit.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}

/// A panic in any thread ends the scenario, instead of leaving the others to wait.
fn die_of_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        // SAFETY: ends the process without running what was registered for that.
        unsafe { libc::_exit(PANICKED) };
    }));
}

/// A forked process, with an alarm of its own.
pub enum Forked {
    /// The caller is the child, and has to end by [`end_of_fork`].
    Child,
    Parent(libc::pid_t),
}

pub fn fork() -> Forked {
    // SAFETY: the C library lets the child of a threaded process allocate. Another thread may have
    // held locks of std, which the children here use only when they fail.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            set_alarm();
            Forked::Child
        }
        child => Forked::Parent(child),
    }
}

/// Lives and ends the child: with 0 when `life` does not panic.
pub fn end_of_fork(life: impl FnOnce()) -> ! {
    life();
    // SAFETY: ends the process without running what the parent registered.
    unsafe { libc::_exit(0) }
}

/// Waits for a forked child, which must have ended well.
#[track_caller]
pub fn expect_child_ended_well(child: libc::pid_t) {
    let status = wait_for(child);
    assert!(status.success(), "the forked child: {status}");
}

fn wait_for(child: libc::pid_t) -> ExitStatus {
    let mut status = 0;
    // SAFETY: `status` is writable.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    ExitStatus::from_raw(status)
}

/// How `life` ends in a forked child: with the code that it returns, unless it panics or is killed.
/// For scenarios of many lives: the caller's alarm begins again.
pub fn end_of_forked(life: impl FnOnce() -> i32) -> ExitStatus {
    // A child that hangs is ended by its own.
    clear_alarm();
    let ended = match fork() {
        Forked::Child => {
            let code = life();
            // SAFETY: ends the process without running what the parent registered.
            unsafe { libc::_exit(code) }
        }
        Forked::Parent(child) => wait_for(child),
    };
    set_alarm();
    ended
}
