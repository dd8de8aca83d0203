//! Saves that do not come to their end: the process is killed, the system takes no more bytes, or
//! the file system is full.
//! At the path there is the old image or the new one, whole.

#![allow(unsafe_code, reason = "fork, kill and limits")]

use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pagecow::image::{self, ErrorKind};
use pagecow::{Arena, Snapshot};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{
    Forked, bytes_of, end_of_fork, end_of_forked, fork, in_child, on, page_size, patterned,
};
use crate::{Directory, expect_holds, refused};

const PAGES: usize = 300;
const KILLS: usize = 200;
/// The exit code of a process that may not mount anything.
const NOT_ALLOWED: i32 = 44;

/// Kills a child that saves in a loop, at some moment.
fn kill_while(save: impl Fn(), rng: &mut StdRng) {
    let child = match fork() {
        Forked::Child => end_of_fork(|| {
            loop {
                save();
            }
        }),
        Forked::Parent(child) => child,
    };
    thread::sleep(Duration::from_micros(rng.random_range(0..4000)));
    let mut status = 0;
    // SAFETY: our own child.
    let killed = unsafe { libc::kill(child, libc::SIGKILL) };
    // SAFETY: as above.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((killed, ended), (0, child));
    assert!(libc::WIFSIGNALED(status), "the child ended by itself");
}

/// Temporary files may stay, under the documented name; nothing else does. Removes them.
fn clear(directory: &Directory, expected: &[&str]) {
    for name in directory.names() {
        if name.starts_with(".pagecow-") && name.ends_with(".tmp") {
            std::fs::remove_file(directory.path(&name)).unwrap();
        } else {
            assert!(expected.contains(&&*name), "{name}");
        }
    }
}

/// The whole image of one of the two; which it was.
fn expect_one_of(path: &Path, snapshots: [&Snapshot; 2]) -> usize {
    let (arena, info) = image::load(path).unwrap();
    let which = snapshots
        .iter()
        .position(|snapshot| snapshot.id() == info.id.snapshot)
        .unwrap();
    expect_holds(&arena, &bytes_of(snapshots[which]));
    which
}

#[test]
fn by_sigkill_at_any_moment() {
    in_child(|engine| {
        let directory = Directory::new();
        let [full, delta] = ["full", "delta"].map(|name| directory.path(name));
        let (mut arena, _) = patterned(on(engine), PAGES);
        let older = arena.snapshot().unwrap();
        for page in (0..PAGES).step_by(2) {
            arena[page * page_size()] ^= 0xff;
        }
        let newer = arena.snapshot().unwrap();
        image::save(&older, &full).unwrap();
        image::save_delta(&newer, &older, &delta).unwrap();
        let mut rng = StdRng::seed_from_u64(12);
        let mut found = [0; 2];
        for number in 0..KILLS {
            if number % 2 == 0 {
                let save = || {
                    image::save(&newer, &full).unwrap();
                    image::save(&older, &full).unwrap();
                };
                kill_while(save, &mut rng);
                found[expect_one_of(&full, [&older, &newer])] += 1;
            } else {
                let save = || {
                    image::save_delta(&newer, &older, &delta).unwrap();
                    image::save_delta(&older, &older, &delta).unwrap();
                };
                kill_while(save, &mut rng);
                let info = image::verify(&delta).unwrap();
                assert!([older.id(), newer.id()].contains(&info.id.snapshot));
                assert_eq!(info.parent.unwrap().snapshot, older.id());
            }
            clear(&directory, &["full", "delta"]);
        }
        println!(
            "the older one {} times, the newer one {}",
            found[0], found[1]
        );
    })
    .expect_finished();
}

/// No file may be longer than this any more.
fn limit_files_to(bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a valid limit.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    assert_eq!(set, 0);
}

/// The system takes the first bytes of a file and then no more, wherever that is.
#[test]
fn by_a_system_that_takes_no_more_bytes() {
    in_child(|engine| {
        // The error is to be returned, not to end the process.
        // SAFETY: sets what a signal does that nobody else uses here.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let directory = Directory::new();
        let [full, delta] = ["full", "delta"].map(|name| directory.path(name));
        let (mut arena, _) = patterned(on(engine), PAGES);
        let older = arena.snapshot().unwrap();
        arena[..100 * page_size()].fill(9);
        let newer = arena.snapshot().unwrap();
        image::save(&older, &full).unwrap();
        image::save_delta(&older, &older, &delta).unwrap();
        let whole = image::save(&newer, directory.path("other")).unwrap().bytes;
        std::fs::remove_file(directory.path("other")).unwrap();
        for bytes in [0, 1, 96, 97, 128, 5000, 100_000, whole - 32, whole - 1] {
            limit_files_to(bytes);
            let error = refused(image::save(&newer, &full));
            assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
            assert!(error.to_string().contains("full"), "{error}");
            if bytes < 100_000 {
                let error = refused(image::save_delta(&newer, &older, &delta));
                assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
            }
            assert_eq!(directory.names(), ["delta", "full"]);
            let (there, info): (Arena, _) = image::load(&full).unwrap();
            assert_eq!(info.id.snapshot, older.id());
            expect_holds(&there, &bytes_of(&older));
            assert_eq!(image::verify(&delta).unwrap().id.snapshot, older.id());
        }
        limit_files_to(libc::RLIM_INFINITY);
        image::save(&newer, &full).unwrap();
        expect_holds(&image::load(&full).unwrap().0, &bytes_of(&newer));
    })
    .expect_finished();
}

/// Mounts a file system of this many bytes there, which only this process sees, and which goes with
/// it. `Err` where a process may not. For a process of one thread.
fn mount_small(directory: &Path, bytes: usize) -> std::io::Result<()> {
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        // With a user of its own anybody may.
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    let options = format!("size={bytes}");
    let no_flags = MsFlags::empty();
    mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        no_flags,
        Some(&*options),
    )?;
    Ok(())
}

/// The file system is full, at first of another file, and then because there is no room for the old
/// image and the new one at once.
#[test]
fn by_a_full_file_system() {
    in_child(|engine| {
        let directory = Directory::new();
        let ended = end_of_forked(|| {
            if let Err(error) = mount_small(&directory.path("."), (PAGES + 100) * page_size()) {
                println!("not tried: {error}");
                return NOT_ALLOWED;
            }
            let [full, delta, other] = ["full", "delta", "other"].map(|name| directory.path(name));
            let (mut arena, _) = patterned(on(engine), PAGES);
            arena.fill(7);
            let older = arena.snapshot().unwrap();
            arena[..150 * page_size()].fill(9);
            let newer = arena.snapshot().unwrap();
            image::save(&older, &full).unwrap();
            image::save_delta(&older, &older, &delta).unwrap();
            let expect_old = |names: &[&str]| {
                assert_eq!(directory.names(), names);
                assert_eq!(expect_one_of(&full, [&older, &newer]), 0);
                assert_eq!(image::verify(&delta).unwrap().id.snapshot, older.id());
            };
            let expect_full = |saved| {
                let error = refused(saved);
                assert!(error.to_string().contains("No space left"), "{error}");
            };
            for free_pages in [0, 1, 60] {
                let filling = vec![1; (100 - 4 - free_pages) * page_size()];
                std::fs::write(&other, filling).unwrap();
                expect_full(image::save(&newer, &full));
                expect_full(image::save_delta(&newer, &older, &delta));
                expect_old(&["delta", "full", "other"]);
            }
            std::fs::remove_file(&other).unwrap();
            expect_full(image::save(&newer, &full));
            expect_full(image::save_delta(&newer, &older, &delta));
            expect_old(&["delta", "full"]);
            // A delta of fewer pages has room.
            image::save_delta(&older, &older, &delta).unwrap();
            std::fs::remove_file(&delta).unwrap();
            std::fs::remove_file(&full).unwrap();
            image::save(&newer, &full).unwrap();
            assert_eq!(expect_one_of(&full, [&older, &newer]), 1);
            0
        });
        match ended.code() {
            Some(0 | NOT_ALLOWED) => {}
            _ => panic!("{ended}"),
        }
    })
    .expect_finished();
}
