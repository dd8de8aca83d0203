//! The writers. They change memory at full speed, by ordinary stores, and know nothing about
//! snapshots.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::plan::Plan;
use crate::shared::Shared;
use crate::stop::{Stop, Wake};

/// The state of a run's writers, which outlives their threads.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    page_words: usize,
    gauges: Vec<Gauge>,
    /// One byte for each page. A forked child shares it, because it must see the marks made after
    /// the fork.
    overwritten: Shared,
    running: AtomicBool,
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
    pub fn new(plan: Plan, page_size: usize) -> Result<Load, Failure> {
        Ok(Load {
            plan,
            page_words: page_size / 8,
            gauges: (0..plan.writers()).map(|_| Gauge::default()).collect(),
            overwritten: Shared::new(plan.pages())?,
            running: AtomicBool::new(false),
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
        let mut before = Instant::now();
        while self.running.load(Ordering::Relaxed) {
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
            if took > gauge.worst_ns.load(Ordering::Relaxed) {
                gauge.worst_ns.fetch_max(took, Ordering::Relaxed);
            }
            before = now;
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

    /// Waits until an eighth of the first `pages` pages was overwritten. Otherwise a wrong snapshot
    /// of them might still read right. Gives up after a while; the reader counts what was
    /// overwritten.
    pub fn await_overwritten(&self, pages: usize, stop: &Stop) -> Result<(), Failure> {
        let patience = Duration::from_secs(10) + Duration::from_micros(100) * pages as u32;
        let deadline = Instant::now() + patience;
        while count_marked(self.overwritten(), 0..pages) < pages.div_ceil(8)
            && Instant::now() < deadline
        {
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
