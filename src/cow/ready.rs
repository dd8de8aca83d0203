//! Standing ready: between snapshots, pages that were not written for a while are armed, so that
//! few are left to arm when a snapshot is taken without notice.
//!
//! Which pages, and how many faults that may cost, says [`crate::cow::state::ready`]. How they are
//! armed is the same as ahead of a commit ([`crate::cow::prepare`]): in slices, each with the gate
//! closed and drained and the ledger locked, outside the pages of guards and never a part of a
//! block that the engine protects as a whole. So no new race comes with it: after each slice the
//! dirty set is exactly the open pages, and a store to a page that was armed is a fault without a
//! copy.

use crate::cow::core::Core;
use crate::cow::run::Run;
use crate::cow::state::ready::{Chunk, StandingReady, Times};
use crate::cow::tend::Tended;
use crate::epoch::Epoch;
use crate::error::Result;
use crate::options::Window;
use crate::page::{PageCount, PageRange};
use crate::protect::Protection;
use crate::sys;
use crate::window::{LARGE, SMALL};

/// Chunks that one step looks at.
const LOOKS: usize = 256;
/// Runs of pages in a slice.
const RUNS: usize = 64;
/// How long the gate stays closed while slices are armed; then it opens, and is closed again.
const CLOSED_NS: u64 = 100_000;

impl Core {
    /// One step. Not where faults might not arrive.
    pub(super) fn get_colder(&self, ready: &StandingReady, is_quiet: bool) -> Tended {
        let now = sys::clock::now();
        let Times { round, rest, .. } = ready.times;
        ready.tokens.pay(now);
        if ready.rests() || self.mappings_are_scarce() {
            return Tended::Later(rest);
        }
        if let Err(time) = ready.round.begin(now, || ready.tokens.trials()) {
            return Tended::Later(time);
        }
        let least = if is_quiet { rest } else { round };
        let end = |next| Tended::Later(ready.round.end(now, next, least, rest));
        for _ in 0..LOOKS {
            let (from, trials) = ready.round.at();
            let Some(open) = self.dirty.first_open(from) else {
                return end(0);
            };
            if trials == 0 {
                return end(open.get());
            }
            let open_from = |page| self.dirty.open_bits(page);
            let chunk = ready.look(open.get(), now, self.epoch(), trials, open_from);
            ready.round.looked_at(&chunk);
            if chunk.trials > 0 {
                if self.arm_chunk(ready, chunk).is_err() {
                    // Some pages may be in doubt, which the next commit puts right.
                    ready.rest();
                }
                break;
            }
        }
        Tended::More
    }

    /// What is open when the first snapshot is prepared, and was written lately, is expected to be
    /// written after it. Before any of it is armed.
    pub(super) fn tell_the_past(&self) {
        let Some(ready) = &self.ready else { return };
        let is_asked = matches!(self.window, Window::Adaptive { .. });
        if !is_asked || self.epoch() != Epoch::ZERO || !ready.has_past() {
            return;
        }
        let mut from = 0;
        while let Some(open) = self.dirty.first_open(from) {
            let first = open.get() / SMALL * SMALL;
            from = first + SMALL;
            let expected = ready.expected(first, self.dirty.open_bits(first));
            if expected > 0 {
                let pages = PageRange::from(first..first + expected);
                let page = pages.first();
                self.density.saved(page, pages, expected as u64, 0);
            }
        }
    }

    /// Whether arming pages here and there might bring the process near the wall.
    fn mappings_are_scarce(&self) -> bool {
        self.engine.splits_mappings() && sys::mappings::in_use() >= sys::mappings::limit() / 8 * 3
    }

    /// Arms the open pages of a chunk outside those that it keeps.
    fn arm_chunk(&self, ready: &StandingReady, chunk: Chunk) -> Result<()> {
        let Chunk { pages, kept, .. } = chunk;
        let mut next = Some(pages.start());
        while let Some(from) = next {
            let ledger = self.ledger();
            if ready.rests() {
                return Ok(());
            }
            let guards = ledger.guards.pages();
            let mut outside = Outside::new(&kept, guards);
            let masked = sys::signal::Masked::new();
            self.gate.close();
            let armed = self.arm_from(ready, from, pages, &mut outside);
            self.gate.open();
            drop(masked);
            drop(ledger);
            next = armed?;
        }
        Ok(())
    }

    /// Arms slices from page `from` on, for a short time, within the pages `all` of a chunk.
    /// Returns where to go on. Gate closed and drained.
    fn arm_from(
        &self,
        ready: &StandingReady,
        from: usize,
        all: PageRange,
        outside: &mut Outside,
    ) -> Result<Option<usize>> {
        let kept = outside.widen(&self.engine, all, self.pages);
        let cut = |end| self.engine.whole_end(end);
        let mut from = from;
        let mut took = 0;
        while let Some(slice) = self.dirty.slice_outside(from, LARGE, RUNS, kept, cut) {
            took += self.arm(Some(slice))?;
            ready.armed(slice.pages);
            from = slice.range.end();
            if took > CLOSED_NS {
                return Ok(Some(from));
            }
        }
        Ok(None)
    }
}

/// The pages that stay as they are.
struct Outside {
    pages: Vec<PageRange>,
    /// How many of these are the chunk's own.
    own: usize,
}

impl Outside {
    /// Allocates, so before the gate is closed.
    fn new(own: &[PageRange], guards: impl Iterator<Item = PageRange>) -> Self {
        let mut pages = own.to_vec();
        pages.extend(guards);
        // What lies on either side of the chunk.
        pages.reserve(2);
        Self {
            pages,
            own: own.len(),
        }
    }

    /// Widened to whole blocks of the engine, and with everything outside the chunk's pages `all`.
    fn widen(&mut self, engine: &Protection, all: PageRange, count: PageCount) -> &[PageRange] {
        for (index, pages) in self.pages.iter_mut().enumerate() {
            // A chunk lies in one block, so its first range stands for all of its own.
            if index == 0 || index >= self.own {
                *pages = engine.whole_blocks(*pages);
            }
        }
        let all = engine.whole_blocks(all);
        if all.start() > 0 {
            self.pages.push(PageRange::from(0..all.start()));
        }
        if all.end() < count.get() {
            self.pages.push(PageRange::from(all.end()..count.get()));
        }
        &self.pages
    }
}

impl Run<'_> {
    /// Grows over the pages that a fault opens which needed no copy, as far as they need none.
    pub fn grow_while_standing_ready(&mut self, ready: &StandingReady) {
        let pages = ready.hit(self.at(), sys::clock::now());
        self.grow_without_copies(pages);
    }
}
