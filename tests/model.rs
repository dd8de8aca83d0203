//! Random operations on an arena and its snapshots against plain vectors cloned at each snapshot, with
//! everything that must hold checked after each step.

mod common;

use std::io::{Read, Seek, SeekFrom};

use common::{engines, on, page_size};
use pagecow::{Arena, ArenaBuilder, Engine, Error, Snapshot, Window};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// More than two of the blocks that windows look at.
const PAGES: usize = 150;

#[derive(Clone, Debug)]
enum Step {
    /// Store `len` bytes of `value` at a place given in 1/1000 of the arena.
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
    Snapshot,
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
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0usize..1000;
    let len = prop_oneof![4 => 1usize..64, 1 => 1usize..100_000];
    let which = 0usize..16;
    prop_oneof![
        8 => (at.clone(), len.clone(), any::<u8>())
            .prop_map(|(at, len, value)| Step::Write { at, len, value }),
        2 => (at.clone(), len.clone(), any::<u8>())
            .prop_map(|(at, len, value)| Step::WriteGuarded { at, len, value }),
        4 => Just(Step::Snapshot),
        3 => which.clone().prop_map(|which| Step::Drop { which }),
        3 => (which.clone(), at.clone(), len)
            .prop_map(|(which, at, len)| Step::ReadAt { which, at, len }),
        1 => (which.clone(), at).prop_map(|(which, at)| Step::Stream { which, at }),
        2 => (which.clone(), 0..PAGES).prop_map(|(which, index)| Step::Page { which, index }),
        2 => (which.clone(), which).prop_map(|(which, older)| Step::ChangedSince { which, older }),
    ]
}

fn engine() -> impl Strategy<Value = Engine> {
    select(engines())
}

fn window() -> impl Strategy<Value = Window> {
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

/// A snapshot and what it must read.
struct Frozen {
    snapshot: Snapshot,
    bytes: Vec<u8>,
    /// Its number: how many snapshots had been taken.
    number: u64,
}

struct Model {
    arena: Arena,
    /// What the arena must hold.
    bytes: Vec<u8>,
    live: Vec<Frozen>,
    taken: u64,
    /// For each page, how many snapshots had been taken when it was last made writable.
    opened: Vec<u64>,
    /// For each page, the same for each time that it was.
    history: Vec<Vec<u64>>,
    /// Copies that cannot be done without.
    copies: u64,
    /// Copies that had been made at the last snapshot.
    saved_before: u64,
    window: Window,
    limited: bool,
}

impl Model {
    fn new(builder: ArenaBuilder, window: Window, limit_pages: Option<usize>) -> Self {
        let mut builder = builder.window(window);
        if let Some(pages) = limit_pages {
            builder = builder.store_limit(pages * page_size());
        }
        Self {
            arena: builder.build(PAGES * page_size()).unwrap(),
            bytes: vec![0; PAGES * page_size()],
            live: Vec::new(),
            taken: 0,
            opened: vec![0; PAGES],
            history: vec![Vec::new(); PAGES],
            copies: 0,
            saved_before: 0,
            window,
            limited: limit_pages.is_some(),
        }
    }

    fn range(&self, at: usize, len: usize) -> std::ops::Range<usize> {
        let start = at * self.bytes.len() / 1000;
        start..(start + len).min(self.bytes.len())
    }

    /// Notes that the pages of `range` became writable.
    fn open(&mut self, range: &std::ops::Range<usize>) {
        let page = page_size();
        for index in range.start / page..=(range.end - 1) / page {
            let newest = self.live.iter().map(|frozen| frozen.number).max();
            self.copies += u64::from(newest.is_some_and(|newest| newest > self.opened[index]));
            self.opened[index] = self.taken;
            self.history[index].push(self.taken);
        }
    }

    fn pick(&self, which: usize) -> Option<&Frozen> {
        (!self.live.is_empty()).then(|| &self.live[which % self.live.len()])
    }

    /// `result` must be exact, or say that the store was used up where there is a limit.
    fn expect<T: PartialEq + std::fmt::Debug>(&self, result: Result<T, Error>, wanted: T) {
        match result {
            Ok(value) => assert_eq!(value, wanted),
            Err(Error::StoreExhausted { .. }) if self.limited => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write { at, len, value } => {
                let range = self.range(at, len);
                self.arena[range.clone()].fill(value);
                self.bytes[range.clone()].fill(value);
                self.open(&range);
            }
            Step::WriteGuarded { at, len, value } => {
                let range = self.range(at, len);
                let faults = self.arena.stats().faults;
                let mut part = self.arena.writable(range.clone()).unwrap();
                part.fill(value);
                drop(part);
                assert_eq!(self.arena.stats().faults, faults);
                self.bytes[range.clone()].fill(value);
                self.open(&range);
            }
            Step::Snapshot => {
                self.taken += 1;
                self.saved_before = self.arena.stats().pages_saved;
                self.live.push(Frozen {
                    snapshot: self.arena.snapshot().unwrap(),
                    bytes: self.bytes.clone(),
                    number: self.taken,
                });
            }
            Step::Drop { which } => {
                if !self.live.is_empty() {
                    self.live.swap_remove(which % self.live.len());
                }
            }
            Step::ReadAt { which, at, len } => {
                let range = self.range(at, len);
                let Some(frozen) = self.pick(which) else {
                    return;
                };
                let mut read = vec![0; range.len()];
                let result = frozen.snapshot.read_at(range.start, &mut read);
                self.expect(result.map(|()| read), frozen.bytes[range].to_vec());
            }
            Step::Stream { which, at } => {
                let start = self.range(at, 1).start;
                let Some(frozen) = self.pick(which) else {
                    return;
                };
                let mut reader = frozen.snapshot.reader();
                reader.seek(SeekFrom::Start(start as u64)).unwrap();
                let mut read = Vec::new();
                match reader.read_to_end(&mut read) {
                    Ok(_) => assert_eq!(read, frozen.bytes[start..]),
                    Err(_) => assert!(self.limited && !frozen.snapshot.is_exact()),
                }
            }
            Step::Page { which, index } => {
                let Some(frozen) = self.pick(which) else {
                    return;
                };
                let page = page_size();
                let result = frozen.snapshot.page(index);
                let wanted = frozen.bytes[index * page..][..page].to_vec();
                self.expect(result.map(|page| page.bytes().to_vec()), wanted);
            }
            Step::ChangedSince { which, older } => self.changed_since(which, older),
        }
    }

    fn changed_since(&self, which: usize, older: usize) {
        let (Some(newer), Some(older)) = (self.pick(which), self.pick(older)) else {
            return;
        };
        let result = newer.snapshot.changed_since(&older.snapshot);
        if older.number > newer.number {
            let result = result.unwrap_err();
            assert!(matches!(result, Error::NotOlder { .. }));
            return;
        }
        let between = older.number..newer.number;
        let wanted: Vec<usize> = (0..PAGES)
            .filter(|page| self.history[*page].iter().any(|at| between.contains(at)))
            .collect();
        let pages = result.map(|ranges| ranges.into_iter().flatten().collect::<Vec<usize>>());
        match pages {
            // Pages saved ahead are named as well.
            Ok(pages) if self.window != Window::Page => {
                assert!(
                    wanted.iter().all(|page| pages.contains(page)),
                    "{pages:?} lack some of {wanted:?}"
                );
            }
            pages => self.expect(pages, wanted),
        }
    }

    fn check(&self) {
        self.arena.check_invariants().unwrap();
        assert!(self.arena[..] == self.bytes[..], "live bytes differ");
        let stats = self.arena.stats();
        assert_eq!(stats.live_snapshots, self.live.len() as u64);
        assert_eq!(stats.snapshots, self.taken);
        // No page is saved twice between two snapshots.
        assert!(stats.pages_saved - self.saved_before <= PAGES as u64);
        let asked = stats.pages_saved - stats.pages_saved_ahead;
        assert!(asked <= self.copies, "{stats:?}");
        if !self.limited {
            assert!(stats.pages_saved >= self.copies, "{stats:?}");
        }
        if self.window == Window::Page {
            assert_eq!(stats.pages_saved_ahead, 0);
        }
    }

    /// All snapshots, read whole.
    fn check_snapshots(&self) {
        for frozen in &self.live {
            let mut read = vec![0; frozen.bytes.len()];
            let result = frozen.snapshot.read_at(0, &mut read);
            self.expect(result.map(|()| read), frozen.bytes.clone());
        }
    }
}

fn run(engine: Engine, window: Window, limit_pages: Option<usize>, steps: &[Step]) {
    let mut model = Model::new(on(engine), window, limit_pages);
    for step in steps {
        model.apply(step);
        model.check();
    }
    model.check_snapshots();
    // Snapshots outlive their arena.
    let Model { arena, live, .. } = model;
    drop(arena);
    for frozen in &live {
        let mut read = vec![0; frozen.bytes.len()];
        match frozen.snapshot.read_at(0, &mut read) {
            Ok(()) => assert!(read == frozen.bytes),
            Err(error) => assert!(limit_pages.is_some(), "{error}"),
        }
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 100 * engines().len() as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_snapshot_reads_what_was(
        engine in engine(),
        window in window(),
        steps in vec(step(), 1..120),
    ) {
        run(engine, window, None, &steps);
    }

    /// With a store of a few frames a read is exact or says that it cannot be.
    #[test]
    fn with_a_small_store_reads_are_exact_or_refused(
        engine in engine(),
        window in window(),
        limit in 0..2 * PAGES,
        steps in vec(step(), 1..120),
    ) {
        run(engine, window, Some(limit), &steps);
    }
}
