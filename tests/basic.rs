//! Arena and snapshot, one thread.

use std::io::{BufRead, Read, Seek, SeekFrom};

use pagecow::{Arena, Error, Snapshot};

fn page_size() -> usize {
    region::page::size()
}

fn frozen(snapshot: &Snapshot, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    snapshot.read_at(offset, &mut bytes).unwrap();
    bytes
}

/// An arena whose bytes all tell where they are.
fn numbered(pages: usize) -> (Arena, Vec<u8>) {
    let bytes: Vec<u8> = (0..pages * page_size())
        .map(|at| (at / 7 + at / page_size()) as u8)
        .collect();
    let mut arena = Arena::new(bytes.len()).unwrap();
    arena.copy_from_slice(&bytes);
    (arena, bytes)
}

#[test]
fn a_snapshot_keeps_what_was_and_the_arena_what_is() {
    let mut arena = Arena::new(10 * page_size()).unwrap();
    arena[..5].copy_from_slice(b"hello");
    let before = arena.snapshot().unwrap();
    arena[..5].copy_from_slice(b"HELLO");
    assert_eq!(frozen(&before, 0, 5), b"hello");
    assert_eq!(&arena[..5], b"HELLO");
    let stats = arena.stats();
    assert_eq!((stats.faults, stats.pages_saved), (1, 1));
    assert_eq!(stats.save_latency.count(), 1);
    arena.check_invariants().unwrap();
    drop(before);
    arena.check_invariants().unwrap();
    assert_eq!(arena.stats().store_bytes, 0);
}

#[test]
fn lengths_round_up_and_absurd_ones_are_refused() {
    let arena = Arena::new(1).unwrap();
    assert_eq!((arena.len(), arena.page_count()), (page_size(), 1));
    assert_eq!(arena.page_size(), page_size());
    for bytes in [0, usize::MAX, usize::MAX / 2 + 1] {
        let error = Arena::new(bytes).unwrap_err();
        assert!(error.to_string().contains(&bytes.to_string()), "{error}");
        assert!(matches!(error, Error::Size { .. } | Error::Reserve { .. }));
    }
}

#[test]
fn one_copy_serves_all_snapshots_that_need_it() {
    let mut arena = Arena::new(4 * page_size()).unwrap();
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
    assert_eq!(arena.stats().store_bytes, page_size() as u64);
    drop(fourth);
    assert_eq!(arena.stats().store_bytes, 0);
}

#[test]
fn clones_are_one_snapshot() {
    let mut arena = Arena::new(page_size()).unwrap();
    let snapshot = arena.snapshot().unwrap();
    let clone = snapshot.clone();
    assert_eq!(arena.stats().live_snapshots, 1);
    drop(snapshot);
    arena[0] = 1;
    assert_eq!(frozen(&clone, 0, 1), [0]);
    drop(clone);
    assert_eq!(arena.stats().live_snapshots, 0);
}

#[test]
fn after_the_last_drop_nothing_is_copied_and_faults_soon_end() {
    let (mut arena, _) = numbered(1024);
    let page = page_size();
    drop(arena.snapshot().unwrap());
    for index in 0..1024 {
        arena[index * page] = 1;
    }
    let stats = arena.stats();
    assert_eq!(stats.pages_saved, 0);
    assert_eq!(stats.faults, stats.soft_faults);
    assert!(stats.faults < 20, "{} faults", stats.faults);
    arena.check_invariants().unwrap();
    arena.fill(2);
    assert_eq!(arena.stats().faults, stats.faults);
}

#[test]
fn a_snapshot_outlives_its_arena_and_a_page_its_snapshot() {
    let (mut arena, bytes) = numbered(3);
    let snapshotter = arena.snapshotter();
    let snapshot = arena.snapshot().unwrap();
    arena[page_size()] ^= 0xff;
    drop(arena);
    assert!(matches!(snapshotter.snapshot(), Err(Error::ArenaDropped)));
    assert_eq!(frozen(&snapshot, 0, bytes.len()), bytes);
    let pages: Vec<_> = snapshot.pages().map(|page| page.unwrap()).collect();
    drop(snapshot);
    let saved: Vec<bool> = pages.iter().map(|page| page.is_saved()).collect();
    assert_eq!(saved, [false, true, false]);
    for (index, page) in pages.iter().enumerate() {
        assert_eq!(page.index(), index);
        assert_eq!(page.bytes(), &bytes[index * page_size()..][..page_size()]);
    }
}

#[test]
fn reads_outside_are_refused_with_the_numbers() {
    let arena = Arena::new(2 * page_size()).unwrap();
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
}

#[test]
fn guards_take_any_range_inside_and_no_other() {
    let mut arena = Arena::new(2 * page_size()).unwrap();
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
}

#[test]
fn the_reader_is_a_file_of_frozen_bytes() {
    let (mut arena, bytes) = numbered(40);
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
}

#[test]
fn changes_are_between_snapshots_of_one_arena_oldest_first() {
    let mut arena = Arena::new(8 * page_size()).unwrap();
    let other = Arena::new(page_size()).unwrap().snapshot().unwrap();
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
