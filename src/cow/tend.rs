//! What is done for an arena between its snapshots, by the keeper or by hand: memory of frames is
//! made resident ahead of the writers, and given back when it was not needed for long. Where it is
//! to stand [ready](crate::cow::ready), also what that takes.
//!
//! All of it is in small steps, and none of it is needed for anything to be right.

use crate::cow::core::Core;
use crate::epoch::Epoch;

use bounds::{AHEAD, KEPT, PAGES_PER_FRAME, STEP};

#[cfg(not(loom))]
mod bounds {
    pub(super) use crate::cow::supply::KEPT_FRAMES as KEPT;
    /// Frames made resident by one step.
    pub const STEP: usize = 32;
    /// While a snapshot lives: free frames that are kept resident at least, ahead of the writers,
    /// and at most one for each `PAGES_PER_FRAME` pages of the arena.
    pub const AHEAD: usize = 512;
    pub const PAGES_PER_FRAME: usize = 8;
}

/// So few that the models' few frames count.
#[cfg(loom)]
mod bounds {
    pub const KEPT: usize = 0;
    pub const STEP: usize = 1;
    pub const AHEAD: usize = 1;
    pub const PAGES_PER_FRAME: usize = 1;
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tended {
    /// Something, now, that keeps stores waiting or slow until it is done.
    Merge,
    /// Something, now.
    More,
    /// Nothing now. A snapshot lives, and writers may use up what is ready.
    Watch,
    /// Something, after this many nanoseconds.
    Later(u64),
    /// Nothing, until a snapshot is taken or dropped.
    Idle,
}

impl Tended {
    /// Whether anything is left to do now.
    pub fn is_more(self) -> bool {
        self <= Self::More
    }
}

impl Core {
    /// One step. Pages may be armed only where faults arrive.
    pub fn tend_once(&self, faults_arrive: bool) -> Tended {
        let tended = self.tend_frames();
        match &self.ready {
            Some(ready) if tended != Tended::More && faults_arrive => {
                tended.min(self.get_colder(ready, self.upkeep.left() == 0))
            }
            // Perhaps they will.
            Some(ready) => tended.min(Tended::Later(ready.times.rest)),
            None => tended,
        }
    }

    /// One step for the store.
    fn tend_frames(&self) -> Tended {
        let left = self.upkeep.left();
        if left == 0 {
            let in_advance = self.frames_in_advance();
            let more = self.trim_some(|any_lives| self.frames_left(any_lives).max(in_advance));
            return if more { Tended::More } else { Tended::Idle };
        }
        if let Some(ready) = &self.ready
            && ready.reserves()
        {
            // What the first snapshot would do. When it fails, that one says so.
            let _ledger = self.ledger();
            let _ = self.store.reserve(self.pages.get() * 2);
        }
        let resident = self.store.free_resident();
        let wanted = self.frames_wanted();
        if resident < wanted {
            self.prefault(wanted.min(resident + STEP));
            if self.store.free_resident() > resident {
                return Tended::More;
            }
        }
        if self.is_frozen() && self.most_wanted() > 0 {
            Tended::Watch
        } else {
            Tended::Later(left)
        }
    }

    /// Whether the arena is to be ready for a snapshot at any time.
    #[cfg(not(loom))]
    pub fn stands_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Free frames whose memory stays when it is time for decay. Without a decay it always is, and
    /// then a snapshot that lives keeps what the last period used. (Not in models, in which no time
    /// passes, and which have no other decay.)
    fn frames_left(&self, any_lives: bool) -> usize {
        if cfg!(loom) || self.upkeep.kept().is_some() {
            KEPT
        } else {
            self.frames_kept(any_lives)
        }
    }

    /// Whether writers may need frames.
    fn is_frozen(&self) -> bool {
        self.newest() != Epoch::ZERO
    }

    /// Resident frames that writers are expected to use in this period.
    fn frames_wanted(&self) -> usize {
        if !self.is_frozen() {
            return self.frames_in_advance();
        }
        let pages = self.pages.get();
        let unsaved = pages.saturating_sub(self.counters.saved_since_commit() as usize);
        let (as_before, ahead) = self.expected();
        let wanted = as_before
            .saturating_sub(self.store.in_use())
            .max(ahead)
            .min(unsaved);
        worth_a_step(wanted)
    }

    /// The most that may be wanted until the next snapshot is taken.
    fn most_wanted(&self) -> usize {
        let (as_before, ahead) = self.expected();
        worth_a_step(as_before.max(ahead))
    }

    /// Frames that the last periods used, and those that are wanted whatever they used.
    fn expected(&self) -> (usize, usize) {
        let pages = self.pages.get();
        let as_before = self.upkeep.kept().unwrap_or(0).min(pages);
        (as_before, AHEAD.min(pages / PAGES_PER_FRAME))
    }
}

/// Thousands of small arenas would have some pages each.
fn worth_a_step(frames: usize) -> usize {
    if frames < STEP { 0 } else { frames }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::page::{PageCount, PageSize};

    /// What is left to do while a snapshot of an arena of this size lives.
    fn left_to_do(pages: usize) -> Tended {
        let pages = PageCount::new(pages);
        let core = Core::new(PageSize::host(), pages, &Options::default()).unwrap();
        core.commit().unwrap();
        while core.tend_once(true) == Tended::More {}
        core.tend_once(true)
    }

    #[test]
    fn arenas_so_small_that_no_frames_are_wanted_are_not_watched() {
        assert!(matches!(left_to_do(STEP), Tended::Later(_)));
        assert_eq!(left_to_do(STEP * PAGES_PER_FRAME), Tended::Watch);
    }
}
