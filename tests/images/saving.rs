//! What a save tells, how it ends early, and what it leaves behind.

use std::cell::RefCell;
use std::os::unix::fs::symlink;

use pagecow::image::{self, Cancel, ErrorKind, Progress, Saver};
use pagecow::{Error, Snapshot};

use crate::common::{bytes_of, for_each_engine, on, page_size, patterned};
use crate::{Directory, expect_holds, image_of, refused};

const PAGES: usize = 500;

/// All that was told of a save.
fn told(snapshot: &Snapshot) -> (Vec<Progress>, u64) {
    let told = RefCell::new(Vec::new());
    let mut saver = Saver::new().progress(|progress| told.borrow_mut().push(progress));
    let info = saver.write_to(snapshot, std::io::sink()).unwrap();
    drop(saver);
    (told.into_inner(), info.bytes)
}

#[test]
fn progress_goes_up_to_the_end() {
    for_each_engine(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        let snapshot = arena.snapshot().unwrap();
        let (all, bytes) = told(&snapshot);
        let pages = PAGES as u64;
        // One for each 256 KiB, and the last.
        assert_eq!(all.len(), (PAGES * page_size()).div_ceil(256 << 10) + 1);
        assert!(all.iter().all(|one| one.pages_total == pages));
        let done = |one: &Progress| (one.pages_done, one.bytes_written);
        assert!(all.is_sorted_by_key(done));
        assert_eq!(done(all.last().unwrap()), (pages, bytes));
        assert!(all[0].pages_done > 0 && all[0].pages_done < pages);

        // Of a delta, the pages that changed are all.
        arena[page_size() * 7] ^= 1;
        arena[page_size() * 450] ^= 1;
        let newer = arena.snapshot().unwrap();
        let changed = newer.changed_since(&snapshot).unwrap();
        let changed: usize = changed.iter().map(ExactSizeIterator::len).sum();
        let mut last = None;
        let mut saver = Saver::new().progress(|progress| last = Some(progress));
        let mut delta = Vec::new();
        saver.write_delta_to(&newer, &snapshot, &mut delta).unwrap();
        drop(saver);
        let last = last.unwrap();
        assert_eq!(last.pages_total, changed as u64);
        assert_eq!(done(&last), (last.pages_total, delta.len() as u64));
    });
}

/// In whichever callback it is cancelled, the last included: the old file is there and no other.
#[test]
fn a_save_that_is_cancelled_leaves_the_old_file_and_no_other() {
    for_each_engine(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        let older = arena.snapshot().unwrap();
        let directory = Directory::new();
        let path = directory.path("image");
        image::save(&older, &path).unwrap();
        let old = std::fs::read(&path).unwrap();
        arena.fill(1);
        let newer = arena.snapshot().unwrap();
        let callbacks = told(&newer).0.len();
        assert!(callbacks > 2);
        // As many as are told, and one more: that save is not cancelled.
        for when in 0..=callbacks {
            for is_delta in [false, true] {
                let cancel = Cancel::new();
                let mut number = 0;
                let mut saver = Saver::new().cancel(&cancel).progress(|_| {
                    if number == when {
                        assert!(
                            directory.names().len() == 2,
                            "the new file is beside the old"
                        );
                        cancel.cancel();
                    }
                    number += 1;
                });
                let result = if is_delta {
                    saver.save_delta(&newer, &older, &path)
                } else {
                    saver.save(&newer, &path)
                };
                assert_eq!(directory.names(), ["image"]);
                if when == callbacks {
                    result.unwrap();
                    assert!(std::fs::read(&path).unwrap() != old);
                } else {
                    let error = refused(result);
                    assert!(matches!(error.kind(), ErrorKind::Cancelled), "{error}");
                    assert_eq!(error.path(), Some(path.as_path()));
                    assert!(std::fs::read(&path).unwrap() == old);
                }
            }
        }
    });
}

#[test]
fn a_callback_that_panics_leaves_the_old_file_and_no_other() {
    let (arena, _) = patterned(pagecow::Arena::builder(), 10);
    let snapshot = arena.snapshot().unwrap();
    let directory = Directory::new();
    let path = crate::file_of(&directory, "image", b"old");
    let save = std::panic::AssertUnwindSafe(|| {
        let mut saver = Saver::new().progress(|_| panic!("as it was told to"));
        let _ = saver.save(&snapshot, &path);
    });
    assert!(std::panic::catch_unwind(save).is_err());
    assert_eq!(directory.names(), ["image"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

/// The store is used up before the save has begun, or while it is under way.
#[test]
fn a_snapshot_that_has_failed_is_not_saved() {
    for_each_engine(|engine| {
        let (mut arena, frozen) = patterned(on(engine).store_limit(4 * page_size()), PAGES);
        let snapshot = arena.snapshot().unwrap();
        // With one more, the arena that remaps takes copies as well.
        let second = arena.snapshot().unwrap();
        let directory = Directory::new();
        let path = crate::file_of(&directory, "image", b"old");
        let mut written = false;
        let mut saver = Saver::new().progress(|_| {
            if !written {
                arena.fill(9);
                written = true;
            }
        });
        let result = saver.save(&snapshot, &path);
        drop(saver);
        if snapshot.is_exact() {
            // Frozen memory needs no store.
            result.unwrap();
            expect_holds(&image::load(&path).unwrap().0, &frozen);
        } else {
            let error = refused(result);
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Memory(Error::StoreExhausted { .. })
                ),
                "{error}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
        }
        assert_eq!(directory.names(), ["image"]);
        drop(second);
    });
}

#[test]
fn where_a_file_can_not_be() {
    let (arena, _) = patterned(pagecow::Arena::builder(), 10);
    let snapshot = arena.snapshot().unwrap();
    let directory = Directory::new();
    std::fs::create_dir(directory.path("directory")).unwrap();
    for path in [
        directory.path("directory"),
        directory.path("missing/image"),
        directory.path(".."),
        "".into(),
    ] {
        let error = refused(image::save(&snapshot, &path));
        assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
        assert_eq!(error.path(), Some(path.as_path()));
    }
    assert_eq!(directory.names(), ["directory"]);
    let error = refused(image::load(directory.path("missing")));
    assert!(
        matches!(error.kind(), ErrorKind::Io { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound),
        "{error}"
    );
}

/// A link is replaced, a leftover of a process that was killed does no harm.
#[test]
fn what_is_there_already() {
    let (arena, frozen) = patterned(pagecow::Arena::builder(), 10);
    let snapshot = arena.snapshot().unwrap();
    let directory = Directory::new();
    let other = crate::file_of(&directory, "other", b"kept");
    let path = directory.path("image");
    symlink(&other, &path).unwrap();
    let leftovers: Vec<_> = (0..300)
        .map(|number| format!(".pagecow-{}-{number}.tmp", std::process::id()))
        .collect();
    for name in &leftovers {
        crate::file_of(&directory, name, b"left");
    }
    image::save(&snapshot, &path).unwrap();
    expect_holds(&image::load(&path).unwrap().0, &frozen);
    assert!(!path.is_symlink());
    assert_eq!(std::fs::read(&other).unwrap(), b"kept");
    assert_eq!(directory.names().len(), 302);
    for name in &leftovers {
        assert_eq!(std::fs::read(directory.path(name)).unwrap(), b"left");
    }
}

/// What a writer refuses reaches the caller.
#[test]
fn a_writer_that_is_full() {
    let (arena, _) = patterned(pagecow::Arena::builder(), 100);
    let snapshot = arena.snapshot().unwrap();
    let image = image_of(&snapshot);
    for room in [0, 95, 96, 127, 128, 5000, image.len() - 1] {
        let mut room = vec![0; room];
        let error = refused(image::write_to(&snapshot, &mut room[..]));
        assert!(
            matches!(error.kind(), ErrorKind::Io { source, .. }
                if source.kind() == std::io::ErrorKind::WriteZero),
            "{error}"
        );
        // The beginning of an image.
        assert!(image.starts_with(&room));
    }
    let mut room = vec![0; image.len()];
    image::write_to(&snapshot, &mut room[..]).unwrap();
    assert!(bytes_of(&snapshot) == image::read_from(&room[..]).unwrap().0[..]);
}
