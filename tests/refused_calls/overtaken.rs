//! A writer overtakes `copy_to`: pages are stored to after `copy_to` has looked where they are, and
//! before the kernel has taken their bytes. So newer bytes go to the file, surely.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{FromRawFd, OwnedFd};

use pagecow::{Arena, Engine, Error, Snapshot};

use crate::calls::{before_writes, end_before_writes};
use crate::common::{
    FAULT, by_faults, in_child, in_child_on, on, page_by_page, page_size, patterned,
};

const PAGES: usize = 200;

/// Stores a byte at the start of each of these pages.
fn stores(arena: &Arena, pages: &'static [usize]) -> impl FnMut() + Send + use<> {
    let start = arena.as_mut_ptr() as usize;
    move || {
        for page in pages {
            let byte = (start + page * page_size()) as *mut u8;
            // SAFETY: in the arena, to which nobody else stores and nobody has a reference.
            unsafe { byte.write_volatile(0xee) };
        }
    }
}

/// Copies all, with `act` before the write of this number; returns the file, what the call said,
/// and how many writes there were.
fn copy(
    snapshot: &Snapshot,
    nth: usize,
    mut act: impl FnMut() + Send + 'static,
) -> (File, io::Result<u64>, usize) {
    let file = tempfile::tempfile().unwrap();
    before_writes(move |number| {
        if number == nth {
            act();
        }
    });
    let result = snapshot.copy_to(&file);
    (file, result, end_before_writes())
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

#[track_caller]
fn expect_contents(mut file: &File, wanted: &[u8]) {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let differs = bytes.iter().zip(wanted).position(|(a, b)| a != b);
    assert_eq!((bytes.len(), differs), (wanted.len(), None));
}

#[test]
fn what_left_too_late_is_written_again() {
    let ended = in_child(|engine| {
        for builder in [on(engine), page_by_page(engine)] {
            let (arena, bytes) = patterned(builder, PAGES);
            let snapshot = arena.snapshot().unwrap();
            let act = stores(&arena, &[0, 1, 2, 5]);
            let (file, result, writes) = copy(&snapshot, 1, act);
            assert_eq!(result.unwrap(), bytes.len() as u64);
            expect_contents(&file, &bytes);
            // What is frozen nobody overtakes.
            if by_faults(engine) {
                assert!(writes > 1);
                assert!(arena.stats().reader_retries >= 4);
            }
        }
    });
    ended.expect_finished();
}

/// Exactly the pages that were opened are written again, those side by side by one call.
#[test]
fn nothing_else_is_written_again() {
    let ended = in_child_on(FAULT, |engine| {
        let (arena, bytes) = patterned(page_by_page(engine), PAGES);
        let snapshot = arena.snapshot().unwrap();
        let (_, result, undisturbed) = copy(&snapshot, 1, || {});
        result.unwrap();
        assert_eq!(arena.stats().reader_retries, 0);
        let act = stores(&arena, &[0, 1, 2, 5]);
        let (file, result, writes) = copy(&snapshot, 1, act);
        result.unwrap();
        expect_contents(&file, &bytes);
        assert_eq!(writes, undisturbed + 2);
        assert_eq!(arena.stats().reader_retries, 4);
        // All of these pages have copies by now.
        let act = stores(&arena, &[0, 1, 2, 5]);
        let (_, result, writes) = copy(&snapshot, 1, act);
        result.unwrap();
        assert_eq!(writes, undisturbed);
    });
    ended.expect_finished();
}

#[test]
fn no_copy_can_be_made() {
    let ended = in_child_on(FAULT, |engine| {
        let (arena, _) = patterned(page_by_page(engine).store_limit(page_size()), PAGES);
        let snapshot = arena.snapshot().unwrap();
        let (mut file, result, _) = copy(&snapshot, 1, stores(&arena, &[0, 1]));
        let error = result.unwrap_err();
        assert!(matches!(inner(&error), Some(Error::StoreExhausted { .. })));
        assert_eq!(file.stream_position().unwrap(), 0);
    });
    ended.expect_finished();
}

/// Somebody closes the engine's descriptor, so nothing refuses the stores that follow.
#[test]
fn nothing_is_protected_any_more() {
    let ended = in_child_on(&[Engine::Userfaultfd], |engine| {
        let (arena, _) = patterned(on(engine), PAGES);
        let snapshot = arena.snapshot().unwrap();
        let mut stores = stores(&arena, &[0, 1]);
        let (mut file, result, _) = copy(&snapshot, 1, move || {
            close_descriptors();
            stores();
        });
        let error = result.unwrap_err();
        assert!(matches!(inner(&error), Some(Error::Engine { .. })));
        assert_eq!(file.stream_position().unwrap(), 0);
    });
    ended.expect_finished();
}

fn close_descriptors() {
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let target = std::fs::read_link(&path).unwrap_or_default();
        if target.to_string_lossy().contains("userfaultfd") {
            let number = path.file_name().unwrap().to_string_lossy().parse().unwrap();
            // SAFETY: a program that closes all descriptors that it does not know does the same.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}
