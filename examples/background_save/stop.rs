//! Signals: SIGINT and SIGTERM end the run, SIGUSR1 asks for one more save.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

use crate::failure::Failure;

/// Listens for signals until dropped.
#[derive(Debug)]
pub struct Stop {
    news: Arc<News>,
    handle: Handle,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct News {
    /// The signal that ended the run, or 0.
    stopped: AtomicI32,
    asked: Mutex<bool>,
    changed: Condvar,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    Elapsed,
    Asked,
}

impl Stop {
    /// Without `saves`, SIGUSR1 does nothing.
    pub fn listen(saves: bool) -> Result<Stop, Failure> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])
            .map_err(|error| Failure::failed("cannot handle signals", error))?;
        let news = Arc::new(News::default());
        let handle = signals.handle();
        let listener = thread::spawn({
            let news = Arc::clone(&news);
            move || {
                for signal in signals.forever() {
                    let mut asked = news.asked.lock().unwrap_or_else(PoisonError::into_inner);
                    match signal {
                        SIGUSR1 => *asked = saves,
                        _ => news.stopped.store(signal, Ordering::Relaxed),
                    }
                    news.changed.notify_all();
                }
            }
        });
        Ok(Stop {
            news,
            handle,
            listener: Some(listener),
        })
    }

    /// `Err` once the run must end.
    pub fn check(&self) -> Result<(), Failure> {
        match self.news.stopped.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Failure::Stopped(signal)),
        }
    }

    /// Whether a save was asked for since the last call.
    pub fn take_request(&self) -> bool {
        let mut asked = self
            .news
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *asked)
    }

    pub fn sleep(&self, time: Duration) -> Result<(), Failure> {
        self.wait(time, false).map(|_| ())
    }

    /// Sleeps until `time` is over or a save is asked for.
    pub fn sleep_unless_asked(&self, time: Duration) -> Result<Wake, Failure> {
        self.wait(time, true)
    }

    fn wait(&self, time: Duration, or_asked: bool) -> Result<Wake, Failure> {
        let deadline = Instant::now() + time;
        let mut asked = self
            .news
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            self.check()?;
            if or_asked && *asked {
                return Ok(Wake::Asked);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Wake::Elapsed);
            }
            let woken = self.news.changed.wait_timeout(asked, left);
            asked = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}
