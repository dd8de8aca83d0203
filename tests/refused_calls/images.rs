//! Saving and loading images while each call that they make is refused once, the first of its kind,
//! the second, and so on: at the path there is the old image or the new one, whole, and no other
//! file; nothing is loaded in part.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use libc::{EDQUOT, EINTR, EIO, EMFILE, ENOENT, ENOMEM, ENOSPC, EPERM};
use pagecow::image::{self, ErrorKind, Id};
use pagecow::{Arena, Engine, Snapshot};

use crate::calls::Refusal::{self, AtOnce, HalfWay};
use crate::calls::{Call, called, has_refused, refuse, watch};
use crate::common::{bytes_of, in_child_on, on, page_size};

/// More than is written or read at a time.
const PAGES: usize = 200;

struct Files {
    directory: tempfile::TempDir,
    full: PathBuf,
    delta: PathBuf,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [full, delta] = ["full", "delta"].map(|name| directory.path().join(name));
        Self {
            directory,
            full,
            delta,
        }
    }

    #[track_caller]
    fn expect_no_other(&self) {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["delta", "full"]);
    }
}

/// An arena with two snapshots, between which pages were written.
fn arena_and_snapshots(engine: Engine) -> (Arena, Snapshot, Snapshot) {
    let mut arena = on(engine).build(PAGES * page_size()).unwrap();
    arena.fill(1);
    let older = arena.snapshot().unwrap();
    for page in (0..PAGES).step_by(3) {
        arena[page * page_size()] = 2;
    }
    let newer = arena.snapshot().unwrap();
    (arena, older, newer)
}

/// Acts again and again, while this call is refused the first time, the second, and so on, until it
/// is made no more; then looks what came of it. Returns how often it was made.
fn refuse_each<R>(
    call: Call,
    refusal: Refusal,
    mut act: impl FnMut() -> R,
    mut look: impl FnMut(R),
) -> usize {
    for nth in 1.. {
        refuse(call, called(call) + nth, refusal);
        let result = watch(&mut act);
        let was_refused = has_refused();
        refuse(call, 0, refusal);
        if !was_refused {
            return nth - 1;
        }
        look(result);
    }
    unreachable!("a call that is made for ever")
}

/// Whether the call is made again by itself.
fn is_no_failure(refusal: Refusal) -> bool {
    matches!(refusal, HalfWay(_) | AtOnce(EINTR))
}

#[track_caller]
fn expect_image_of(path: &Path, snapshot: &Snapshot) {
    let (arena, info) = image::load(path).unwrap();
    assert_eq!(info.id, Id::of(snapshot).unwrap());
    assert!(*arena == *bytes_of(snapshot));
}

#[test]
fn saving() {
    let ended = in_child_on(Engine::ALL, |engine| {
        let (_arena, older, newer) = arena_and_snapshots(engine);
        let files = Files::new();
        let refusals = [
            (
                Call::Writev,
                &[AtOnce(ENOSPC), AtOnce(EIO), AtOnce(EINTR), HalfWay(0)][..],
            ),
            (Call::Fsync, &[AtOnce(EIO), AtOnce(EDQUOT), AtOnce(EINTR)]),
            (Call::Rename, &[AtOnce(EPERM), AtOnce(ENOSPC)]),
            (Call::Open, &[AtOnce(EMFILE), AtOnce(ENOSPC), AtOnce(EINTR)]),
        ];
        for (call, refusals) in refusals {
            for &refusal in refusals {
                let case = format!("{call:?}, {refusal:?}");
                image::save(&older, &files.full).unwrap();
                image::save_delta(&older, &older, &files.delta).unwrap();
                let times = refuse_each(
                    call,
                    refusal,
                    || image::save(&newer, &files.full),
                    |saved| {
                        files.expect_no_other();
                        // Of the directory, after the new file has taken its place: documented.
                        let is_new = match &saved {
                            Ok(_) => true,
                            Err(_) => {
                                call == Call::Fsync
                                    && image::info(&files.full).unwrap().id.snapshot == newer.id()
                            }
                        };
                        expect_image_of(&files.full, if is_new { &newer } else { &older });
                        if let Err(error) = saved {
                            // The page map may be opened, too, and nobody needs that.
                            assert!(!is_no_failure(refusal), "{case}: {error}");
                            assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
                            assert!(error.to_string().contains("full"), "{error}");
                        } else {
                            let is_needed = call != Call::Open;
                            assert!(!is_needed || is_no_failure(refusal), "{case}: no error");
                        }
                        image::save(&older, &files.full).unwrap();
                    },
                );
                assert!(times >= if call == Call::Fsync { 2 } else { 1 }, "{case}");

                let times = refuse_each(
                    call,
                    refusal,
                    || image::save_delta(&newer, &older, &files.delta),
                    |saved| {
                        files.expect_no_other();
                        let info = image::verify(&files.delta).unwrap();
                        assert_eq!(info.parent, Some(Id::of(&older).unwrap()));
                        let is_new = info.id == Id::of(&newer).unwrap();
                        match saved {
                            Ok(_) => assert!(is_new, "{case}"),
                            Err(error) => {
                                assert!(!is_new || call == Call::Fsync, "{case}: {error}");
                                assert!(!is_no_failure(refusal), "{case}: {error}");
                            }
                        }
                        image::save_delta(&older, &older, &files.delta).unwrap();
                    },
                );
                assert!(times > 0, "{case}");
            }
        }
    });
    ended.expect_finished();
}

#[test]
fn loading() {
    let ended = in_child_on(Engine::ALL, |engine| {
        let (arena, older, newer) = arena_and_snapshots(engine);
        let arena = RefCell::new(arena);
        let files = Files::new();
        image::save(&older, &files.full).unwrap();
        image::save_delta(&newer, &older, &files.delta).unwrap();
        let (before, after) = (bytes_of(&older), bytes_of(&newer));
        let refusals = [
            (Call::Read, &[AtOnce(EIO), AtOnce(EINTR), HalfWay(0)][..]),
            (Call::Pread, &[AtOnce(EIO), AtOnce(EINTR), HalfWay(0)]),
            (Call::Open, &[AtOnce(ENOENT), AtOnce(EMFILE), AtOnce(EINTR)]),
            (Call::Fstat, &[AtOnce(EIO)]),
            (Call::Mmap, &[AtOnce(ENOMEM)]),
        ];
        let loader = || image::Loader::new().arena(on(engine));
        for (call, refusals) in refusals {
            for &refusal in refusals {
                let case = format!("{call:?}, {refusal:?}");
                let times = refuse_each(
                    call,
                    refusal,
                    || loader().load_chain([&files.full, &files.delta]),
                    |loaded| match loaded {
                        Ok((loaded, _)) => assert!(*loaded == *after, "{case}"),
                        Err(error) => assert!(!is_no_failure(refusal), "{case}: {error}"),
                    },
                );
                assert!(times > 0, "{case}");
                // All of a delta is there before a byte of it is applied.
                let base = Id::of(&older).unwrap();
                arena.borrow_mut().restore(&older).unwrap();
                refuse_each(
                    call,
                    refusal,
                    || {
                        let file = std::fs::File::open(&files.delta)?;
                        Ok(image::apply(&mut arena.borrow_mut(), base, file))
                    },
                    |applied: std::io::Result<_>| {
                        let Ok(applied) = applied else { return };
                        let wanted = if applied.is_ok() { &after } else { &before };
                        assert!(**arena.borrow() == **wanted, "{case}");
                        arena.borrow_mut().restore(&older).unwrap();
                    },
                );
            }
        }
    });
    ended.expect_finished();
}

/// An arena's images have an id that is drawn when the first is saved.
#[test]
fn random_bits() {
    let ended = in_child_on(&[Engine::Mprotect], |engine| {
        for refusal in [AtOnce(EPERM), AtOnce(EINTR)] {
            let (_arena, older, _newer) = arena_and_snapshots(engine);
            refuse(Call::Getrandom, called(Call::Getrandom) + 1, refusal);
            let mut bytes = Vec::new();
            let written = watch(|| image::write_to(&older, &mut bytes));
            assert!(has_refused());
            match refusal {
                AtOnce(EINTR) => drop(written.unwrap()),
                _ => {
                    let error = written.unwrap_err();
                    assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
                    assert_eq!(bytes, []);
                }
            }
            image::write_to(&older, &mut bytes).unwrap();
        }
    });
    ended.expect_finished();
}
