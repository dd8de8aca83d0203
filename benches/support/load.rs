//! The writer: a hot set of 500 pages that lie anywhere, plus 5 % uniformly random pages, at full
//! speed.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

/// Stores a second of a writer that is [paced](Load::paced).
pub const PACED_RATE: u64 = 10_000;
const HOT: usize = 500;
/// One store in this many goes to any page.
const ANYWHERE: u64 = 20;

/// A writer and its clock.
pub struct Load<'a> {
    words: &'a [AtomicU64],
    words_per_page: usize,
    hot: Vec<usize>,
    /// One store in this many goes to any page.
    anywhere: u64,
    random: Random,
    last: Instant,
}

impl<'a> Load<'a> {
    pub fn new(words: &'a [AtomicU64]) -> Self {
        let words_per_page = region::page::size() / 8;
        let pages = words.len() / words_per_page;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let hot = (0..HOT).map(|_| random.below(pages)).collect();
        Self {
            words,
            words_per_page,
            hot,
            anywhere: ANYWHERE,
            random,
            last: Instant::now(),
        }
    }

    /// The same with one store in this many to any page.
    pub fn with_anywhere(self, anywhere: u64) -> Self {
        Self { anywhere, ..self }
    }

    /// Makes one store; returns how long after the last one it was done. Between two stores in a
    /// row there is only the choice of a page and one look at the clock.
    #[inline]
    pub fn store(&mut self) -> Duration {
        let page = if self.random.next() >> 32 < (1 << 32) / self.anywhere {
            self.random.below(self.words.len() / self.words_per_page)
        } else {
            self.hot[self.random.below(HOT)]
        };
        let word = self.random.below(self.words_per_page);
        self.words[page * self.words_per_page + word].store(self.random.0, Relaxed);
        let last = std::mem::replace(&mut self.last, Instant::now());
        self.last - last
    }

    /// When the last store was done.
    pub fn last(&self) -> Instant {
        self.last
    }

    /// Makes [`PACED_RATE`] stores a second for this long, so 500 of them a second to any page;
    /// returns the longest time that one of them took.
    pub fn paced(&mut self, time: Duration) -> Duration {
        const PAUSE: Duration = Duration::from_micros(500);
        let begin = Instant::now();
        let (mut stores, mut worst) = (0, Duration::ZERO);
        while begin.elapsed() < time {
            let due = begin.elapsed().as_micros() as u64 * PACED_RATE / 1_000_000;
            self.last = Instant::now();
            while stores < due {
                worst = worst.max(self.store());
                stores += 1;
            }
            thread::sleep(PAUSE);
        }
        self.last = Instant::now();
        worst
    }

    /// Makes stores for this long; returns the longest time that one of them took.
    pub fn burst(&mut self, time: Duration) -> Duration {
        let begin = Instant::now();
        let mut worst = Duration::ZERO;
        while self.last.saturating_duration_since(begin) < time {
            worst = worst.max(self.store());
        }
        worst
    }
}

/// Marsaglia's xorshift64*: a better generator would take as long as a store does.
pub struct Random(pub u64);

impl Random {
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        (((self.next() >> 32) * bound as u64) >> 32) as usize
    }
}

/// A writer on another thread, and what it sees.
#[derive(Default)]
pub struct Busy {
    stop: AtomicBool,
    stores: AtomicU64,
    worst_ns: AtomicU64,
}

impl Busy {
    /// Runs `act` while another thread writes.
    pub fn during<T>(words: &[AtomicU64], act: impl FnOnce(&Self) -> T) -> T {
        Self::while_writing(|busy| busy.write(words), act)
    }

    /// The same with a [paced](Load::paced) writer.
    pub fn during_paced<T>(words: &[AtomicU64], act: impl FnOnce(&Self) -> T) -> T {
        Self::while_writing(|busy| busy.write_paced(words), act)
    }

    fn while_writing<T>(write: impl FnOnce(&Self) + Send, act: impl FnOnce(&Self) -> T) -> T {
        let busy = Self::default();
        thread::scope(|scope| {
            scope.spawn(|| write(&busy));
            let result = act(&busy);
            busy.stop.store(true, Relaxed);
            result
        })
    }

    fn write(&self, words: &[AtomicU64]) {
        let mut load = Load::new(words);
        let mut stores = 0;
        while !self.stop.load(Relaxed) {
            let took = load.store().as_nanos() as u64;
            if took > self.worst_ns.load(Relaxed) {
                self.worst_ns.store(took, Relaxed);
            }
            stores += 1;
            self.stores.store(stores, Release);
        }
    }

    fn write_paced(&self, words: &[AtomicU64]) {
        let mut load = Load::new(words);
        while !self.stop.load(Relaxed) {
            let worst = load.paced(Duration::from_millis(1)).as_nanos() as u64;
            self.worst_ns.fetch_max(worst, Relaxed);
            self.stores.fetch_add(1, Release);
        }
    }

    /// Forgets the worst store so far.
    pub fn watch(&self) {
        self.worst_ns.store(0, Relaxed);
    }

    /// The longest time that a store took since [`watch`](Self::watch). Waits for the store in
    /// progress, and counts it.
    pub fn worst(&self) -> Duration {
        let stores = self.stores.load(Acquire);
        while self.stores.load(Acquire) < stores + 2 {
            std::hint::spin_loop();
        }
        Duration::from_nanos(self.worst_ns.load(Relaxed))
    }
}

impl Busy {
    /// Stores a second while `act` runs.
    pub fn rate(&self, act: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
        let (begin, before) = (Instant::now(), self.stores.load(Acquire));
        act()?;
        let stores = self.stores.load(Acquire) - before;
        Ok(stores as f64 / begin.elapsed().as_secs_f64())
    }
}

/// A writer whose stores are due at certain times, to any page.
pub struct Paced;

impl Paced {
    const EVERY: Duration = Duration::from_micros(10);
    /// More than this many are not noted.
    const MOST: usize = 1 << 20;

    /// From when a store was due until it was done, of the slowest in a thousand, while `act` runs
    /// on another thread.
    pub fn during(
        words: &[AtomicU64],
        act: impl FnOnce() -> Result<(), String> + Send,
    ) -> Result<Duration, String> {
        // Not zeros, so that they are in memory.
        let mut late = vec![u32::MAX; Self::MOST];
        let done = AtomicBool::new(false);
        let mut stores = 0;
        thread::scope(|scope| {
            let act = scope.spawn(|| {
                let result = act();
                done.store(true, Relaxed);
                result
            });
            let mut random = Random(0x9e37_79b9_7f4a_7c15);
            let begin = Instant::now();
            while !done.load(Relaxed) && stores < Self::MOST {
                let due = begin + Self::EVERY * stores as u32;
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
                words[random.below(words.len())].store(random.0, Relaxed);
                late[stores] = due.elapsed().as_nanos() as u32;
                stores += 1;
            }
            act.join().map_err(|_| "it panicked".to_owned())?
        })?;
        let late = &mut late[..stores];
        late.sort_unstable();
        let slow = late.get(stores - stores / 1000 - 1);
        Ok(Duration::from_nanos(u64::from(*slow.ok_or("no store")?)))
    }
}
