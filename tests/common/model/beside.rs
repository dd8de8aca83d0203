//! What is made of snapshots and lives beside them: views, branches, arenas; and what each must
//! hold.

use std::ops::Range;

use pagecow::{Arena, Branch, Snapshot, View};

/// As many of each kind are kept.
const MOST: usize = 3;

#[derive(Default)]
pub struct Beside {
    views: Vec<(View, Vec<u8>)>,
    branches: Vec<(Branch, Vec<u8>)>,
    arenas: Vec<(Arena, Vec<u8>)>,
}

/// Which kind of them.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    View,
    Branch,
    Arena,
}

impl Beside {
    /// Makes one; another goes if there are many.
    pub fn make(
        &mut self,
        kind: Kind,
        snapshot: &Snapshot,
        bytes: &[u8],
    ) -> Result<(), pagecow::Error> {
        let bytes = bytes.to_vec();
        match kind {
            Kind::View => keep(&mut self.views, (snapshot.view()?, bytes)),
            Kind::Branch => keep(&mut self.branches, (snapshot.branch()?, bytes)),
            Kind::Arena => keep(&mut self.arenas, (snapshot.to_arena()?, bytes)),
        }
        Ok(())
    }

    /// Stores to one that can be stored to.
    pub fn store(&mut self, kind: Kind, which: usize, range: Range<usize>, value: u8) {
        let (place, bytes): (&mut [u8], _) = match kind {
            Kind::View => return,
            Kind::Branch if self.branches.is_empty() => return,
            Kind::Arena if self.arenas.is_empty() => return,
            Kind::Branch => {
                let which = which % self.branches.len();
                let (branch, bytes) = &mut self.branches[which];
                (branch, bytes)
            }
            Kind::Arena => {
                let which = which % self.arenas.len();
                let (arena, bytes) = &mut self.arenas[which];
                (arena, bytes)
            }
        };
        place[range.clone()].fill(value);
        bytes[range].fill(value);
    }

    pub fn drop(&mut self, kind: Kind, which: usize) {
        match kind {
            Kind::View => take(&mut self.views, which),
            Kind::Branch => take(&mut self.branches, which),
            Kind::Arena => take(&mut self.arenas, which),
        }
    }

    /// Each holds what it must, in this range.
    pub fn check(&self, range: Range<usize>) {
        for (number, (found, wanted)) in self.all().enumerate() {
            assert!(
                found[range.clone()] == wanted[range.clone()],
                "number {number} beside the snapshots differs"
            );
        }
    }

    fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let views = self.views.iter().map(|(view, bytes)| (&**view, &bytes[..]));
        let branches = self.branches.iter();
        let branches = branches.map(|(branch, bytes)| (&**branch, &bytes[..]));
        let arenas = self
            .arenas
            .iter()
            .map(|(arena, bytes)| (&**arena, &bytes[..]));
        views.chain(branches).chain(arenas)
    }
}

fn keep<T>(kept: &mut Vec<T>, one: T) {
    if kept.len() == MOST {
        kept.remove(0);
    }
    kept.push(one);
}

fn take<T>(kept: &mut Vec<T>, which: usize) {
    if !kept.is_empty() {
        kept.swap_remove(which % kept.len());
    }
}
