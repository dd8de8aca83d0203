//! What the integration tests share: processes of their own, and looking at memory from outside.

#![allow(unsafe_code, reason = "signals, fork and protections are system calls")]
#![allow(
    dead_code,
    unused_imports,
    reason = "each test file is a crate of its own and uses some of this"
)]

use std::fmt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};

use std::os::unix::process::ExitStatusExt;

use pagecow::{Arena, ArenaBuilder, Engine, Snapshot};

pub mod engines;
pub mod mappings;
pub mod model;
pub mod signals;

pub use engines::{engines, for_each_engine, on, page_by_page};

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

/// Lives `scenario` on each engine, each time in a process of its own: this test binary again, which runs
/// nothing but the calling test. In that process the call does not return.
pub fn in_child(test: &str, scenario: impl FnOnce(Engine)) -> Ended {
    in_child_on(Engine::ALL, test, scenario)
}

/// The same on some engines, as far as they are there.
pub fn in_child_on(wanted: &[Engine], test: &str, scenario: impl FnOnce(Engine)) -> Ended {
    if let Ok(name) = std::env::var(SCENARIO) {
        set_alarm();
        no_core_dumps();
        die_of_panics();
        scenario(name.parse().unwrap());
        std::process::exit(FINISHED);
    }
    let available = engines().iter().filter(|engine| wanted.contains(engine));
    Ended {
        lives: available.map(|engine| live(test, engine.name())).collect(),
    }
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
    // SAFETY: the C library lets the child of a threaded process allocate; locks of std that another
    // thread may have held are not used by the children here, unless they fail.
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

/// How `life` ends in a forked child: with the code that it returns, unless it panics or is killed. For
/// scenarios of many lives: the caller's alarm begins again.
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

pub fn page_size() -> usize {
    region::page::size()
}

/// An arena of `pages` pages, each filled with bytes of its own.
pub fn patterned(builder: ArenaBuilder, pages: usize) -> (Arena, Vec<u8>) {
    let mut arena = builder.build(pages * page_size()).unwrap();
    let bytes = pattern(pages);
    arena.copy_from_slice(&bytes);
    (arena, bytes)
}

/// The bytes of `pages` pages of which no two neighbours are alike.
pub fn pattern(pages: usize) -> Vec<u8> {
    let mut bytes = vec![0; pages * page_size()];
    for (page, bytes) in bytes.chunks_exact_mut(page_size()).enumerate() {
        bytes.fill((page * 7 + page / 256 + 1) as u8);
    }
    bytes
}

/// All frozen bytes.
pub fn bytes_of(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = vec![0; snapshot.len()];
    snapshot.read_at(0, &mut bytes).unwrap();
    bytes
}

/// The snapshot holds exactly these bytes. Says where not, without printing megabytes.
#[track_caller]
pub fn expect_bytes(snapshot: &Snapshot, wanted: &[u8]) {
    let bytes = bytes_of(snapshot);
    if bytes != wanted {
        let differs = bytes.iter().zip(wanted).position(|(a, b)| a != b);
        panic!("a wrong byte in {snapshot:?} at {differs:?}");
    }
}

/// Stores the numbers 1, 2, 3, ... to one word of each page, page after page, again and again: of such
/// stores a snapshot must hold the first so many, and none beyond.
pub struct Trail<'a> {
    words: &'a [AtomicU64],
    /// Which word of each page.
    word: usize,
    next: u64,
}

impl<'a> Trail<'a> {
    pub fn new(words: &'a [AtomicU64], word: usize) -> Self {
        Self {
            words,
            word,
            next: 1,
        }
    }

    pub fn step(&mut self) {
        let words_per_page = page_size() / 8;
        let pages = (self.words.len() / words_per_page) as u64;
        let page = (self.next % pages) as usize;
        self.words[page * words_per_page + self.word].store(self.next, Ordering::Release);
        self.next += 1;
    }

    /// How many steps `bytes` hold; panics when they are not the first so many.
    #[track_caller]
    pub fn steps_in(bytes: &[u8], word: usize) -> u64 {
        let found: Vec<u64> = bytes
            .chunks_exact(page_size())
            .map(|page| u64::from_ne_bytes(page[word * 8..][..8].try_into().unwrap()))
            .collect();
        let pages = found.len() as u64;
        let last = found.iter().copied().max().unwrap_or(0);
        for (page, found) in found.into_iter().enumerate() {
            let behind = (last + pages - page as u64) % pages;
            let wanted = last.saturating_sub(behind);
            assert_eq!(found, wanted, "page {page} after {last} steps");
        }
        last
    }
}
