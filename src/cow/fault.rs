//! The protocol of a first write: claim the page, save it, disarm it, note it as dirty, release it.
//!
//! Called by the SIGSEGV handler for one page and by [`crate::cow::guard`] for a range; everything here is
//! async-signal-safe (invariant 6), and outside the handler it is called with signals masked.
//!
//! The order within a run of claimed pages is fixed:
//! 1. each page that a live snapshot still needs is copied, and the copy published (invariants 1, 4);
//!    where no frame is left, the snapshots that need it are marked failed instead (invariant 8);
//! 2. one call disarms the whole run, every page of which is claimed (invariant 3);
//! 3. the run is added to the dirty set;
//! 4. the page words get the current epoch and the claims end.
//!
//! A run begins with the page at hand and grows over neighbours ([`crate::window`]); their claims are only tried
//! for, and it ends at the first that somebody else has, so that nobody who holds a claim waits.
//!
//! Who has to wait - for the gate, or for somebody else's claim - holds no claim, is not inside the
//! gate, and starts again from the top.

use std::ops::Range;

use crate::cow::core::Core;
use crate::epoch::Epoch;
use crate::options::Window;
use crate::page::{PageIndex, PageRange};
use crate::sync::{Ordering, fence};
use crate::sys::{self, ProtectError};
use crate::window::{self, Block, Evidence};

/// What it took to make a page writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The page was saved.
    Saved,
    /// It was armed, but no copy was made: no live snapshot needed one, or the store had none to give.
    Soft,
    /// It was writable already.
    Already,
}

const CANNOT_OPEN: &str =
    "pagecow: the kernel refuses to make the arena writable again; cannot go on\n";

/// Most pages that `make_writable` claims and disarms at one time: an aligned block of them, which may be a
/// huge page.
const BATCH: usize = 512;

impl Core {
    /// Makes `page` writable after a store to it was refused.
    pub fn first_write(&self, page: PageIndex) -> Opened {
        let mut saved = false;
        loop {
            self.gate.enter();
            let Some(dealt) = self.table.try_claim(page) else {
                self.gate.leave();
                self.table.wait_free(page);
                continue;
            };
            if self.dirty.contains(page) && !self.half_armed.load(Ordering::Relaxed) {
                self.table.release(page, dealt);
                self.gate.leave();
                return if saved {
                    Opened::Saved
                } else {
                    Opened::Already
                };
            }
            let mut run = Run::start(self, page, dealt);
            saved |= run.saved > 0;
            run.grow_while_nothing_is_saved();
            run.grow_to_window();
            let open = run.disarm_near_the_wall();
            run.release();
            self.gate.leave();
            if open || self.open_everything() {
                return if saved { Opened::Saved } else { Opened::Soft };
            }
        }
    }

    /// Makes all pages of `range` writable. The caller keeps commits away, or does not mind that a
    /// commit arms them again.
    pub fn make_writable(&self, range: PageRange) {
        let end = range.last().get() + 1;
        let mut next = range.first().get();
        while next < end {
            let page = PageIndex::new(next);
            // Claims are held outside the handler here: a signal handler that stores to a claimed page
            // would wait for the thread that it interrupts.
            let _masked = sys::signal::Masked::new();
            self.gate.enter();
            let Some(dealt) = self.table.try_claim(page) else {
                self.gate.leave();
                self.table.wait_free(page);
                continue;
            };
            let last = PageIndex::new((next + 1).next_multiple_of(BATCH).min(end) - 1);
            let mut run = Run::start(self, page, dealt);
            run.grow_up(last);
            let done = run.last.get() + 1;
            let open = run.all_open() || run.disarm_near_the_wall();
            run.release();
            self.gate.leave();
            if open || self.open_everything() {
                next = done;
            }
        }
    }

    /// Saves a page that no one else can disarm meanwhile: it is claimed, or the gate is closed.
    /// `dealt` is what its word says. Returns whether a copy was made.
    fn save(&self, page: PageIndex, dealt: Epoch) -> bool {
        let newest = self.newest();
        // What only failed snapshots need is not copied any more.
        let failed_above = self.fail_floor.load(Ordering::Relaxed);
        if newest <= dealt || failed_above <= dealt.get() {
            return false;
        }
        let Some(frame) = self.store.take() else {
            // Release: who sees the page's new epoch sees the failure too.
            self.fail_floor.fetch_min(dealt.get(), Ordering::Release);
            return false;
        };
        self.store.fill(frame, self.engine.memory(), page);
        self.versions
            .publish(&self.store, frame, page, dealt, newest);
        true
    }

    /// The pages that a first write to `page`, which has been saved, deals with.
    fn window_around(&self, page: PageIndex) -> Range<usize> {
        let saved = self.counters.saved_since_commit() + 1;
        let left = (self.pages as u64).saturating_sub(saved) as usize;
        if self.store.free() < left {
            // A copy ahead might take a frame that a write needs.
            return page.get()..page.get() + 1;
        }
        if self.density.ahead() > 0 {
            self.compare_a_copy(saved);
        }
        let (small, large) = self.density.around(page);
        let one_more = |block: Block| Block {
            now: block.now + 1,
            ..block
        };
        let evidence = Evidence {
            written: self.density.written() + 1,
            before: self.density.before(),
            ahead: self.density.ahead(),
            small: one_more(small),
            large: one_more(large),
            run_below: self.dirty.run_below(page),
            run_above: self.dirty.run_above(page),
            fault_cost: self.engine.fault_cost(),
        };
        window::choose(self.window, page.get(), self.pages, &evidence, |range| {
            self.dirty.closed(range.start, range.end)
        })
    }

    /// Learns from one of the newest snapshot's copies, which one is as good as random for each `number`, whether its page was written since; not when that is an
    /// older one, which has copies from before, too. Async-signal-safe.
    pub fn compare_a_copy(&self, number: u64) {
        let newest = self.newest();
        if newest != self.epoch() {
            return;
        }
        // Older snapshots' copies are passed over.
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut tries = (0..4).map(|time| random.wrapping_add(time * 0x9e37_79b9));
        if let Some(frame) = tries.find_map(|random| self.store.sample(random, newest.get())) {
            let differs = self.store.differs(frame, self.engine.memory());
            self.density.compared(differs);
        }
    }

    /// The last way out when the kernel grants no more mappings and none can be merged with: saves all
    /// that is left and disarms the arena as a whole, which splits nothing. Returns `false` when the caller
    /// has to start again: somebody else had the gate closed, or the engine found another way.
    fn open_everything(&self) -> bool {
        if !self.gate.try_close() {
            self.gate.wait_open();
            return false;
        }
        match self.engine.unfold() {
            Ok(false) => {}
            // Now the caller's page can be opened by itself.
            Ok(true) => {
                self.counters.wall_exit();
                self.gate.open();
                return false;
            }
            Err(_) => sys::die(CANNOT_OPEN),
        }
        // Nobody holds a claim now. Readers look at live memory of a page until its word is raised,
        // which is after its copy was published and before anything is disarmed.
        let epoch = self.epoch();
        let mut ahead = 0;
        for page in self.all_pages().iter() {
            let dealt = self.table.load(page).epoch();
            if dealt < epoch && !self.dirty.contains(page) {
                ahead += u64::from(self.save(page, dealt));
                self.table.raise(page, epoch);
            }
        }
        self.counters.pages_saved(ahead, ahead);
        if self.disarm_everything().is_err() {
            sys::die(CANNOT_OPEN);
        }
        self.counters.wall_exit();
        self.gate.open();
        true
    }
}

/// Neighbouring pages, all claimed by this thread and saved, to be disarmed by one call. Lives inside
/// the gate.
struct Run<'a> {
    core: &'a Core,
    /// The page that it began with.
    at: PageIndex,
    first: PageIndex,
    last: PageIndex,
    epoch: Epoch,
    /// Copies made so far.
    saved: u64,
    /// How many of them nobody has asked for.
    ahead: u64,
}

impl<'a> Run<'a> {
    /// A run of one page, which the caller has claimed.
    fn start(core: &'a Core, page: PageIndex, dealt: Epoch) -> Self {
        let saved = core.save(page, dealt);
        Self {
            core,
            at: page,
            first: page,
            last: page,
            epoch: core.epoch(),
            saved: u64::from(saved),
            ahead: 0,
        }
    }

    fn range(&self) -> PageRange {
        PageRange::new(self.first, self.last)
    }

    /// Claims and saves a neighbour; `false` when somebody else has it.
    fn take(&mut self, page: PageIndex) -> bool {
        let Some(dealt) = self.core.table.try_claim(page) else {
            return false;
        };
        self.saved += u64::from(self.core.save(page, dealt));
        true
    }

    /// Grows upwards as far as `last`; `false` when it ends before, at a page that somebody else has.
    fn grow_up(&mut self, last: PageIndex) -> bool {
        while self.last < last {
            let next = PageIndex::new(self.last.get() + 1);
            if !self.take(next) {
                return false;
            }
            self.last = next;
        }
        true
    }

    /// Grows downwards as far as `first`; as [`grow_up`](Self::grow_up).
    fn grow_down(&mut self, first: PageIndex) -> bool {
        while first < self.first {
            let next = PageIndex::new(self.first.get() - 1);
            if !self.take(next) {
                return false;
            }
            self.first = next;
        }
        true
    }

    /// Grows until it touches the open page `open`, so that disarming it extends that page's mapping
    /// instead of splitting one; `false` when somebody else has a page in between.
    fn grow_beside(&mut self, open: PageIndex) -> bool {
        let before = self.saved;
        let reached = if open < self.first {
            self.grow_down(PageIndex::new(open.get() + 1))
        } else {
            self.grow_up(PageIndex::new(open.get() - 1))
        };
        self.ahead += self.saved - before;
        reached
    }

    /// Grows over these pages, as far as nobody else has one.
    fn grow_over(&mut self, pages: Range<usize>) {
        self.grow_up(PageIndex::new(pages.end - 1));
        self.grow_down(PageIndex::new(pages.start));
    }

    /// Grows over the neighbours that had better be dealt with now.
    fn grow_to_window(&mut self) {
        let core = self.core;
        if self.saved == 0 || core.window == Window::Page {
            return;
        }
        let before = self.saved;
        self.grow_over(core.window_around(self.first));
        self.ahead += self.saved - before;
    }

    /// With no snapshot alive nothing is copied, and opening the neighbours is all but free: the more of
    /// the arena was opened one fault at a time, the larger the block, so that faults soon end.
    fn grow_while_nothing_is_saved(&mut self) {
        let core = self.core;
        if core.newest() != Epoch::ZERO {
            return;
        }
        let faults = core.free_faults.fetch_add(1, Ordering::Relaxed);
        self.grow_over(window::free_block(faults, self.first.get(), core.pages));
    }

    fn all_open(&self) -> bool {
        !self.core.half_armed.load(Ordering::Relaxed)
            && self
                .range()
                .iter()
                .all(|page| self.core.dirty.contains(page))
    }

    /// Disarms the run. As the mappings run short it first grows to the nearest open page, within a
    /// reach that widens; when the kernel refuses a further mapping, however far that is. `false` when
    /// that did not help either: everything that was saved stays saved, and armed.
    fn disarm_near_the_wall(&mut self) -> bool {
        let core = self.core;
        let reach = if core.engine.splits_mappings() {
            window::reach(sys::mappings::in_use(), sys::mappings::limit())
        } else {
            0
        };
        if reach > 0
            && let Some(open) = core.dirty.nearest(self.range(), reach)
        {
            self.grow_beside(open);
            core.counters.wall_exit();
        }
        if self.disarm() {
            return true;
        }
        if !core.engine.splits_mappings() {
            // Neighbours would not help.
            return false;
        }
        let Some(open) = core.dirty.nearest(self.range(), usize::MAX) else {
            return false;
        };
        core.counters.wall_exit();
        self.grow_beside(open) && self.disarm()
    }

    /// One protect call over the run; `false` when the kernel grants no further mapping.
    fn disarm(&mut self) -> bool {
        let core = self.core;
        let range = self.range();
        // Pairs with the reader's fence: who reads a byte that is stored from here on sees the claims.
        fence(Ordering::Release);
        match core.engine.disarm(range) {
            Ok(()) => {}
            Err(ProtectError::NoMappings) => {
                if range.count() > 1 {
                    // Its first pages may be open now, and no commit may miss them.
                    core.half_armed.store(true, Ordering::Relaxed);
                    core.dirty.add(range);
                }
                return false;
            }
            Err(ProtectError::Refused(_)) => {
                sys::die("pagecow: the kernel refuses to make a page writable; cannot go on\n")
            }
        }
        if core.engine.splits_mappings() {
            core.mappings.opened(&core.dirty, range, core.pages);
        }
        core.dirty.add(range);
        true
    }

    /// Ends the claims. The pages are dealt with up to the current epoch, disarmed or not.
    fn release(self) {
        let core = self.core;
        core.counters.pages_saved(self.saved, self.ahead);
        if self.saved > 0 && matches!(core.window, Window::Adaptive { .. }) {
            let asked = self.saved - self.ahead;
            core.density.saved(self.at, self.range(), asked, self.ahead);
        }
        for page in self.range().iter() {
            core.table.release(page, self.epoch);
        }
    }
}
