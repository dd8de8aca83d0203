//! Images that are compressed, on one thread and on several.

use pagecow::image::{self, Cancel, ErrorKind, Saver};

use crate::allocations::most;
use crate::common::{bytes_of, for_each_engine, on, page_size, pattern};
use crate::format::{ID, Made};
use crate::{Directory, damaged_at, expect_holds, refused};

const PAGES: usize = 900;

/// Pages that compress well, some that do not at all, and zeros.
fn mixed(engine: pagecow::Engine) -> pagecow::Arena {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let mut arena = on(engine).build(PAGES * page_size()).unwrap();
    arena.copy_from_slice(&pattern(PAGES));
    StdRng::seed_from_u64(3).fill(&mut arena[200 * page_size()..300 * page_size()]);
    arena[500 * page_size()..510 * page_size()].fill(0);
    arena
}

#[test]
fn they_are_smaller_and_the_same_whatever_the_threads() {
    for_each_engine(|engine| {
        let mut arena = mixed(engine);
        let older = arena.snapshot().unwrap();
        let plain = crate::image_of(&older);
        let compressed = |snapshot, threads| {
            let mut bytes = Vec::new();
            let mut saver = Saver::new().compress(3).threads(threads);
            saver.write_to(snapshot, &mut bytes).unwrap();
            bytes
        };
        let one = compressed(&older, 1);
        assert!(
            one.len() < plain.len() / 4,
            "{} of {}",
            one.len(),
            plain.len()
        );
        assert!(one.len() > 100 * page_size());
        assert!(one == compressed(&older, 3));
        let (mut loaded, info) = image::read_from(&one[..]).unwrap();
        assert_eq!(info.pages, crate::pages_with_bytes(&bytes_of(&older)));
        expect_holds(&loaded, &bytes_of(&older));

        arena[..20 * page_size()].fill(5);
        arena[600 * page_size()..700 * page_size()].fill(0);
        let newer = arena.snapshot().unwrap();
        let mut delta = Vec::new();
        Saver::new()
            .compress(3)
            .threads(2)
            .write_delta_to(&newer, &older, &mut delta)
            .unwrap();
        image::apply(&mut loaded, info.id, &delta[..]).unwrap();
        expect_holds(&loaded, &bytes_of(&newer));
    });
}

#[test]
fn a_save_on_several_threads_is_cancelled_as_any() {
    for_each_engine(|engine| {
        let arena = mixed(engine);
        let snapshot = arena.snapshot().unwrap();
        let directory = Directory::new();
        let path = crate::file_of(&directory, "image", b"old");
        for when in [1, 2, 5] {
            let cancel = Cancel::new();
            let mut number = 0;
            let mut saver = Saver::new()
                .compress(1)
                .threads(3)
                .cancel(&cancel)
                .progress(|_| {
                    number += 1;
                    if number == when {
                        cancel.cancel();
                    }
                });
            let error = refused(saver.save(&snapshot, &path));
            assert!(matches!(error.kind(), ErrorKind::Cancelled));
            assert_eq!(directory.names(), ["image"]);
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
        }
    });
}

#[test]
fn a_snapshot_that_fails_on_a_thread_is_refused() {
    let mut arena = on(pagecow::Engine::Mprotect)
        .store_limit(page_size())
        .build(PAGES * page_size())
        .unwrap();
    arena.fill(1);
    let snapshot = arena.snapshot().unwrap();
    arena.fill(2);
    let mut saver = Saver::new().compress(1).threads(2);
    let error = refused(saver.write_to(&snapshot, std::io::sink()));
    assert!(matches!(error.kind(), ErrorKind::Memory(_)), "{error}");
}

/// Each byte of a compressed image is checked; and what decompresses to something else is refused,
/// within the memory of a run.
#[test]
fn damage() {
    let directory = Directory::new();
    let mut arena = pagecow::Arena::new(8 * page_size()).unwrap();
    arena.copy_from_slice(&pattern(8));
    let snapshot = arena.snapshot().unwrap();
    let mut bytes = Vec::new();
    let mut saver = Saver::new().compress(1);
    saver.write_to(&snapshot, &mut bytes).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        refused(image::read_from(&changed[..]));
        refused(image::read_from(&bytes[..at]));
    }
    let small = |len: usize| zstd::bulk::compress(&vec![1; len], 1).unwrap();
    for (what, stored) in [
        ("too few", small(page_size())),
        ("too many", small(3 * page_size())),
        ("a bomb", small(1 << 30)),
        ("not compressed", vec![9; 100]),
    ] {
        let mut made = Made::new(page_size(), 8 * page_size() as u64, None);
        // The bomb is larger than pages may be; then that is what is wrong.
        made.run(b"zstd", 2, 0, &stored[..stored.len().min(page_size())]);
        let made = made.end();
        let path = crate::file_of(&directory, "image", &made);
        let (result, most) = most(|| image::verify(&path));
        let error = refused(result);
        assert_eq!(damaged_at(&error), 128, "{what}: {error}");
        assert!(most < made.len() + (3 << 20), "{what}: {most}");
        let mut there = pagecow::Arena::new(8 * page_size()).unwrap();
        refused(image::apply(&mut there, ID, &made[..]));
    }
}
