//! The thread that looks after what was frozen for children: it maps pages again before they are
//! touched, and merges once the children are gone.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pagecow::forkable::{self, Merged};

use crate::inside::Inside;
use crate::log::log;
use crate::served::{self, Served};

/// For how long the program is worked for in a row, and is left alone then.
const RUN: Duration = Duration::from_micros(250);
const REST: Duration = Duration::from_micros(250);
/// How often to look whether children are gone.
const LOOK: Duration = Duration::from_millis(10);
/// How long to wait where the system refuses something.
const RETRY: Duration = Duration::from_millis(200);

struct State {
    is_started: bool,
    /// Forks so far.
    forks: u64,
}

static STATE: Mutex<State> = Mutex::new(State {
    is_started: false,
    forks: 0,
});
static FORKED: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that there was a fork.
pub fn wake() {
    let _inside = Inside::enter();
    let mut state = state();
    state.forks += 1;
    if !state.is_started {
        state.is_started = forkable::start_thread(c"pagecow-merge", run);
        if !state.is_started {
            log!("no thread to merge with: later forks take longer");
        }
    }
    drop(state);
    FORKED.notify_one();
}

fn run() -> ! {
    let _inside = Inside::enter();
    let mut forks = 0;
    loop {
        let mut now = state();
        while now.forks == forks {
            now = FORKED.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        forks = now.forks;
        drop(now);
        if let Some(served) = served::anywhere() {
            if served.populates {
                populate(served);
            }
            merge(served);
        }
    }
}

/// Times work and rest.
struct Pace {
    begin: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
        }
    }

    fn rest_if_due(&mut self) {
        if self.begin.elapsed() >= RUN {
            sleep(REST);
            *self = Self::new();
        }
    }
}

fn populate(served: &Served) {
    let begin = Instant::now();
    let mut pace = Pace::new();
    let (mut at, mut bytes) = (0, 0);
    while let Some(piece) = served.forkable.populate_some(at) {
        bytes += piece.len();
        at = piece.end;
        pace.rest_if_due();
    }
    log!(
        "mapped: {} us, {} MiB",
        begin.elapsed().as_micros(),
        bytes >> 20
    );
}

fn merge(served: &Served) {
    let copied = served.forkable.pages_copied();
    let slices = served.forkable.slices_begun();
    let mut begin = Instant::now();
    let mut pace = Pace::new();
    let mut longest = Duration::ZERO;
    let mut is_refused = false;
    loop {
        let step = Instant::now();
        match served.forkable.merge_some() {
            Ok(Merged::Some) => {
                longest = longest.max(step.elapsed());
                pace.rest_if_due();
            }
            Ok(Merged::All) => break,
            Ok(Merged::LookedAt) => {
                sleep(LOOK);
                (begin, pace) = (Instant::now(), Pace::new());
            }
            Err(error) => {
                if !is_refused {
                    log!("merging is refused, and tried again: {error}");
                }
                is_refused = true;
                sleep(RETRY);
            }
        }
    }
    served.clean_up();
    log!(
        "merged: {} us, {} pages, {} slices, longest {} us",
        begin.elapsed().as_micros(),
        served.forkable.pages_copied() - copied,
        served.forkable.slices_begun() - slices,
        longest.as_micros()
    );
}
