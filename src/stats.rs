//! Counters: what the snapshots of an arena cost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::page::PageSize;

/// What an arena's snapshots have cost so far.
///
/// Each field is a count that is exact and only grows, unless its text says otherwise. While
/// writers run, two of them may be a few faults apart. `faults - spurious_faults - soft_faults` is
/// the number of faults that saved a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Faults: stores to this arena that were refused and that the handler dealt with.
    pub faults: u64,
    /// Faults on a page that another thread had made writable meanwhile.
    pub spurious_faults: u64,
    /// Faults on a page that was made writable without a copy: no live snapshot needed one, or the
    /// store had no frame to give.
    pub soft_faults: u64,
    /// Pages copied: by faults, by `writable`, and ahead of writes.
    pub pages_saved: u64,
    /// The same in bytes.
    pub bytes_saved: u64,
    /// Pages copied that nobody was about to write: neighbours that their
    /// [`Window`](crate::Window) let a fault deal with, and pages on the way out when mappings ran
    /// short.
    pub pages_saved_ahead: u64,
    /// Signals and faults that were passed on to the handler that was there before, in the whole
    /// process.
    pub foreign_faults: u64,
    /// System calls that changed the protection of this arena's pages.
    pub protect_calls: u64,
    /// Snapshots taken.
    pub snapshots: u64,
    /// Snapshots alive now. Not a counter.
    pub live_snapshots: u64,
    /// Bytes of the store that hold copies now. Not a counter.
    pub store_bytes: u64,
    /// The most bytes of the store that held copies at one time.
    pub store_bytes_peak: u64,
    /// Bytes of the store that are resident now: those that hold copies, and those kept free for
    /// further ones. Not a counter.
    pub store_resident_bytes: u64,
    /// The most kernel mappings that the arena consisted of at one time. An own estimate, which is
    /// exact with one writer thread.
    pub vma_peak: u64,
    /// Times that mappings ran short, so that a fault saved more pages and made them writable than
    /// its [`Window`](crate::Window) allows. With [`Engine::Mprotect`](crate::Engine::Mprotect)
    /// only.
    pub wall_exits: u64,
    /// Times that a reader read a page again, or [`copy_to`](crate::Snapshot::copy_to) wrote it to
    /// the file again, because a writer made it writable meanwhile.
    pub reader_retries: u64,
    /// Times that the arena waited for faults in progress, to prepare, take or drop a snapshot, to
    /// make all pages writable or to fork.
    pub drains: u64,
    /// The time for which the last commit kept writers that faulted from going on. Not a counter.
    ///
    /// This and the next two are of whichever snapshot was committed last. When several threads
    /// prepare or take snapshots at once, one may be charged with what another did.
    /// [`Snapshot::timings`](crate::Snapshot::timings) has the figures of one snapshot.
    pub last_pause: Duration,
    /// The time that it took to take write permission for the last snapshot, ahead and at its
    /// commit, all calls together. Not a counter; see [`last_pause`](Self::last_pause).
    pub last_arm: Duration,
    /// Passes over the arena in which the last snapshot was prepared; 0 when it was not. Not a
    /// counter; see [`last_pause`](Self::last_pause).
    pub last_passes: u64,
    /// Pages armed between snapshots, each time counted, where the arena
    /// [stands ready](crate::ArenaBuilder::stand_ready).
    pub pages_armed_early: u64,
    /// The time that [`soft_faults`](Self::soft_faults) took writers, where the arena
    /// [stands ready](crate::ArenaBuilder::stand_ready): what that costs. Else zero. In the handler
    /// it is measured; 4 us a fault are added for the signal.
    pub soft_fault_time: Duration,
    /// The longest time from a fault until its store was retried.
    pub worst_wait: Duration,
    /// The time inside the handler of each fault that saved a page, in nanoseconds.
    pub save_latency: Histogram,
}

/// A histogram of times, with a bucket for each power of two of nanoseconds.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; Histogram::BUCKETS],
}

impl Histogram {
    const BUCKETS: usize = 40;

    /// The buckets that are not empty, ascending: (upper bound in nanoseconds, exclusive; number of
    /// values).
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (1 << bucket, *count))
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The upper bound, in nanoseconds, of the bucket in which the fraction `q` (0 to 1) of the
    /// values is reached; `None` when there are no values.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let total = self.count();
        let wanted = ((total as f64 * q.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        self.buckets()
            .find(|(_, count)| {
                seen += count;
                seen >= wanted
            })
            .map(|(bound, _)| bound)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [0; Self::BUCKETS],
        }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

/// The counters behind [`Stats`]. They order nothing, so they are plain and relaxed, in models too.
///
/// A *period* is the time from one commit to the next. Times are in nanoseconds.
pub(crate) struct Counters {
    faults: AtomicU64,
    spurious_faults: AtomicU64,
    soft_faults: AtomicU64,
    pages_saved: AtomicU64,
    pages_saved_ahead: AtomicU64,
    snapshots: AtomicU64,
    /// What `pages_saved` was when this period began.
    saved_at_commit: AtomicU64,
    /// Pages saved in the previous period.
    saved_before: AtomicU64,
    wall_exits: AtomicU64,
    reader_retries: AtomicU64,
    last_pause_ns: AtomicU64,
    /// In this period, for the snapshot that ends it.
    arming_ns: AtomicU64,
    last_arm_ns: AtomicU64,
    /// In this period, for the snapshot that ends it.
    passes: AtomicU64,
    last_passes: AtomicU64,
    worst_wait_ns: AtomicU64,
    save_latency: [AtomicU64; Histogram::BUCKETS],
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            faults: zero(),
            spurious_faults: zero(),
            soft_faults: zero(),
            pages_saved: zero(),
            pages_saved_ahead: zero(),
            snapshots: zero(),
            saved_at_commit: zero(),
            saved_before: zero(),
            wall_exits: zero(),
            reader_retries: zero(),
            last_pause_ns: zero(),
            arming_ns: zero(),
            last_arm_ns: zero(),
            passes: zero(),
            last_passes: zero(),
            worst_wait_ns: zero(),
            save_latency: std::array::from_fn(|_| zero()),
        }
    }
}

/// The figures of [`Stats`] that are kept elsewhere.
pub(crate) struct Elsewhere {
    pub page_size: PageSize,
    pub live_snapshots: usize,
    pub frames_in_use: usize,
    pub frames_in_use_peak: usize,
    pub frames_resident: usize,
    pub vma_peak: u64,
    pub protect_calls: u64,
    pub drains: u64,
    pub foreign_faults: u64,
    pub pages_armed_early: u64,
    pub soft_fault_ns: u64,
}

fn add(counter: &AtomicU64, by: u64) {
    if by != 0 {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

impl Counters {
    /// A fault saved a page, which took this long.
    #[cfg(not(loom))]
    pub fn saved_fault(&self, nanoseconds: u64) {
        add(&self.faults, 1);
        let bucket = (u64::BITS - nanoseconds.leading_zeros()) as usize;
        add(&self.save_latency[bucket.min(Histogram::BUCKETS - 1)], 1);
    }

    /// A fault opened a page without a copy.
    #[cfg(not(loom))]
    pub fn soft_fault(&self) {
        add(&self.faults, 1);
        add(&self.soft_faults, 1);
    }

    /// A fault found its page open.
    #[cfg(not(loom))]
    pub fn spurious_fault(&self) {
        add(&self.faults, 1);
        add(&self.spurious_faults, 1);
    }

    /// `pages` copies were made, `ahead` of them of pages that nobody had written yet.
    pub fn pages_saved(&self, pages: u64, ahead: u64) {
        add(&self.pages_saved, pages);
        add(&self.pages_saved_ahead, ahead);
    }

    pub fn wall_exit(&self) {
        add(&self.wall_exits, 1);
    }

    pub fn reader_retry(&self) {
        self.reader_retries(1);
    }

    pub fn reader_retries(&self, pages: usize) {
        add(&self.reader_retries, pages as u64);
    }

    /// A call that armed pages took this long.
    pub fn armed(&self, nanoseconds: u64) {
        add(&self.arming_ns, nanoseconds);
    }

    /// Arming ahead is in this pass over the arena.
    pub fn passes(&self, number: u32) {
        self.passes.store(u64::from(number), Ordering::Relaxed);
    }

    /// A fault was dealt with, which took this long.
    #[cfg(not(loom))]
    pub fn waited(&self, nanoseconds: u64) {
        if self.worst_wait_ns.load(Ordering::Relaxed) < nanoseconds {
            self.worst_wait_ns.fetch_max(nanoseconds, Ordering::Relaxed);
        }
    }

    /// A snapshot was taken, and its commit kept the gate closed for this long. A period ends;
    /// returns how many copies were made in it.
    pub fn committed(&self, pause: u64) -> u64 {
        add(&self.snapshots, 1);
        let used = self.saved_since_commit();
        self.saved_before.store(used, Ordering::Relaxed);
        let saved = self.pages_saved.load(Ordering::Relaxed);
        self.saved_at_commit.store(saved, Ordering::Release);
        self.last_pause_ns.store(pause, Ordering::Relaxed);
        let arming = self.arming_ns.swap(0, Ordering::Relaxed);
        self.last_arm_ns.store(arming, Ordering::Relaxed);
        let passes = self.passes.swap(0, Ordering::Relaxed);
        self.last_passes.store(passes, Ordering::Relaxed);
        used
    }

    /// Copies made in this period.
    pub fn saved_since_commit(&self) -> u64 {
        // In this order: neither ever shrinks.
        let before = self.saved_at_commit.load(Ordering::Acquire);
        self.pages_saved
            .load(Ordering::Relaxed)
            .saturating_sub(before)
    }

    /// Copies made in this period or in the previous one, whichever are more.
    pub fn saved_lately(&self) -> u64 {
        self.saved_since_commit()
            .max(self.saved_before.load(Ordering::Relaxed))
    }

    /// All figures. A field of either struct that is forgotten here is an error of the compiler.
    pub fn stats(&self, elsewhere: Elsewhere) -> Stats {
        let Elsewhere {
            page_size,
            live_snapshots,
            frames_in_use,
            frames_in_use_peak,
            frames_resident,
            vma_peak,
            protect_calls,
            drains,
            foreign_faults,
            pages_armed_early,
            soft_fault_ns,
        } = elsewhere;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bytes = |pages: u64| pages * page_size.bytes() as u64;
        Stats {
            faults: get(&self.faults),
            spurious_faults: get(&self.spurious_faults),
            soft_faults: get(&self.soft_faults),
            pages_saved: get(&self.pages_saved),
            bytes_saved: bytes(get(&self.pages_saved)),
            pages_saved_ahead: get(&self.pages_saved_ahead),
            foreign_faults,
            protect_calls,
            snapshots: get(&self.snapshots),
            live_snapshots: live_snapshots as u64,
            store_bytes: bytes(frames_in_use as u64),
            store_bytes_peak: bytes(frames_in_use_peak as u64),
            store_resident_bytes: bytes(frames_resident as u64),
            vma_peak,
            wall_exits: get(&self.wall_exits),
            reader_retries: get(&self.reader_retries),
            drains,
            last_pause: Duration::from_nanos(get(&self.last_pause_ns)),
            last_arm: Duration::from_nanos(get(&self.last_arm_ns)),
            last_passes: get(&self.last_passes),
            pages_armed_early,
            soft_fault_time: Duration::from_nanos(soft_fault_ns),
            worst_wait: Duration::from_nanos(get(&self.worst_wait_ns)),
            save_latency: Histogram {
                counts: std::array::from_fn(|bucket| get(&self.save_latency[bucket])),
            },
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_puts_values_into_powers_of_two() {
        let counters = Counters::default();
        for nanoseconds in [0, 1, 1023, 1024, u64::MAX] {
            counters.saved_fault(nanoseconds);
        }
        let stats = counters.stats(Elsewhere {
            page_size: PageSize::host(),
            live_snapshots: 0,
            frames_in_use: 0,
            frames_in_use_peak: 0,
            frames_resident: 0,
            vma_peak: 0,
            protect_calls: 0,
            drains: 0,
            foreign_faults: 0,
            pages_armed_early: 0,
            soft_fault_ns: 0,
        });
        let buckets: Vec<_> = stats.save_latency.buckets().collect();
        assert_eq!(
            buckets,
            [(1, 1), (2, 1), (1024, 1), (2048, 1), (1 << 39, 1)]
        );
        assert_eq!(stats.save_latency.quantile(0.5), Some(1024));
        assert_eq!(stats.save_latency.quantile(1.0), Some(1 << 39));
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(stats.faults, 5);
    }
}
