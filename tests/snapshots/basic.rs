//! Arena and snapshot, one thread.

use std::io::{BufRead, Read, Seek, SeekFrom};

use crate::common::{
    by_faults, engines, for_each_engine, for_each_fault_engine, merge, on, page_by_page, page_size,
};
use pagecow::{Arena, ArenaBuilder, Engine, Error, Snapshot};

fn frozen(snapshot: &Snapshot, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    snapshot.read_at(offset, &mut bytes).unwrap();
    bytes
}

/// An arena whose bytes all tell where they are.
fn numbered(builder: ArenaBuilder, pages: usize) -> (Arena, Vec<u8>) {
    let bytes: Vec<u8> = (0..pages * page_size())
        .map(|at| (at / 7 + at / page_size()) as u8)
        .collect();
    let mut arena = builder.build(bytes.len()).unwrap();
    arena.copy_from_slice(&bytes);
    (arena, bytes)
}

#[test]
fn a_snapshot_keeps_what_was_and_the_arena_what_is() {
    for_each_engine(|engine| {
        let mut arena = page_by_page(engine).build(10 * page_size()).unwrap();
        arena[..5].copy_from_slice(b"hello");
        let before = arena.snapshot().unwrap();
        arena[..5].copy_from_slice(b"HELLO");
        assert_eq!(frozen(&before, 0, 5), b"hello");
        assert_eq!(&arena[..5], b"HELLO");
        let stats = arena.stats();
        let faults = u64::from(by_faults(engine));
        assert_eq!((stats.faults, stats.pages_saved), (faults, 1));
        assert_eq!(stats.save_latency.count(), faults);
        arena.check_invariants().unwrap();
        drop(before);
        merge(&arena);
        arena.check_invariants().unwrap();
        assert_eq!(arena.stats().store_bytes, 0);
    });
}

#[test]
fn lengths_round_up_and_absurd_ones_are_refused() {
    for_each_engine(|engine| {
        let arena = on(engine).build(1).unwrap();
        assert_eq!((arena.len(), arena.page_count()), (page_size(), 1));
        assert_eq!(
            (
                arena.requested_len(),
                arena.snapshot().unwrap().requested_len()
            ),
            (1, 1)
        );
        assert_eq!(arena.page_size(), page_size());
        for bytes in [0, usize::MAX, usize::MAX / 2 + 1] {
            let error = on(engine).build(bytes).unwrap_err();
            assert!(error.to_string().contains(&bytes.to_string()), "{error}");
            assert!(matches!(error, Error::Size { .. } | Error::Reserve { .. }));
        }
    });
}

#[test]
fn one_copy_serves_all_snapshots_that_need_it() {
    for_each_engine(|engine| {
        let mut arena = page_by_page(engine).build(4 * page_size()).unwrap();
        let snapshots: Vec<Snapshot> = (0..3).map(|_| arena.snapshot().unwrap()).collect();
        arena[0] = 1;
        assert_eq!(arena.stats().pages_saved, 1);
        let fourth = arena.snapshot().unwrap();
        arena[0] = 2;
        assert_eq!(arena.stats().pages_saved, 2);
        assert!(
            snapshots
                .iter()
                .all(|snapshot| frozen(snapshot, 0, 1) == [0])
        );
        assert_eq!(frozen(&fourth, 0, 1), [1]);
        // The newest of the three goes first: its copy is the others' too.
        for snapshot in snapshots.into_iter().rev() {
            assert_eq!(frozen(&snapshot, 0, 1), [0]);
            drop(snapshot);
            arena.check_invariants().unwrap();
        }
        // The copy that the kernel made is kept until no snapshot needs the memory armed.
        let copies = if by_faults(engine) { 1 } else { 2 };
        assert_eq!(arena.stats().store_bytes, (copies * page_size()) as u64);
        drop(fourth);
        merge(&arena);
        assert_eq!(arena.stats().store_bytes, 0);
    });
}

/// One instruction, two faults.
#[test]
fn a_store_across_two_pages() {
    for_each_engine(|engine| {
        let (mut arena, bytes) = numbered(page_by_page(engine), 3);
        let snapshot = arena.snapshot().unwrap();
        let border = 2 * page_size();
        arena[border - 3..border + 5].copy_from_slice(b"straddle");
        let stats = arena.stats();
        let faults = if by_faults(engine) { 2 } else { 0 };
        assert_eq!((stats.faults, stats.pages_saved), (faults, 2));
        assert_eq!(frozen(&snapshot, 0, bytes.len()), bytes);
        assert_eq!(&arena[border - 3..border + 5], b"straddle");
        arena.check_invariants().unwrap();
    });
}

#[test]
fn arenas_of_different_engines_live_side_by_side() {
    let mut arenas: Vec<_> = engines()
        .iter()
        .chain(engines())
        .map(|engine| numbered(page_by_page(*engine), 4))
        .collect();
    let snapshots: Vec<_> = arenas
        .iter()
        .map(|(arena, _)| arena.snapshot().unwrap())
        .collect();
    for page in 0..4 {
        for (arena, _) in &mut arenas {
            arena[page * page_size()] ^= 0xff;
        }
    }
    for ((arena, bytes), snapshot) in arenas.iter().zip(&snapshots) {
        assert_eq!(frozen(snapshot, 0, bytes.len()), *bytes);
        assert_eq!(arena.stats().pages_saved, 4);
        arena.check_invariants().unwrap();
    }
}

#[test]
fn the_best_engine_is_one_that_is_there() {
    // The one that remaps has other limits, and is there for those who ask for it.
    let best = engines().iter().rfind(|engine| by_faults(**engine));
    assert_eq!(best, Some(&Engine::best()));
    assert!(Engine::Mprotect.check().is_ok());
}

#[test]
fn clones_are_one_snapshot() {
    for_each_engine(|engine| {
        let mut arena = page_by_page(engine).build(page_size()).unwrap();
        let snapshot = arena.snapshot().unwrap();
        let clone = snapshot.clone();
        assert_eq!(arena.stats().live_snapshots, 1);
        drop(snapshot);
        arena[0] = 1;
        assert_eq!(frozen(&clone, 0, 1), [0]);
        drop(clone);
        assert_eq!(arena.stats().live_snapshots, 0);
    });
}

#[test]
fn after_the_last_drop_nothing_is_copied_and_faults_soon_end() {
    for_each_fault_engine(|engine| {
        let (mut arena, _) = numbered(page_by_page(engine), 1024);
        let page = page_size();
        drop(arena.snapshot().unwrap());
        for index in 0..1024 {
            arena[index * page] = 1;
        }
        let stats = arena.stats();
        assert_eq!(stats.pages_saved, 0);
        assert_eq!(stats.faults, stats.soft_faults);
        assert!(stats.faults < 60, "{} faults", stats.faults);
        arena.check_invariants().unwrap();
        arena.fill(2);
        assert_eq!(arena.stats().faults, stats.faults);
    });
}

#[test]
fn a_snapshot_outlives_its_arena_and_a_page_its_snapshot() {
    for_each_engine(|engine| {
        let (mut arena, bytes) = numbered(page_by_page(engine), 3);
        let snapshotter = arena.snapshotter();
        let snapshot = arena.snapshot().unwrap();
        arena[page_size()] ^= 0xff;
        drop(arena);
        assert!(matches!(snapshotter.snapshot(), Err(Error::ArenaDropped)));
        assert_eq!(frozen(&snapshot, 0, bytes.len()), bytes);
        let pages: Vec<_> = snapshot.pages().map(|page| page.unwrap()).collect();
        drop(snapshot);
        let saved: Vec<bool> = pages.iter().map(|page| page.is_saved()).collect();
        // A frozen page has no copy: it is the arena that got one.
        assert_eq!(saved, [false, by_faults(engine), false]);
        for (index, page) in pages.iter().enumerate() {
            assert_eq!(page.index(), index);
            assert_eq!(page.bytes(), &bytes[index * page_size()..][..page_size()]);
        }
    });
}

#[test]
fn reads_outside_are_refused_with_the_numbers() {
    for_each_engine(|engine| {
        let arena = on(engine).build(2 * page_size()).unwrap();
        let snapshot = arena.snapshot().unwrap();
        let len = snapshot.len();
        for (offset, count) in [(len, 1), (len - 1, 2), (usize::MAX, 1), (0, len + 1)] {
            let error = snapshot.read_at(offset, &mut vec![0; count]).unwrap_err();
            assert!(matches!(error, Error::OutOfBounds { start, .. } if start == offset));
        }
        snapshot.read_at(len, &mut []).unwrap();
        let error = snapshot.page(2).unwrap_err();
        assert!(matches!(error, Error::NoSuchPage { index: 2, count: 2 }));
        assert!(snapshot.page(usize::MAX).is_err());
    });
}

#[test]
fn guards_take_any_range_inside_and_no_other() {
    for_each_engine(|engine| {
        let mut arena = on(engine).build(2 * page_size()).unwrap();
        let len = arena.len();
        assert_eq!(arena.writable(..).unwrap().len(), len);
        assert_eq!(arena.writable(5..=6).unwrap().len(), 2);
        assert!(arena.writable(len..).unwrap().is_empty());
        assert!(matches!(
            arena.writable(..=len),
            Err(Error::OutOfBounds { .. })
        ));
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        let reversed = arena.writable(6..5).err();
        assert!(matches!(reversed, Some(Error::OutOfBounds { .. })));
        // None of these keeps snapshots away.
        arena.snapshot().unwrap();
    });
}

#[test]
fn the_reader_is_a_file_of_frozen_bytes() {
    for_each_engine(|engine| {
        let (mut arena, bytes) = numbered(on(engine), 40);
        let snapshot = arena.snapshot().unwrap();
        arena.fill(0xee);
        let mut reader = snapshot.reader();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, bytes);
        assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);

        for (target, at) in [
            (SeekFrom::Start(4095), 4095),
            (SeekFrom::Current(3), 4098),
            (SeekFrom::End(-10), bytes.len() - 10),
        ] {
            assert_eq!(reader.seek(target).unwrap(), at as u64);
        }
        let mut tail = Vec::new();
        reader.read_to_end(&mut tail).unwrap();
        assert_eq!(tail, bytes[bytes.len() - 10..]);

        reader.seek(SeekFrom::Start(100)).unwrap();
        let ahead = reader.fill_buf().unwrap();
        assert!(!ahead.is_empty());
        assert_eq!(ahead, &bytes[100..100 + ahead.len()]);
        reader.consume(1);
        let mut byte = [0; 1];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], bytes[101]);
        assert_eq!(reader.stream_position().unwrap(), 102);

        assert!(reader.seek(SeekFrom::Current(-200)).is_err());
        assert_eq!(reader.stream_position().unwrap(), 102);
        reader.seek(SeekFrom::Start(u64::MAX)).unwrap();
        assert_eq!(reader.read(&mut [0; 8192]).unwrap(), 0);
        assert!(reader.fill_buf().unwrap().is_empty());
    });
}

/// Where it overwrites the bytes that it is made of, page by page or some way off.
#[test]
fn a_snapshot_is_read_into_its_own_arena() {
    for_each_engine(|engine| {
        let page = page_size();
        let ways = [
            (0, 0),
            (0, 5),
            (5, 0),
            (page + 9, 9),
            (9, page + 9),
            (0, 3 * page),
            (3 * page + 1, 0),
        ];
        for (builder, (from, to), all_armed) in [page_by_page(engine), on(engine)]
            .into_iter()
            .flat_map(|builder| ways.map(|way| (builder.clone(), way)))
            .flat_map(|(builder, way)| [true, false].map(|armed| (builder.clone(), way, armed)))
        {
            let (mut arena, bytes) = numbered(builder, 70);
            let snapshot = arena.snapshot().unwrap();
            // Not the first page: read five bytes up, it is overwritten while it is read.
            for index in [1, 2, 30, 64] {
                arena[index * page + 3] ^= 0xff;
            }
            let before = arena.to_vec();
            let newer = all_armed.then(|| arena.snapshot().unwrap());
            let len = arena.len() - from.max(to);
            let mut wanted = before.clone();
            wanted[to..to + len].copy_from_slice(&bytes[from..from + len]);

            snapshot.read_at(from, &mut arena[to..to + len]).unwrap();
            assert!(arena[..] == wanted, "{from} to {to}");
            assert!(frozen(&snapshot, 0, bytes.len()) == bytes);
            if let Some(newer) = newer {
                assert!(frozen(&newer, 0, bytes.len()) == before);
            }
            arena.check_invariants().unwrap();

            // The way through a buffer.
            let reader = snapshot.reader();
            assert_eq!(arena.read_from(.., reader).unwrap(), bytes.len());
            assert!(arena[..] == bytes);
            assert!(frozen(&snapshot, 0, bytes.len()) == bytes);
            arena.check_invariants().unwrap();
        }
    });
}

#[test]
fn changes_are_between_snapshots_of_one_arena_oldest_first() {
    for_each_engine(|engine| {
        let mut arena = page_by_page(engine).build(8 * page_size()).unwrap();
        let other = page_by_page(engine)
            .build(page_size())
            .unwrap()
            .snapshot()
            .unwrap();
        let first = arena.snapshot().unwrap();
        for page in [0, 1, 5] {
            arena[page * page_size()] = 1;
        }
        let second = arena.snapshot().unwrap();
        arena[7 * page_size()] = 1;
        assert_eq!(second.changed_since(&first).unwrap(), [0..2, 5..6]);
        assert_eq!(second.changed_since(&second).unwrap(), []);
        let error = first.changed_since(&second).unwrap_err();
        assert!(matches!(
            error,
            Error::NotOlder {
                snapshot: 1,
                other: Some(2)
            }
        ));
        let error = first.changed_since(&other).unwrap_err();
        assert!(matches!(
            error,
            Error::NotOlder {
                snapshot: 1,
                other: None
            }
        ));
    });
}

#[test]
fn handles_go_where_they_have_to() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<Arena>();
    anywhere::<Snapshot>();
    anywhere::<pagecow::Snapshotter>();
    anywhere::<pagecow::Page>();
    anywhere::<pagecow::SnapshotReader>();
    anywhere::<Error>();
}
