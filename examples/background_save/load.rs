//! The writers. They change memory by ordinary stores, at full speed or at a fixed rate, and know
//! nothing about snapshots.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::plan::Plan;
use crate::shared::Shared;
use crate::stop::{Stop, Wake};

/// A writer that is ahead of its rate sleeps at least this long, and at most `LONG_NAP`.
const NAP: Duration = Duration::from_micros(100);
const LONG_NAP: Duration = Duration::from_millis(10);

/// The state of a run's writers, which outlives their threads.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    page_words: usize,
    /// Writes per second of each writer; `None`: as many as it can.
    rate: Option<u32>,
    gauges: Vec<Gauge>,
    /// One byte for each page. A forked child shares it, because it must see the marks made after
    /// the fork.
    overwritten: Shared,
    running: AtomicBool,
    /// Odd while stalls do not count.
    unwatched: AtomicU64,
}

/// What a writer shows to other threads, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Gauge {
    written: AtomicU64,
    worst_ns: AtomicU64,
}

/// A point in time to measure a rate from.
#[derive(Debug)]
pub struct Mark {
    written: u64,
    at: Instant,
}

impl Load {
    pub fn new(plan: Plan, page_size: usize, rate: Option<u32>) -> Result<Load, Failure> {
        Ok(Load {
            plan,
            page_words: page_size / 8,
            rate,
            gauges: (0..plan.writers()).map(|_| Gauge::default()).collect(),
            overwritten: Shared::new(plan.pages())?,
            running: AtomicBool::new(false),
            unwatched: AtomicU64::new(0),
        })
    }

    /// Runs the writers over `memory` while `body` runs. When this returns they have made their
    /// last store.
    pub fn run<T>(
        &self,
        memory: &[AtomicU64],
        body: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        struct StopWriters<'a>(&'a AtomicBool);
        impl Drop for StopWriters<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }

        assert_eq!(memory.len(), self.plan.pages() * self.page_words);
        self.running.store(true, Ordering::Relaxed);
        thread::scope(|scope| {
            let _stop = StopWriters(&self.running);
            for writer in 0..self.plan.writers() {
                thread::Builder::new()
                    .name(format!("writer {writer}"))
                    .spawn_scoped(scope, move || self.write(writer, memory))
                    .map_err(|error| Failure::failed("cannot start the writers", error))?;
            }
            body()
        })
    }

    fn write(&self, writer: usize, memory: &[AtomicU64]) {
        let gauge = &self.gauges[writer];
        let marks = self.overwritten.bytes();
        let mut seq = gauge.written.load(Ordering::Relaxed);
        let mut pace = self.rate.map(Pace::new);
        let mut watched = self.unwatched.load(Ordering::Acquire);
        let mut before = Instant::now();
        while self.running.load(Ordering::Relaxed) {
            if let Some(nap) = pace.as_mut().and_then(Pace::ahead) {
                thread::sleep(nap);
                before = Instant::now();
                continue;
            }
            seq += 1;
            let page = self.plan.page(writer, seq);
            let record = self.plan.record(page, seq);
            let words = &memory[page * self.page_words..];
            // Release keeps the stores in this order. The check relies on that order.
            for (word, value) in words.iter().zip(record) {
                word.store(value, Ordering::Release);
            }
            if marks[page].load(Ordering::Relaxed) == 0 {
                marks[page].store(1, Ordering::Release);
            }
            gauge.written.store(seq, Ordering::Relaxed);

            let now = Instant::now();
            let took = (now - before).as_nanos() as u64;
            before = now;
            let watch = self.unwatched.load(Ordering::Acquire);
            let counts = watch == watched && watch.is_multiple_of(2);
            watched = watch;
            if counts && took > gauge.worst_ns.load(Ordering::Relaxed) {
                gauge.worst_ns.fetch_max(took, Ordering::Relaxed);
            }
        }
    }

    /// How many writes each writer has finished.
    pub fn written(&self) -> Vec<u64> {
        let written = |gauge: &Gauge| gauge.written.load(Ordering::Relaxed);
        self.gauges.iter().map(written).collect()
    }

    /// Which pages have been overwritten since [`Load::forget_overwritten`].
    pub fn overwritten(&self) -> &[AtomicU8] {
        self.overwritten.bytes()
    }

    /// Counts all pages as not overwritten. The writers must not be running.
    pub fn forget_overwritten(&self) {
        for mark in self.overwritten.bytes() {
            mark.store(0, Ordering::Relaxed);
        }
    }

    /// Waits until enough of the first `pages` pages were overwritten: an eighth of what is written
    /// soon. Otherwise a wrong snapshot of them might still read right. Gives up after a while; the
    /// reader counts what was overwritten.
    pub fn await_overwritten(&self, pages: usize, stop: &Stop) -> Result<(), Failure> {
        let patience = Duration::from_secs(10) + Duration::from_micros(100) * pages as u32;
        let deadline = Instant::now() + patience;
        let enough = self.plan.pattern().soon(pages).div_ceil(8);
        while count_marked(self.overwritten(), 0..pages) < enough && Instant::now() < deadline {
            stop.sleep(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Forgets the longest write so far.
    pub fn forget_stalls(&self) {
        for gauge in &self.gauges {
            gauge.worst_ns.store(0, Ordering::Relaxed);
        }
    }

    /// Runs `act`. Writes that `act` may have made longer do not count for the longest one.
    pub fn unwatched<T>(&self, act: impl FnOnce() -> T) -> T {
        self.unwatched.fetch_add(1, Ordering::AcqRel);
        let done = act();
        self.unwatched.fetch_add(1, Ordering::AcqRel);
        done
    }

    /// The longest time that one write took.
    pub fn worst_stall(&self) -> Duration {
        let worst = |gauge: &Gauge| gauge.worst_ns.load(Ordering::Relaxed);
        Duration::from_nanos(self.gauges.iter().map(worst).max().unwrap_or(0))
    }

    /// The present point in time.
    pub fn mark(&self) -> Mark {
        Mark {
            written: self.written().iter().sum(),
            at: Instant::now(),
        }
    }

    /// Writes per second since `mark`.
    pub fn rate_since(&self, mark: &Mark) -> f64 {
        let now = self.mark();
        (now.written - mark.written) as f64 / (now.at - mark.at).as_secs_f64()
    }

    /// Watches the writers for `window` and returns their writes per second.
    pub fn watch(&self, window: Duration, stop: &Stop) -> Result<f64, Failure> {
        let mark = self.mark();
        stop.sleep(window)?;
        Ok(self.rate_since(&mark))
    }

    /// As [`Load::watch`], but returns `None` as soon as a save is asked for.
    pub fn watch_unless_asked(
        &self,
        window: Duration,
        stop: &Stop,
    ) -> Result<Option<f64>, Failure> {
        let mark = self.mark();
        match stop.sleep_unless_asked(window)? {
            Wake::Elapsed => Ok(Some(self.rate_since(&mark))),
            Wake::Asked => Ok(None),
        }
    }
}

/// Keeps a writer to its rate. A writer that was held up makes up for it.
struct Pace {
    rate: u32,
    began: Instant,
    made: u64,
    due: u64,
}

impl Pace {
    fn new(rate: u32) -> Pace {
        Pace {
            rate,
            began: Instant::now(),
            made: 0,
            due: 0,
        }
    }

    /// Counts a write that is due. When none is, returns for how long to sleep instead.
    fn ahead(&mut self) -> Option<Duration> {
        if self.made == self.due {
            let due = self.began.elapsed().as_secs_f64() * f64::from(self.rate);
            self.due = self.made.max(due as u64);
            if self.made == self.due {
                let apart = Duration::from_secs(1) / self.rate;
                return Some(apart.clamp(NAP, LONG_NAP));
            }
        }
        self.made += 1;
        None
    }
}

/// How many of these pages are marked.
///
/// Acquire: the page of a mark that is seen was written before.
pub fn count_marked(marks: &[AtomicU8], pages: Range<usize>) -> usize {
    let marked = |mark: &&AtomicU8| mark.load(Ordering::Acquire) != 0;
    marks
        .iter()
        .take(pages.end)
        .skip(pages.start)
        .filter(marked)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_write_comes_before_it_is_due() {
        let mut pace = Pace::new(1000);
        let (mut writes, mut naps) = (0, 0);
        while writes < 20 {
            match pace.ahead() {
                None => writes += 1,
                Some(nap) => {
                    naps += 1;
                    thread::sleep(nap);
                }
            }
        }
        assert!(pace.began.elapsed() >= Duration::from_millis(20) && naps > 0);
    }
}
