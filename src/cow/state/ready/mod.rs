//! Standing ready: which pages are worth arming between snapshots, and what that may cost writers.
//!
//! Pages that nobody writes should be armed when a snapshot is taken without notice. Nothing says
//! which these are, so open pages are *tried*: they are armed, and those that are written again
//! fault and are open. Blocks of pages are tried together. A block with few faults stays armed, but
//! for the pages that faulted: they are tried again a little later, and where they fault in two
//! trials in a row they are *hot*, and left alone for longer and longer. A block with many faults
//! has *failed*: it is opened as a whole, and tried again after a time that doubles.
//!
//! Faults cost writers time, which is bounded by *tokens*, in nanoseconds. They come at a share of
//! the time that passes, and each fault takes what it cost. As many blocks are tried at one time as
//! the tokens would pay for if all of them failed. Pages that were armed before may be written at
//! any time, so the fewer tokens are left, the larger is the piece that a fault opens. Both
//! together find how much of the arena can stay armed.
//!
//! All of it is advice: relaxed atomics, of std in models too. A wrong guess costs time, and
//! nothing is wrong.

mod block;
mod round;
mod tokens;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use self::block::{Block, Look};
use self::round::Round;
use self::tokens::Tokens;
use crate::epoch::Epoch;
use crate::options::Options;
use crate::page::{PageCount, PageIndex, PageRange};
use crate::sys::Zeroed;
use crate::window::{LARGE, SMALL};

/// Faults of a block in one trial after which it has failed.
const FEW: u8 = if cfg!(loom) { 1 } else { 4 };

/// How long things take, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(in crate::cow) struct Times {
    /// Pages are tried when they were open for this long; hot ones, for this long.
    cold: u64,
    hot: u64,
    /// From one look at all open pages to the next, at least.
    pub round: u64,
    /// The same where nothing is due, or nothing may be done.
    pub rest: u64,
}

impl Times {
    fn new(cold: Duration) -> Self {
        const MOST: u128 = 1 << 40;
        let cold = cold.as_nanos().min(MOST) as u64;
        Self {
            cold,
            hot: cold * 4,
            round: cold / 2,
            rest: cold * 4,
        }
    }
}

pub(in crate::cow) struct StandingReady {
    pages: PageCount,
    pub times: Times,
    /// Pages in a block: [`SMALL`], or a huge page.
    size: usize,
    blocks: Zeroed<Block>,
    pub tokens: Tokens,
    /// Nothing is tried until the next commit.
    rests: AtomicBool,
    /// Address space for frames was asked for.
    has_reserved: AtomicBool,
    /// What was written before the first snapshot was asked for.
    has_told: AtomicBool,
    pub round: Round,
    pages_armed: AtomicU64,
}

/// Blocks side by side that one step tries.
pub(in crate::cow) struct Chunk {
    pub pages: PageRange,
    /// Pages in it that stay open.
    pub kept: Vec<PageRange>,
    /// Blocks in it that are tried.
    pub trials: usize,
    /// When another of its blocks is due; the end of time when none is.
    pub due: u64,
}

impl Chunk {
    fn keep(&mut self, pages: Range<usize>) {
        self.kept.push(PageRange::from(pages));
    }

    /// Keeps those of the pages from `first` on whose bits are set.
    fn keep_bits(&mut self, first: usize, bits: u64) {
        let mut bits = bits;
        while bits != 0 {
            let start = bits.trailing_zeros();
            let count = (bits >> start).trailing_ones();
            let end = start + count;
            self.keep(first + start as usize..first + end as usize);
            bits &= u64::MAX.checked_shl(end).unwrap_or(0);
        }
    }
}

impl StandingReady {
    /// In huge pages, blocks are those: a fault on one must not split it.
    pub fn new(pages: PageCount, options: &Options, now: u64) -> std::io::Result<Self> {
        let size = if options.huge_pages { LARGE } else { SMALL };
        Ok(Self {
            pages,
            times: Times::new(options.cold),
            size,
            blocks: Zeroed::new(pages.get().div_ceil(size))?,
            tokens: Tokens::new(now),
            rests: AtomicBool::new(false),
            has_reserved: AtomicBool::new(false),
            has_told: AtomicBool::new(false),
            round: Round::default(),
            pages_armed: AtomicU64::new(0),
        })
    }

    /// This many pages were armed by one call.
    pub fn armed(&self, pages: usize) {
        self.pages_armed.fetch_add(pages as u64, Relaxed);
        self.tokens.charge_call();
    }

    /// Pages armed so far, each time counted.
    pub fn pages_armed(&self) -> u64 {
        self.pages_armed.load(Relaxed)
    }

    /// All pages were opened: they stay so until the next commit.
    pub fn rest(&self) {
        self.rests.store(true, Relaxed);
    }

    pub fn rests(&self) -> bool {
        self.rests.load(Relaxed)
    }

    /// A snapshot was taken.
    pub fn committed(&self) {
        self.rests.store(false, Relaxed);
    }

    /// Whether this is the first time that somebody asks.
    pub fn reserves(&self) -> bool {
        !self.has_reserved.swap(true, Relaxed)
    }

    /// Which pages a fault on `page` opens that needs no copy. Async-signal-safe.
    pub fn hit(&self, page: PageIndex, now: u64) -> Range<usize> {
        let at = page.get();
        let piece = self.tokens.piece();
        let index = at / self.size;
        let block = &self.blocks[index];
        if self.size > SMALL {
            return self.fail(self.aligned(at, self.size.max(piece)));
        }
        let bit = at % SMALL;
        block.count(bit, now);
        if piece >= SMALL {
            return self.fail(self.aligned(at, piece));
        }
        // Memory that is written in order soon takes few faults.
        let is_full = |back| index >= back && self.blocks[index - back].is_full();
        if bit == 0 && is_full(1) {
            let size = if is_full(2) { LARGE } else { SMALL };
            let pages = at..self.aligned(at, size).end;
            for block in &self.blocks[index..pages.end.div_ceil(SMALL)] {
                block.fill();
            }
            return pages;
        }
        let run = block.run_below(bit);
        if run > 1 {
            let count = block.open_in_order(bit, run);
            return at..(at + count).min(self.pages.get());
        }
        if block.has_failed() {
            block.extrapolate(now);
            return self.fail(self.aligned(at, SMALL));
        }
        self.aligned(at, piece)
    }

    /// The blocks of these pages are opened as a whole.
    fn fail(&self, pages: Range<usize>) -> Range<usize> {
        for block in &self.blocks[pages.start / self.size..pages.end.div_ceil(self.size)] {
            block.fail();
        }
        pages
    }

    /// How many of the 64 pages from `first` on, of which these are open, are expected to be
    /// written in half a second.
    pub fn expected(&self, first: usize, open: u64) -> usize {
        self.blocks[first / self.size].expected(open)
    }

    /// Whether this is the first time that somebody asks what was written before the first
    /// snapshot.
    pub fn has_past(&self) -> bool {
        !self.has_told.swap(true, Relaxed)
    }

    /// The aligned block of `size` pages that page `at` is in, as far as the arena goes.
    fn aligned(&self, at: usize, size: usize) -> Range<usize> {
        let start = at / size * size;
        start..(start + size).min(self.pages.get())
    }

    /// Looks at all blocks of the chunk around page `at`, and begins at most `most` trials. `open`
    /// gives the open ones of the 64 pages from one on, as bits.
    pub fn look(
        &self,
        at: usize,
        now: u64,
        epoch: Epoch,
        most: usize,
        open: impl Fn(usize) -> u64,
    ) -> Chunk {
        let pages = self.aligned(at, LARGE);
        let mut chunk = Chunk {
            pages: PageRange::from(pages.clone()),
            kept: Vec::new(),
            trials: 0,
            due: u64::MAX,
        };
        for start in pages.step_by(self.size) {
            let all = self.aligned(start, self.size);
            let open = { all.clone().step_by(SMALL) }.fold(0, |bits, at| bits | open(at));
            if open == 0 {
                continue;
            }
            let block = &self.blocks[start / self.size];
            match block.look(open, now, epoch, self.times, chunk.trials < most) {
                Look::Wait(due) => {
                    chunk.due = chunk.due.min(due);
                    chunk.keep(all);
                }
                Look::Try(cold) => {
                    chunk.trials += 1;
                    if self.size == SMALL {
                        chunk.keep_bits(start, open & !cold);
                    }
                }
            }
        }
        chunk
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const COLD_NS: u64 = 250_000_000;
    const HOT_NS: u64 = 1_000_000_000;

    const PAGES: usize = 1000;

    fn ready() -> StandingReady {
        StandingReady::new(PageCount::new(PAGES), &Options::default(), 0).unwrap()
    }

    fn hit(ready: &StandingReady, page: usize) -> Range<usize> {
        ready.hit(PageIndex::new(page), 0)
    }

    /// Looks at the first chunk, in which these pages are open; returns the pages that stay so.
    fn look(ready: &StandingReady, now: u64, open: u64) -> Chunk {
        let bits = |page| if page == 0 { open } else { 0 };
        ready.look(0, now, Epoch::ZERO, usize::MAX, bits)
    }

    /// When pages of the first block are tried next, all of which are open.
    fn next_trial(ready: &StandingReady, now: u64) -> u64 {
        let mut now = now;
        loop {
            let chunk = look(ready, now, u64::MAX);
            if chunk.trials > 0 {
                return now;
            }
            now = chunk.due;
        }
    }

    /// When page 3 of the first block, which is open, is not left alone any more.
    fn chunk_due(ready: &StandingReady, now: u64) -> u64 {
        look(ready, now, 1 << 3).due
    }

    fn kept(chunk: &Chunk) -> Vec<(usize, usize)> {
        { chunk.kept.iter() }
            .map(|pages| (pages.start(), pages.end()))
            .collect()
    }

    #[test]
    fn a_page_that_faults_in_two_trials_in_a_row_is_left_alone_for_longer_and_longer() {
        let ready = ready();
        let mut now = 0;
        assert_eq!(look(&ready, now, u64::MAX).trials, 1);
        assert_eq!(hit(&ready, 3), 3..4);
        // A page that was opened just now has to wait.
        let chunk = look(&ready, now, 1 << 3);
        assert_eq!((chunk.trials, chunk.due), (0, COLD_NS));
        let mut waited = Vec::new();
        for _ in 0..8 {
            now = look(&ready, now, 1 << 3).due;
            assert_eq!(look(&ready, now, 1 << 3).trials, 1);
            assert_eq!(hit(&ready, 3), 3..4);
            let chunk = look(&ready, now, 1 << 3);
            assert_eq!((chunk.trials, kept(&chunk)), (0, vec![(0, 64)]));
            waited.push((chunk.due - now) / HOT_NS);
            // Its neighbour is tried meanwhile.
            now = look(&ready, now, 0b11 << 3).due;
            let chunk = look(&ready, now, 0b11 << 3);
            assert_eq!((chunk.trials, kept(&chunk)), (1, vec![(3, 4)]));
            now = chunk_due(&ready, now);
        }
        assert_eq!(waited, [1, 2, 4, 8, 16, 16, 16, 16]);
    }

    #[test]
    fn a_block_with_many_faults_is_opened_and_tried_after_a_time_that_doubles() {
        let ready = ready();
        let mut now = 0;
        assert_eq!(look(&ready, now, u64::MAX).trials, 1);
        let mut waited = Vec::new();
        for trial in 0..10 {
            for page in (0..usize::from(FEW)).map(|page| (page + trial) * 5 % 63) {
                assert_eq!(hit(&ready, page), page..page + 1);
            }
            assert_eq!(hit(&ready, 63), 0..64);
            let begin = now;
            now = next_trial(&ready, now);
            waited.push((now - begin) / COLD_NS);
        }
        assert_eq!(waited, [2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
        // Once it survives, it is trusted sooner.
        hit(&ready, 1);
        let begin = now;
        assert_eq!(next_trial(&ready, now) - begin, COLD_NS << 4);
    }

    #[test]
    fn what_a_commit_armed_counts_as_written_when_it_is_open() {
        let ready = ready();
        let open = |_| u64::MAX;
        let now = 1 << 40;
        let chunk = ready.look(0, now, Epoch::new(1), usize::MAX, open);
        assert_eq!((chunk.trials, chunk.due), (0, now + COLD_NS));
        let chunk = ready.look(0, now + COLD_NS, Epoch::new(1), 3, open);
        assert_eq!((chunk.trials, chunk.pages), (3, (0..512).into()));
        assert_eq!(chunk.kept.len(), 5);
    }

    #[test]
    fn the_last_block_ends_where_the_arena_does() {
        let ready = ready();
        ready.tokens.set(i64::MIN / 2);
        assert_eq!(hit(&ready, 999), 512..1000);
        let last = |page: usize| if page == 960 { u64::MAX >> 24 } else { 0 };
        let chunk = ready.look(999, 0, Epoch::ZERO, usize::MAX, last);
        assert_eq!((chunk.trials, chunk.pages), (0, (512..1000).into()));
        assert_eq!(kept(&chunk), [(960, 1000)]);
    }

    #[test]
    fn pages_written_in_order_soon_take_few_faults() {
        let ready = ready();
        let mut faults = Vec::new();
        let mut open = 0;
        while open < 512 {
            faults.push(open);
            open = hit(&ready, open).end;
        }
        assert_eq!(faults, [0, 1, 2, 4, 8, 16, 32, 64, 128]);
        // Here and there, it is no order.
        assert_eq!(hit(&ready, 600), 600..601);
        assert_eq!(hit(&ready, 640), 640..641);
    }

    #[test]
    fn a_huge_page_is_opened_as_one() {
        let options = Options {
            huge_pages: true,
            ..Options::default()
        };
        let ready = StandingReady::new(PageCount::new(PAGES), &options, 0).unwrap();
        assert_eq!(hit(&ready, 3), 0..512);
        let chunk = ready.look(600, 0, Epoch::ZERO, 1, |_| u64::MAX);
        assert_eq!((chunk.trials, kept(&chunk)), (1, Vec::new()));
    }

    #[test]
    fn hot_pages_and_dense_blocks_are_expected_to_be_written() {
        let ready = ready();
        assert_eq!(look(&ready, 0, u64::MAX).trials, 1);
        hit(&ready, 3);
        assert_eq!(ready.expected(0, 1 << 3), 1);
        assert_eq!(ready.expected(64, u64::MAX), 0);
        ready.tokens.set(-1);
        assert_eq!(hit(&ready, 70), 64..128);
        assert_eq!(ready.expected(64, u64::MAX), 1);
        ready.tokens.set(i64::MAX / 2);
        for page in [5, 10, 15, 20] {
            ready.hit(PageIndex::new(page), 200_000_000);
        }
        assert_eq!(ready.expected(0, u64::MAX), 10);
    }

    #[test]
    fn runs_of_bits_are_runs_of_pages() {
        let mut chunk = look(&ready(), 0, 0);
        chunk.keep_bits(64, 1 << 63 | 0b110);
        chunk.keep_bits(128, u64::MAX);
        assert_eq!(kept(&chunk), [(65, 67), (127, 128), (128, 192)]);
    }
}
