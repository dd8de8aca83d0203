//! Saving to a file by `copy_to`: the bytes, the place in the file, and other kinds of files.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use pagecow::{Error, Snapshot, Window};

use crate::common::{
    bytes_of, for_each_engine, on, page_size, patterned, snapshots_beside_writers,
};

const PAGES: usize = 1500;

fn contents(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Says where the bytes differ, without printing megabytes.
#[track_caller]
fn expect(bytes: &[u8], wanted: &[u8]) {
    let differs = bytes
        .iter()
        .zip(wanted)
        .position(|(one, other)| one != other);
    assert_eq!((bytes.len(), differs), (wanted.len(), None));
}

fn inner(error: &std::io::Error) -> &Error {
    error.get_ref().unwrap().downcast_ref().unwrap()
}

/// All pages are written while they leave; what left too late is written again.
#[test]
fn the_file_has_the_frozen_bytes_whatever_writers_do() {
    for_each_engine(|engine| {
        for window in [Window::Page, Window::default()] {
            let (mut arena, _) = patterned(on(engine).window(window), PAGES);
            snapshots_beside_writers(&mut arena, 8, |snapshot| {
                let file = tempfile::tempfile().unwrap();
                let len = snapshot.copy_to(&file).unwrap();
                assert_eq!(len, (PAGES * page_size()) as u64);
                expect(&contents(&file), &bytes_of(snapshot));
            });
        }
    });
}

/// A range goes where the file's position is, and changes nothing beside it.
#[test]
fn a_range_in_the_middle_of_a_file() {
    for_each_engine(|engine| {
        let (mut arena, frozen) = patterned(on(engine), PAGES);
        let snapshot = arena.snapshot().unwrap();
        // Every third page has a copy.
        for page in (0..PAGES).step_by(3) {
            arena[page * page_size()] ^= 0xff;
        }
        let before = vec![0xee; arena.len()];
        for range in [
            0..1,
            100..50_000,
            page_size()..2 * page_size(),
            7..arena.len() - 5,
            9..9,
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&before).unwrap();
            file.seek(SeekFrom::Start(10)).unwrap();
            let copied = snapshot.copy_range_to(range.clone(), &file).unwrap();
            assert_eq!(copied, range.len() as u64);
            assert_eq!(file.stream_position().unwrap(), 10 + copied);
            let mut wanted = before.clone();
            let end = 10 + range.len();
            wanted.resize(wanted.len().max(end), 0);
            wanted[10..end].copy_from_slice(&frozen[range]);
            expect(&contents(&file), &wanted);
        }
    });
}

/// As many bytes as were asked for, not whole pages.
#[test]
fn a_whole_snapshot_has_the_length_that_was_asked_for() {
    let mut arena = pagecow::Arena::new(10_000).unwrap();
    arena.fill(3);
    let snapshot = arena.snapshot().unwrap();
    let file = tempfile::tempfile().unwrap();
    assert_eq!(snapshot.copy_to(&file).unwrap(), 10_000);
    assert_eq!(snapshot.copy_to(&file).unwrap(), 10_000);
    expect(&contents(&file), &[3; 20_000]);
}

#[test]
fn what_was_never_touched_becomes_a_hole_or_zeros() {
    for_each_engine(|engine| {
        let mut arena = on(engine).build(64 << 20).unwrap();
        let (one, other) = (20 << 20, 40 << 20);
        arena[one] = 1;
        let snapshot = arena.snapshot().unwrap();
        arena[other] = 2;
        let mut wanted = vec![0; arena.len()];
        wanted[one] = 1;
        let file = tempfile::tempfile().unwrap();
        snapshot.copy_to(&file).unwrap();
        expect(&contents(&file), &wanted);
        assert!(file.metadata().unwrap().blocks() * 512 < 32 << 20);
        // The end of the arena was never touched, and is zeros all the same.
        let mut full = tempfile::tempfile().unwrap();
        full.write_all(&vec![7; wanted.len() + 10]).unwrap();
        full.rewind().unwrap();
        snapshot.copy_to(&full).unwrap();
        wanted.resize(wanted.len() + 10, 7);
        expect(&contents(&full), &wanted);
    });
}

/// They take each byte once, in order.
#[test]
fn files_opened_to_append_and_pipes() {
    let (mut arena, frozen) = patterned(pagecow::Arena::builder(), 50);
    let snapshot = arena.snapshot().unwrap();
    arena.fill(0);
    let named = tempfile::NamedTempFile::new().unwrap();
    let append = OpenOptions::new().append(true).open(named.path()).unwrap();
    for _ in 0..2 {
        snapshot.copy_to(&append).unwrap();
    }
    expect(&contents(named.as_file()), &[&frozen[..], &frozen].concat());

    let (mut reads, writes) = std::io::pipe().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reads.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let writes = File::from(std::os::fd::OwnedFd::from(writes));
    snapshot.copy_range_to(5.., &writes).unwrap();
    drop(writes);
    expect(&reader.join().unwrap(), &frozen[5..]);
}

#[test]
fn errors_say_what_is_wrong() {
    let (mut arena, frozen) = patterned(pagecow::Arena::builder().store_limit(page_size()), 50);
    let snapshot = arena.snapshot().unwrap();
    let refused = |snapshot: &Snapshot, file: &File| snapshot.copy_to(file).unwrap_err();

    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert_eq!(refused(&snapshot, &full).raw_os_error(), Some(libc::ENOSPC));
    let named = tempfile::NamedTempFile::new().unwrap();
    let read_only = File::open(named.path()).unwrap();
    assert_eq!(
        refused(&snapshot, &read_only).raw_os_error(),
        Some(libc::EBADF)
    );
    assert_eq!(read_only.metadata().unwrap().len(), 0);

    let mut file = tempfile::tempfile().unwrap();
    let beyond = snapshot.copy_range_to(1..=frozen.len(), &file).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::InvalidInput);
    assert_eq!(file.metadata().unwrap().len(), 0);

    arena.fill(0);
    let exhausted = refused(&snapshot, &file);
    assert!(matches!(inner(&exhausted), Error::StoreExhausted { .. }));
    assert_eq!(file.stream_position().unwrap(), 0);
}
