//! A model of an arena and its snapshots: plain vectors, cloned at each snapshot, and the steps
//! that change both.

mod beside;
mod forked;
mod replica;

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::time::Duration;

use pagecow::{Arena, ArenaBuilder, Engine, Error, Mark, Pending, Snapshot, Window};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use self::beside::Beside;
pub use self::beside::Kind;
use self::forked::Children;
use self::replica::{Replica, by_way_of};
use super::engines::{by_faults, engines};
use super::page_size;

/// Places are given in 1/1000 of the arena.
#[derive(Clone, Debug)]
pub enum Step {
    /// Store `len` bytes of `value`.
    Write {
        at: usize,
        len: usize,
        value: u8,
    },
    /// The same through a `writable` guard.
    WriteGuarded {
        at: usize,
        len: usize,
        value: u8,
    },
    /// The same by `read_from`.
    ReadFrom {
        at: usize,
        len: usize,
        value: u8,
    },
    Snapshot,
    /// Begin a snapshot in two phases, instead of one that is on its way.
    Prepare,
    /// Arm a slice ahead for the one that is on its way.
    ArmAhead,
    /// Do what the keeper does.
    Tend,
    /// Commit the one that is on its way, or a new one.
    Commit,
    /// Drop one of the live snapshots.
    Drop {
        which: usize,
    },
    ReadAt {
        which: usize,
        at: usize,
        len: usize,
    },
    Stream {
        which: usize,
        at: usize,
    },
    Page {
        which: usize,
        index: usize,
    },
    ChangedSince {
        which: usize,
        older: usize,
    },
    /// Put the arena back to one of the live snapshots.
    Restore {
        which: usize,
    },
    /// Make a mark at one of the live snapshots.
    Mark {
        which: usize,
    },
    /// What changed since one of the marks, up to one of the live snapshots and up to now.
    ChangedSinceMark {
        mark: usize,
        which: usize,
    },
    /// Load an image of one of the live snapshots.
    Load {
        which: usize,
    },
    /// Bring what was loaded up to date with one of them.
    Update {
        which: usize,
    },
    /// Load one of them, and bring it up to date with another.
    LoadChain {
        which: usize,
        older: usize,
    },
    /// Make a view, a branch or an arena of one of the live snapshots.
    Make {
        kind: Kind,
        which: usize,
    },
    /// Store to one of these.
    StoreBeside {
        kind: Kind,
        which: usize,
        at: usize,
        len: usize,
        value: u8,
    },
    DropBeside {
        kind: Kind,
        which: usize,
    },
    /// What is done in the background, one piece of it.
    TendOnce,
    /// Fork a process that lives on. Only in a process of its own.
    Fork,
    /// Have one of them check that it has what was, and end.
    EndFork {
        which: usize,
    },
}

pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..most)
}

/// The same with forks.
pub fn steps_and_forks(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        14 => step(),
        1 => Just(Step::Fork),
        1 => (0usize..16).prop_map(|which| Step::EndFork { which }),
    ];
    vec(step, 1..most)
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0usize..1000;
    let len = prop_oneof![4 => 1usize..64, 1 => 1usize..100_000];
    let which = 0usize..16;
    let write = (at.clone(), len.clone(), any::<u8>());
    let kind = select(vec![Kind::View, Kind::Branch, Kind::Arena]);
    let one = (kind, which.clone());
    prop_oneof![
        8 => write.clone().prop_map(|(at, len, value)| Step::Write { at, len, value }),
        2 => write.clone().prop_map(|(at, len, value)| Step::WriteGuarded { at, len, value }),
        1 => write.clone().prop_map(|(at, len, value)| Step::ReadFrom { at, len, value }),
        4 => Just(Step::Snapshot),
        1 => Just(Step::Prepare),
        2 => Just(Step::ArmAhead),
        2 => Just(Step::Tend),
        1 => Just(Step::Commit),
        3 => which.clone().prop_map(|which| Step::Drop { which }),
        3 => (which.clone(), at.clone(), len)
            .prop_map(|(which, at, len)| Step::ReadAt { which, at, len }),
        1 => (which.clone(), at.clone()).prop_map(|(which, at)| Step::Stream { which, at }),
        2 => (which.clone(), at).prop_map(|(which, index)| Step::Page { which, index }),
        2 => (which.clone(), which.clone())
            .prop_map(|(which, older)| Step::ChangedSince { which, older }),
        3 => which.clone().prop_map(|which| Step::Restore { which }),
        1 => which.clone().prop_map(|which| Step::Mark { which }),
        2 => (which.clone(), which.clone())
            .prop_map(|(mark, which)| Step::ChangedSinceMark { mark, which }),
        1 => which.clone().prop_map(|which| Step::Load { which }),
        2 => which.clone().prop_map(|which| Step::Update { which }),
        1 => (which.clone(), which.clone())
            .prop_map(|(which, older)| Step::LoadChain { which, older }),
        1 => one.clone().prop_map(|(kind, which)| Step::Make { kind, which }),
        2 => (one.clone(), write).prop_map(|((kind, which), (at, len, value))| {
            Step::StoreBeside { kind, which, at, len, value }
        }),
        1 => one.prop_map(|(kind, which)| Step::DropBeside { kind, which }),
        3 => Just(Step::TendOnce),
    ]
}

pub fn engine() -> impl Strategy<Value = pagecow::Engine> {
    select(engines())
}

pub fn window() -> impl Strategy<Value = Window> {
    prop_oneof![
        Just(Window::Page),
        (1usize..64).prop_map(Window::Fixed),
        Just(Window::default()),
        (1usize..200, 1.0f64..20.0).prop_map(|(max_pages, max_ratio)| Window::Adaptive {
            max_pages,
            max_ratio,
        }),
    ]
}

/// `cases` cases on each engine.
pub fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: cases * engines().len() as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A snapshot and what it must read.
struct Frozen {
    snapshot: Snapshot,
    bytes: Vec<u8>,
    /// Its number: how many snapshots had been taken.
    number: u64,
    /// Whether it may say that it has failed.
    may_fail: bool,
}

impl Frozen {
    fn has_failed(&self) -> bool {
        !self.snapshot.is_exact()
    }

    /// What it was asked is exact, or it says that it has failed, where that may be.
    fn expect<T: PartialEq>(&self, result: Result<T, impl fmt::Debug>, wanted: T) {
        match result {
            Ok(value) => {
                assert!(value == wanted, "a wrong byte in {:?}", self.snapshot);
                assert!(!self.has_failed(), "{:?} can be read", self.snapshot);
            }
            Err(error) => assert!(self.may_fail && self.has_failed(), "{error:?}"),
        }
    }

    fn expect_bytes(&self, range: Range<usize>) {
        let mut read = vec![0; range.len()];
        let result = self.snapshot.read_at(range.start, &mut read);
        self.expect(result.map(|()| &read[..]), &self.bytes[range]);
    }
}

/// A mark, with what was there.
struct Marked {
    mark: Mark,
    bytes: Vec<u8>,
    number: u64,
}

/// As many are kept.
const MOST_MARKS: usize = 2;

pub struct Model {
    arena: Arena,
    /// What the arena must hold.
    bytes: Vec<u8>,
    live: Vec<Frozen>,
    marks: Vec<Marked>,
    /// With the number of the snapshot that it holds.
    replica: Option<(Replica, u64)>,
    engine: Engine,
    beside: Beside,
    children: Children,
    pending: Option<Pending>,
    taken: u64,
    /// For each page, how many snapshots had been taken when it was last made writable.
    opened: Vec<u64>,
    /// For each page, the same for each time that it was.
    history: Vec<Vec<u64>>,
    /// Copies that the snapshots need.
    copies: u64,
    /// Copies that had been made at the last snapshot.
    saved_before: u64,
    window: Window,
    /// Whether snapshots may say that they have failed.
    may_fail: bool,
    /// Whether faults are what copies come from, so that each is counted.
    by_faults: bool,
}

impl Model {
    pub fn new(
        engine: Engine,
        builder: ArenaBuilder,
        window: Window,
        pages: usize,
        may_fail: bool,
    ) -> Result<Self, Error> {
        let len = pages * page_size();
        Ok(Self {
            arena: builder.engine(engine).window(window).build(len)?,
            bytes: vec![0; len],
            live: Vec::new(),
            marks: Vec::new(),
            replica: None,
            engine,
            beside: Beside::default(),
            children: Children::default(),
            pending: None,
            taken: 0,
            opened: vec![0; pages],
            history: vec![Vec::new(); pages],
            copies: 0,
            saved_before: 0,
            window,
            may_fail,
            by_faults: by_faults(engine),
        })
    }

    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    fn pages(&self) -> usize {
        self.opened.len()
    }

    fn range(&self, at: usize, len: usize) -> Range<usize> {
        let start = at * self.bytes.len() / 1000;
        start..(start + len).min(self.bytes.len())
    }

    /// Notes that `range` was filled, which made its pages writable.
    fn written(&mut self, range: &Range<usize>, value: u8) {
        self.bytes[range.clone()].fill(value);
        let page = page_size();
        for index in range.start / page..=(range.end - 1) / page {
            self.stored_to(index);
        }
    }

    fn stored_to(&mut self, page: usize) {
        let newest = self.live.iter().map(|frozen| frozen.number).max();
        self.copies += u64::from(newest.is_some_and(|newest| newest > self.opened[page]));
        self.opened[page] = self.taken;
        self.history[page].push(self.taken);
    }

    /// The pages that were ever written, as ranges of bytes. Checks in between leave the others
    /// alone, since reading memory makes it resident.
    fn ever_written(&self) -> Vec<Range<usize>> {
        let pages: Vec<usize> = (0..self.pages())
            .filter(|page| !self.history[*page].is_empty())
            .collect();
        pages
            .chunk_by(|a, b| a + 1 == *b)
            .map(|run| run[0] * page_size()..(run[run.len() - 1] + 1) * page_size())
            .collect()
    }

    fn pick(&self, which: usize) -> Option<&Frozen> {
        (!self.live.is_empty()).then(|| &self.live[which % self.live.len()])
    }

    /// Takes a step. An error is one of taking a snapshot, or of making something of it. Then
    /// nothing has changed, and the step may be taken again.
    pub fn apply(&mut self, step: &Step) -> Result<(), Error> {
        match *step {
            Step::Write { at, len, value } => {
                let range = self.range(at, len);
                self.arena[range.clone()].fill(value);
                self.written(&range, value);
            }
            Step::WriteGuarded { at, len, value } => {
                let range = self.range(at, len);
                let faults = self.arena.stats().faults;
                let mut part = self.arena.writable(range.clone()).unwrap();
                part.fill(value);
                drop(part);
                assert_eq!(self.arena.stats().faults, faults);
                self.written(&range, value);
            }
            Step::ReadFrom { at, len, value } => {
                let range = self.range(at, len);
                let source = io::repeat(value).take(range.len() as u64);
                let read = self.arena.read_from(range.start.., source).unwrap();
                assert_eq!(read, range.len());
                self.written(&range, value);
            }
            Step::Snapshot => {
                let saved = self.arena.stats().pages_saved;
                let snapshot = self.arena.snapshot()?;
                self.taken(snapshot, saved);
            }
            Step::Prepare => self.pending = Some(self.arena.prepare()?),
            Step::ArmAhead => {
                if let Some(pending) = &mut self.pending {
                    pending.step(Duration::ZERO)?;
                }
            }
            Step::Tend => self.arena.tend(Duration::MAX),
            Step::Commit => {
                let saved = self.arena.stats().pages_saved;
                let pending = match self.pending.take() {
                    Some(pending) => pending,
                    None => self.arena.prepare()?,
                };
                let snapshot = pending.commit()?;
                self.taken(snapshot, saved);
            }
            Step::Drop { which } => {
                if !self.live.is_empty() {
                    let frozen = self.live.swap_remove(which % self.live.len());
                    for range in self.ever_written() {
                        frozen.expect_bytes(range);
                    }
                }
            }
            Step::ReadAt { which, at, len } => {
                if let Some(frozen) = self.pick(which) {
                    frozen.expect_bytes(self.range(at, len));
                }
            }
            Step::Stream { which, at } => {
                let start = self.range(at, 1).start;
                if let Some(frozen) = self.pick(which) {
                    let mut reader = frozen.snapshot.reader();
                    reader.seek(SeekFrom::Start(start as u64)).unwrap();
                    let mut read = Vec::new();
                    let result = reader.read_to_end(&mut read);
                    frozen.expect(result.map(|_| &read[..]), &frozen.bytes[start..]);
                }
            }
            Step::Page { which, index } => {
                let (page, index) = (page_size(), index % self.pages());
                if let Some(frozen) = self.pick(which) {
                    let result = frozen.snapshot.page(index);
                    let wanted = frozen.bytes[index * page..][..page].to_vec();
                    frozen.expect(result.map(|page| page.bytes().to_vec()), wanted);
                }
            }
            Step::ChangedSince { which, older } => self.changed_since(which, older),
            Step::Restore { which } => self.restore(which)?,
            Step::Mark { which } => self.mark(which)?,
            Step::ChangedSinceMark { mark, which } => self.changed_since_mark(mark, which),
            Step::Load { which } => self.load(which),
            Step::Update { which } => self.update(which),
            Step::LoadChain { which, older } => self.load_chain(which, older),
            Step::Make { kind, which } => self.make(kind, which)?,
            Step::StoreBeside {
                kind,
                which,
                at,
                len,
                value,
            } => {
                let range = self.range(at, len);
                self.beside.store(kind, which, range, value);
            }
            Step::DropBeside { kind, which } => self.beside.drop(kind, which),
            Step::TendOnce => self.arena.tend(Duration::ZERO),
            Step::Fork => self.fork(),
            Step::EndFork { which } => self.children.end_one(which),
        }
        Ok(())
    }

    fn restore(&mut self, which: usize) -> Result<(), Error> {
        if self.live.is_empty() {
            return Ok(());
        }
        let which = which % self.live.len();
        let frozen = &self.live[which];
        match self.arena.restore(&frozen.snapshot) {
            Ok(restored) => {
                assert!(!frozen.has_failed());
                let wanted = frozen.bytes.clone();
                let stored = self.pages_that_differ(&wanted, &self.bytes);
                // With no faults to go by, what was written over with the same bytes is one, too.
                assert!(restored.pages >= stored.len());
                assert!(!self.by_faults || restored.pages == stored.len());
                for page in stored {
                    self.stored_to(page);
                }
                self.bytes = wanted;
            }
            Err(error) if !frozen.has_failed() => return Err(error),
            Err(error) => assert!(self.may_fail, "{error:?}"),
        }
        Ok(())
    }

    fn mark(&mut self, which: usize) -> Result<(), Error> {
        let Some(frozen) = self.pick(which) else {
            return Ok(());
        };
        let marked = Marked {
            mark: frozen.snapshot.mark()?,
            bytes: frozen.bytes.clone(),
            number: frozen.number,
        };
        if self.marks.len() == MOST_MARKS {
            self.marks.remove(0);
        }
        self.marks.push(marked);
        self.marked();
        Ok(())
    }

    /// A mark was made, for which a snapshot may have been taken to tell from there on.
    fn marked(&mut self) {
        if !self.by_faults {
            self.taken = self.arena.stats().snapshots;
        }
    }

    fn load(&mut self, which: usize) {
        self.replica = None;
        let Some(frozen) = self.pick(which) else {
            return;
        };
        match Replica::new(self.engine, &frozen.snapshot) {
            Ok(replica) => {
                assert!(replica.arena[..] == frozen.bytes[..], "what was loaded");
                self.replica = Some((replica, frozen.number));
                self.marked();
            }
            Err(error) => assert!(self.may_fail && frozen.has_failed(), "{error:?}"),
        }
    }

    fn update(&mut self, which: usize) {
        let Some((mut replica, number)) = self.replica.take() else {
            return;
        };
        let Some(frozen) = self.pick(which).filter(|frozen| frozen.number >= number) else {
            return;
        };
        match replica.update(&frozen.snapshot) {
            Ok(()) => {
                assert!(
                    replica.arena[..] == frozen.bytes[..],
                    "what was brought up to date"
                );
                self.replica = Some((replica, frozen.number));
                self.marked();
            }
            Err(error) => assert!(self.may_fail && frozen.has_failed(), "{error:?}"),
        }
    }

    fn load_chain(&self, which: usize, older: usize) {
        let (Some(newer), Some(older)) = (self.pick(which), self.pick(older)) else {
            return;
        };
        if older.number > newer.number {
            return;
        }
        match by_way_of(&older.snapshot, &newer.snapshot) {
            Ok(arena) => assert!(arena[..] == newer.bytes[..], "a chain"),
            Err(error) => {
                let failed = newer.has_failed() || older.has_failed();
                assert!(self.may_fail && failed, "{error:?}");
            }
        }
    }

    fn changed_since_mark(&self, mark: usize, which: usize) {
        if self.marks.is_empty() {
            return;
        }
        let marked = &self.marks[mark % self.marks.len()];
        let expect = |ranges: Vec<Range<usize>>, bytes: &[u8], upto: u64| {
            let pages: Vec<usize> = ranges.into_iter().flatten().collect();
            let named = |page: &usize| pages.contains(page);
            assert!(pages.is_sorted_by(|a, b| a < b), "{pages:?}");
            let differ = self.pages_that_differ(&marked.bytes, bytes);
            assert!(
                differ.iter().all(named),
                "{pages:?} lack some of {differ:?}"
            );
            let between = marked.number..upto;
            let written = |page: &usize| self.history[*page].iter().any(|at| between.contains(at));
            let written: Vec<usize> = (0..self.pages()).filter(written).collect();
            if self.by_faults {
                assert!(
                    written.iter().all(named),
                    "{pages:?} lack some of {written:?}"
                );
            }
        };
        let changed = self.arena.changed_since(&marked.mark).unwrap();
        expect(changed, &self.bytes, u64::MAX);
        let Some(frozen) = self.pick(which) else {
            return;
        };
        match frozen.snapshot.changed_since(&marked.mark) {
            Ok(changed) => expect(changed, &frozen.bytes, frozen.number),
            Err(Error::NotOlder { .. }) => assert!(frozen.number < marked.number),
            Err(error) => assert!(self.may_fail && frozen.has_failed(), "{error:?}"),
        }
    }

    fn pages_that_differ(&self, one: &[u8], two: &[u8]) -> Vec<usize> {
        let page = |bytes: &[u8], index: usize| {
            bytes[index * page_size()..(index + 1) * page_size()].to_vec()
        };
        (0..self.pages())
            .filter(|index| page(one, *index) != page(two, *index))
            .collect()
    }

    fn make(&mut self, kind: Kind, which: usize) -> Result<(), Error> {
        if self.live.is_empty() {
            return Ok(());
        }
        let frozen = &self.live[which % self.live.len()];
        match self.beside.make(kind, &frozen.snapshot, &frozen.bytes) {
            Err(_) if frozen.may_fail && frozen.has_failed() => Ok(()),
            made => made,
        }
    }

    /// The child has what is now, and goes on to store to all that it may store to.
    fn fork(&mut self) {
        let mut children = std::mem::take(&mut self.children);
        let mut value = 0;
        children.fork(|| {
            self.check_all();
            value += 1;
            for (at, len) in [(0, 100_000), (500, 3), (990, 9999)] {
                let range = self.range(at, len);
                self.arena[range.clone()].fill(value);
                self.bytes[range.clone()].fill(value);
                for (which, kind) in [Kind::Branch, Kind::Arena].into_iter().enumerate() {
                    self.beside.store(kind, which, range.clone(), value);
                }
            }
            self.check_all();
            // There and back again, each process for itself.
            for which in 0..self.live.len() {
                self.restore(which).unwrap();
                self.check_all();
            }
        });
        self.children = children;
    }

    fn taken(&mut self, snapshot: Snapshot, saved_before: u64) {
        self.taken += 1;
        self.saved_before = saved_before;
        self.live.push(Frozen {
            snapshot,
            bytes: self.bytes.clone(),
            number: self.taken,
            may_fail: self.may_fail,
        });
    }

    fn changed_since(&self, which: usize, older: usize) {
        let (Some(newer), Some(older)) = (self.pick(which), self.pick(older)) else {
            return;
        };
        let result = newer.snapshot.changed_since(&older.snapshot);
        let differ = newer.snapshot.pages_that_differ(&older.snapshot);
        if let Ok(differ) = differ {
            let differ: Vec<usize> = differ.into_iter().flatten().collect();
            assert_eq!(differ, self.pages_that_differ(&newer.bytes, &older.bytes));
        } else {
            assert!(result.is_err(), "{differ:?}");
        }
        if older.number > newer.number {
            let result = result.unwrap_err();
            assert!(matches!(result, Error::NotOlder { .. }));
            return;
        }
        let between = older.number..newer.number;
        let wanted: Vec<usize> = (0..self.pages())
            .filter(|page| self.history[*page].iter().any(|at| between.contains(at)))
            .collect();
        match result.map(|ranges| ranges.into_iter().flatten().collect::<Vec<usize>>()) {
            Ok(pages) if !self.by_faults => {
                // Where there are no faults to go by, what was written over with the same bytes may
                // be missing.
                let differ = self.pages_that_differ(&newer.bytes, &older.bytes);
                for index in 0..self.pages() {
                    let named = pages.contains(&index);
                    assert!(named || !differ.contains(&index), "{pages:?} lack {index}");
                    let exact = self.window == Window::Page;
                    assert!(
                        !named || !exact || wanted.contains(&index),
                        "{pages:?}, not {index}"
                    );
                }
                assert!(pages.is_sorted_by(|a, b| a < b), "{pages:?}");
            }
            Ok(pages) if self.window == Window::Page => assert_eq!(pages, wanted),
            // Pages saved ahead are named as well.
            Ok(pages) => assert!(
                wanted.iter().all(|page| pages.contains(page)),
                "{pages:?} lack some of {wanted:?}"
            ),
            Err(error) => {
                let failed = newer.has_failed() || older.has_failed();
                assert!(self.may_fail && failed, "{error:?}");
            }
        }
    }

    /// The counters, and the live bytes as far as they were ever written.
    pub fn check(&self) {
        for range in self.ever_written() {
            assert!(
                self.arena[range.clone()] == self.bytes[range.clone()],
                "live bytes {range:?} differ"
            );
            self.beside.check(range);
        }
        let stats = self.arena.stats();
        assert_eq!(stats.live_snapshots, self.live.len() as u64);
        assert_eq!(stats.snapshots, self.taken);
        if !self.by_faults {
            return;
        }
        // No page is saved twice between two snapshots.
        assert!(stats.pages_saved - self.saved_before <= self.pages() as u64);
        let asked = stats.pages_saved - stats.pages_saved_ahead;
        assert!(asked <= self.copies, "{stats:?}");
        if !self.may_fail {
            assert!(stats.pages_saved >= self.copies, "{stats:?}");
        }
        if self.window == Window::Page {
            assert_eq!(stats.pages_saved_ahead, 0);
        }
    }

    /// All bytes.
    fn check_all(&self) {
        assert!(self.arena[..] == self.bytes[..], "live bytes differ");
        for frozen in &self.live {
            frozen.expect_bytes(0..self.bytes.len());
        }
        self.beside.check(0..self.bytes.len());
    }

    /// All bytes, the live ones and those of all snapshots and of what was made of them, which
    /// outlive their arena.
    pub fn check_to_the_end(mut self) {
        self.check_all();
        self.children.end_all();
        let Self {
            arena,
            bytes,
            live,
            beside,
            ..
        } = self;
        drop(arena);
        for frozen in &live {
            frozen.expect_bytes(0..bytes.len());
        }
        drop(live);
        beside.check(0..bytes.len());
    }
}
