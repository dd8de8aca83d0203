//! Which forked processes may look at the parent's files: of each fork, whether its child, or a
//! child of that, still lives in the address space that it got.

use crate::sync::{Mutex, MutexGuard, lock};
use crate::sys::Mark;

/// More forks at a time share the marks of those before.
const MOST: usize = 32;

pub(crate) struct Children {
    /// Forks so far.
    forks: u64,
    /// Those that may have descendants: a mark, and the last of the forks that it stands for.
    marks: [Option<(Mark, u64)>; MOST],
    /// The mark of the fork that is under way.
    next: Option<Mark>,
    /// The last fork that got no mark: nobody knows when its descendants are gone.
    unmarked: u64,
    /// The same before the fork that is under way.
    unmarked_before: u64,
}

static CHILDREN: Mutex<Children> = Mutex::new(Children {
    forks: 0,
    marks: [const { None }; MOST],
    next: None,
    unmarked: 0,
    unmarked_before: 0,
});

/// When memory was made: a number of forks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since(u64);

/// Now.
pub(crate) fn now() -> Since {
    Since(lock(&CHILDREN).forks)
}

/// Whether a descendant may live that was forked since.
pub(crate) fn any_since(since: Since) -> bool {
    let mut children = lock(&CHILDREN);
    if children.next.is_some() {
        return true;
    }
    children.forget_gone();
    let marked = children.marks.iter().flatten();
    let last = marked.map(|(_, fork)| *fork).max().unwrap_or(0);
    last.max(children.unmarked) > since.0
}

/// For the time of a fork.
pub(crate) fn hold() -> MutexGuard<'static, Children> {
    lock(&CHILDREN)
}

impl Children {
    fn forget_gone(&mut self) {
        for place in &mut self.marks {
            if place.as_ref().is_some_and(|(mark, _)| !mark.is_seen()) {
                *place = None;
            }
        }
    }

    /// Before a fork whose child gets views.
    pub fn before(&mut self) {
        self.forks += 1;
        self.unmarked_before = self.unmarked;
        self.forget_gone();
        self.next = if self.marks.iter().any(Option::is_none) {
            Mark::new().ok()
        } else {
            // The oldest: it is the likeliest to stay longest.
            let oldest = self
                .marks
                .iter_mut()
                .min_by_key(|place| place.as_ref().map_or(u64::MAX, |(_, fork)| *fork));
            let oldest = oldest.and_then(Option::take);
            oldest.and_then(|(mut mark, _)| mark.show().ok().map(|()| mark))
        };
        if self.next.is_none() {
            self.unmarked = self.forks;
        }
    }

    pub fn in_parent(&mut self) {
        let Some(mut mark) = self.next.take() else {
            return;
        };
        mark.hide();
        let place = self.marks.iter_mut().find(|place| place.is_none());
        match place {
            Some(place) => *place = Some((mark, self.forks)),
            None => self.unmarked = self.forks,
        }
    }

    /// There was no fork.
    #[cfg(feature = "forkable")]
    pub fn refused(&mut self) {
        // As if its child had gone already, but for those whose mark it was to share.
        self.in_parent();
        self.unmarked = self.unmarked_before;
    }

    /// The child keeps the mark of the fork that made it, and has no children yet.
    pub fn in_child(&mut self) {
        if let Some(mark) = self.next.take() {
            mark.keep();
        }
        self.marks = [const { None }; MOST];
        self.unmarked = 0;
    }
}
