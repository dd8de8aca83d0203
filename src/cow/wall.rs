//! The mapping wall: the kernel grants a process only a limited number of mappings, and an engine
//! that splits them comes near it when few pages beside each other are open.
//!
//! There are three ways on, each dearer than the one before: grow a run until it touches an open
//! page, so that no mapping is split; have the engine [unfold](crate::protect::Protection::unfold);
//! save and open the whole arena.

use crate::cow::core::Core;
use crate::cow::run::Run;
use crate::page::PageIndex;
use crate::sync::Ordering;
use crate::sync::fence;
use crate::sys::{self, ProtectError};
use crate::window;

const CANNOT_OPEN: &str =
    "pagecow: the kernel refuses to make the arena writable again; cannot go on\n";

impl Run<'_> {
    /// Disarms the run. As the mappings run short it first grows to the nearest open page, within a
    /// reach that widens; when the kernel refuses a further mapping, however far that is. `false`
    /// when that did not help either: everything that was saved stays saved, and armed.
    pub fn disarm_near_the_wall(&mut self) -> bool {
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

    /// Grows until it touches the open page `open`, so that disarming it extends that page's
    /// mapping instead of splitting one; `false` when somebody else has a page in between.
    fn grow_beside(&mut self, open: PageIndex) -> bool {
        self.ahead(|run| {
            if open < run.range().first() {
                run.grow_down(open.get() + 1)
            } else {
                run.grow_up(open.get())
            }
        })
    }
}

impl Core {
    /// The last way out when the kernel grants no more mappings and none can be merged with: saves
    /// all that is left and disarms the arena as a whole, which splits nothing. Returns `false`
    /// when the caller has to start again: somebody else had the gate closed, or the engine found
    /// another way.
    pub(super) fn open_everything(&self) -> bool {
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

    /// Disarms the arena as a whole, by one call, which splits no mapping. Gate closed and drained,
    /// and no snapshot needs what is in live memory. When it fails some pages may be open: a commit
    /// arms them all, and faults on those that are not open disarm them.
    pub(super) fn disarm_everything(&self) -> std::result::Result<(), ProtectError> {
        // As in `Run::disarm`: a thread that reads a byte stored from here on
        // sees the raised words.
        fence(Ordering::Release);
        let disarmed = self.engine.disarm(self.all_pages());
        if let Some(ready) = &self.ready {
            ready.rest();
        }
        self.dirty.add_everything();
        if disarmed.is_err() {
            self.doubt.raise();
        } else {
            self.doubt.settle();
            self.mappings.reset();
        }
        disarmed
    }
}
