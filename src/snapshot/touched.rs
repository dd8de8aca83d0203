//! Which pages may hold something other than zeros: those that the kernel holds anything of.
//!
//! Arenas begin as zeros, and nothing that is allowed on them (docs/soundness.md) has the kernel
//! forget a page that was stored to. So a page of which it holds nothing was never stored to until
//! then, and in each snapshot that was taken before, it is zero. That stays true whatever is stored
//! later.

use std::ops::Range;

use crate::snapshot::Snapshot;

/// How many pages count as touched when the system does not say; then it is asked again.
const IN_DOUBT: usize = 4096;

/// What the last look at an arena told, kept for whoever goes through its pages in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    /// The pages that are known, and the touched ones among them: runs, ascending.
    known: Range<usize>,
    runs: Vec<Range<usize>>,
}

impl Snapshot {
    /// The first pages from `page` on, in a row, that may hold something other than zeros, as page
    /// indices; `None` when all pages from there on are zeros. As lseek's `SEEK_DATA`, for holes. A
    /// long row comes in pieces of some thousand pages: go on with the end of the one before.
    ///
    /// Names each page that was ever written, and may name others: such as were read, that share a
    /// huge page with others, or that lie near others and were protected one by one (userfaultfd);
    /// and, without `/proc` or without a file descriptor to spare, all pages.
    ///
    /// ```
    /// let mut arena = pagecow::Arena::new(1 << 30)?;
    /// let page = arena.page_size();
    /// arena[1000 * page] = 7;
    /// let snapshot = arena.snapshot()?;
    /// let mut next = 0;
    /// while let Some(pages) = snapshot.next_touched(next) {
    ///     next = pages.end; // Here pages are sent that the other side does not have.
    /// }
    /// assert!(next > 1000);
    /// # Ok::<(), pagecow::Error>(())
    /// ```
    pub fn next_touched(&self, page: usize) -> Option<Range<usize>> {
        Touched::default().next_from(self, page)
    }
}

impl Touched {
    /// The first pages from `page` on that may have been touched before the call, in a row; a long
    /// row comes in pieces. `None` when all pages up to the end are zero in each snapshot that
    /// exists.
    pub fn next_from(&mut self, snapshot: &Snapshot, page: usize) -> Option<Range<usize>> {
        let pages = snapshot.page_count();
        let mut from = page;
        while from < pages {
            if !self.known.contains(&from) {
                self.look(snapshot, from..pages);
            }
            let next = self.runs.partition_point(|run| run.end <= from);
            if let Some(run) = self.runs.get(next) {
                return Some(run.start.max(from)..run.end);
            }
            from = self.known.end;
        }
        None
    }

    fn look(&mut self, snapshot: &Snapshot, pages: Range<usize>) {
        self.runs.clear();
        let core = snapshot.core();
        let end = if let Some(frozen) = snapshot.frozen() {
            // The file says itself what it holds.
            let held = frozen.next_held(pages.start);
            let end = held.as_ref().map_or(pages.end, |held| held.end);
            self.runs.extend(held);
            end
        } else if let Some(look) = core.memory().look(pages.clone(), core.page_size()) {
            self.runs.extend_from_slice(look.runs());
            look.end
        } else {
            let end = pages.end.min(pages.start + IN_DOUBT);
            self.runs.push(pages.start..end);
            end
        };
        self.known = pages.start..end;
    }
}
