//! Images that are cut, changed or made up: a clear error, and nothing half loaded.

use pagecow::image::{self, ErrorKind, Id, Info};
use pagecow::{Arena, Engine};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::allocations::most;
use crate::common::{on, page_size};
use crate::format::{ID, Made, seal};
use crate::{Directory, damaged_at, delta_of, file_of, image_of, refused};

/// What a call may allocate besides as many bytes as the image has.
const CONSTANT: usize = 3 << 20;

/// A full image with three runs, and a delta to it with two, one of zeros.
fn images() -> [Vec<u8>; 2] {
    let mut arena = on(Engine::Mprotect).build(9 * page_size()).unwrap();
    for (page, byte) in [(0, 1), (3, 2), (4, 3), (8, 4)] {
        arena[page * page_size()..][..page_size()].fill(byte);
    }
    let older = arena.snapshot().unwrap();
    arena[3 * page_size()..4 * page_size()].fill(0);
    arena[6 * page_size()] = 1;
    let newer = arena.snapshot().unwrap();
    [image_of(&older), delta_of(&newer, &older)]
}

/// Every way to read a file and a stream, each within its memory.
fn read_in_all_ways(directory: &Directory, bytes: &[u8]) -> Vec<Result<Info, image::Error>> {
    let path = file_of(directory, "image", bytes);
    let bound = bytes.len() + CONSTANT;
    let within = |(result, most): (Result<Info, image::Error>, usize)| {
        assert!(
            most <= bound,
            "{most} bytes for an image of {}",
            bytes.len()
        );
        result
    };
    let of_arena = |(_, info): (Arena, Info)| info;
    let mut arena = Arena::new(9 * page_size()).unwrap();
    let before = arena.to_vec();
    let parent = match image::info(&path) {
        Ok(info) => info.parent.unwrap_or(ID),
        Err(_) => ID,
    };
    let applied = within(most(|| image::apply(&mut arena, parent, bytes)));
    assert!(applied.is_ok() || arena[..] == before[..]);
    vec![
        within(most(|| image::verify(&path))),
        within(most(|| image::load(&path).map(of_arena))),
        within(most(|| image::read_from(bytes).map(of_arena))),
        applied,
    ]
}

#[test]
fn whole_images_are_read() {
    let directory = Directory::new();
    let [full, delta] = images();
    let ok = |bytes: &[u8]| -> Vec<bool> {
        let results = read_in_all_ways(&directory, bytes);
        results.iter().map(Result::is_ok).collect()
    };
    assert_eq!(ok(&full), [true, true, true, false]);
    assert_eq!(ok(&delta), [true, false, false, true]);
}

/// The error of each way says that bytes are missing, and where.
#[test]
fn cut_at_every_length() {
    let directory = Directory::new();
    for bytes in images() {
        let path = directory.path("image");
        for len in 0..bytes.len() {
            let cut = &bytes[..len];
            std::fs::write(&path, cut).unwrap();
            for result in [image::verify(&path), image::info(&path)] {
                let error = refused(result);
                assert_eq!(damaged_at(&error), len as u64, "{error}");
                assert_eq!(error.path(), Some(path.as_path()));
            }
            refused(image::load(&path));
            refused(image::read_from(cut));
        }
    }
}

#[test]
fn every_byte_changed() {
    let directory = Directory::new();
    for bytes in images() {
        for at in 0..bytes.len() {
            // Single bits, and all.
            for change in [1 << (at % 8), 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                let path = file_of(&directory, "image", &changed);
                let error = refused(image::verify(&path));
                match (at, error.kind()) {
                    (0..8, ErrorKind::NotAnImage) | (8..12, ErrorKind::Version { .. }) => {}
                    (12.., ErrorKind::Damaged { at: found, .. }) => {
                        // Where the part begins that it is in; or the end, which is looked at
                        // first of all.
                        let said = *found as usize;
                        assert!(said <= at || at >= bytes.len() - 32, "byte {at}: {error}");
                    }
                    _ => panic!("byte {at}: {error}"),
                }
                refused(image::load(&path));
                refused(image::read_from(&changed[..]));
            }
        }
    }
}

/// Of any kind: bytes changed, cut out, doubled, put in, swapped.
#[test]
fn ten_thousand_random_changes() {
    let directory = Directory::new();
    let mut random = StdRng::seed_from_u64(7);
    let images = images();
    for number in 0..10_000 {
        let original = &images[number % 2];
        let mut bytes = original.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            let len = random.random_range(0..=(bytes.len() - at).min(5000));
            match random.random_range(0..6) {
                0 => bytes[at] = random.random(),
                1 => drop(bytes.drain(at..at + len)),
                2 => {
                    let part = bytes[at..at + len].to_vec();
                    bytes.splice(at..at, part);
                }
                3 => bytes.truncate(at),
                4 => bytes[at..at + len].fill(random.random()),
                _ => {
                    let other = random.random_range(0..bytes.len());
                    bytes.swap(at, other);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        if bytes == *original {
            continue;
        }
        // A stream may go on behind the image.
        let begins_well = bytes.starts_with(original);
        let results = read_in_all_ways(&directory, &bytes);
        for (way, result) in results.into_iter().enumerate() {
            let may_be_well = begins_well && way >= 2;
            assert!(result.is_err() || may_be_well, "change {number}, way {way}");
        }
    }
}

/// Whole checksums do not make sense of nonsense: lengths are bounded first.
#[test]
fn absurd_lengths() {
    let directory = Directory::new();
    let page = page_size() as u64;
    let parent = Some(Id { snapshot: 4, ..ID });
    let nine = || Made::new(page_size(), 9 * page, parent);
    let one_page = vec![1; page_size()];
    // What is wrong, and where that stands.
    let mut cases: Vec<(&str, Vec<u8>, u64)> = Vec::new();
    for (what, page_size, len, at) in [
        ("no bytes", 4096, 0, 16),
        ("more pages than there are numbers", 4096, u64::MAX, 16),
        ("pages of nothing", 0, 4096, 12),
        ("pages of no power of two", 4097, 8192, 12),
        ("pages of a bit", 256, 8192, 12),
        ("pages of too much", 2 << 20, 8 << 20, 12),
        ("pages of 2 GiB", 1 << 31, 8 << 32, 12),
    ] {
        cases.push((what, Made::new(page_size, len, None).end(), at));
    }
    let mut reserved = Made::new(page_size(), page, None);
    reserved.bytes[80] = 1;
    seal(&mut reserved.bytes[..96]);
    cases.push(("something in what is reserved", reserved.end(), 72));
    for (what, tag, pages, first, len, at) in [
        ("no pages", b"page", 0, 0, 0, 100),
        ("pages beyond the end", b"page", 2, 8, 2 * page as u32, 100),
        (
            "a first page beyond all",
            b"page",
            1,
            u64::MAX,
            page as u32,
            100,
        ),
        ("4 GiB of pages", b"page", u32::MAX, 0, u32::MAX, 100),
        ("zeros beyond the end", b"zero", 10, 0, 0, 100),
        ("zeros with bytes", b"zero", 1, 0, page as u32, 112),
        ("fewer bytes than pages", b"page", 2, 0, page as u32, 112),
        ("4 GiB of bytes", b"page", 1, 0, u32::MAX, 112),
        ("nothing compressed", b"zstd", 1, 0, 0, 112),
        ("compressed to as much", b"zstd", 1, 0, page as u32, 112),
        ("an unknown kind", b"what", 1, 0, page as u32, 96),
    ] {
        let mut made = nine();
        made.record(tag, pages, first, len, &one_page);
        cases.push((what, made.end(), at));
    }
    let mut large = Made::new(page_size(), 1 << 40, parent);
    let pages = ((1 << 20) / page + 1) as u32;
    large.record(b"page", pages, 0, pages * page as u32, &[]);
    cases.push(("a run of more than 1 MiB", large.end(), 112));
    let mut twice = nine();
    twice.plain(3, &one_page);
    let second = twice.bytes.len() as u64 + 4;
    twice.plain(3, &one_page);
    cases.push(("the same page twice", twice.end(), second));
    let mut backwards = nine();
    backwards.plain(3, &one_page);
    backwards.plain(2, &one_page);
    cases.push(("an earlier page later", backwards.end(), second));
    let mut zeros = Made::new(page_size(), 9 * page, None);
    zeros.run(b"zero", 1, 0, &[]);
    cases.push(("zeros in a full image", zeros.end(), 112));
    for (what, bytes, at) in cases {
        let error = refused(image::verify(file_of(&directory, "image", &bytes)));
        assert_eq!(damaged_at(&error), at, "{what}: {error}");
        for (way, result) in read_in_all_ways(&directory, &bytes).into_iter().enumerate() {
            assert!(result.is_err(), "{what}, way {way}");
        }
    }
    // More than any system reserves: the arena cannot be, and says so.
    let absurd = Made::new(1 << 20, u64::from(u32::MAX - 1) << 20, None).end();
    let error = refused(image::read_from(&absurd[..]));
    assert!(matches!(error.kind(), ErrorKind::Memory(_)), "{error}");
}

#[test]
fn another_version_and_other_files() {
    let directory = Directory::new();
    let [full, _] = images();
    let mut newer = full.clone();
    newer[8] = 2;
    let error = refused(image::load(file_of(&directory, "image", &newer)));
    assert!(matches!(error.kind(), ErrorKind::Version { found: 2 }));
    let text = b"#!/bin/sh\necho this is something else altogether\n".repeat(9);
    let error = refused(image::load(file_of(&directory, "text", &text)));
    assert!(matches!(error.kind(), ErrorKind::NotAnImage));
    let more = [&full[..], b"more"].concat();
    for result in [
        image::verify(file_of(&directory, "more", &more)),
        image::info(directory.path("more")),
    ] {
        let error = refused(result);
        assert_eq!(damaged_at(&error), more.len() as u64, "{error}");
    }
    // Two images in one file are not one.
    let twice = [&full[..], &full].concat();
    let error = refused(image::verify(file_of(&directory, "twice", &twice)));
    assert_eq!(damaged_at(&error), full.len() as u64, "{error}");
}

/// Runs that are left out, or come from another image, although each is well.
#[test]
fn runs_of_other_images() {
    let [full, _] = images();
    let run = 32 + page_size();
    // Without its first run; and with the last one's bytes and record twice.
    let without = [&full[..96], &full[96 + run..]].concat();
    let error = refused(image::read_from(&without[..]));
    assert_eq!(damaged_at(&error), without.len() as u64 - 32, "{error}");
    let mut other = Made::new(page_size(), 9 * page_size() as u64, None);
    other.plain(0, &vec![77; page_size()]);
    let mixed = [&full[..96], &other.bytes[96..], &full[96 + run..]].concat();
    let error = refused(image::read_from(&mixed[..]));
    assert_eq!(damaged_at(&error), mixed.len() as u64 - 32, "{error}");
}

/// Each message says what happened and, behind a semicolon, what to do.
#[test]
fn what_is_printed() {
    let directory = Directory::new();
    let [full, delta] = images();
    let says = |result: Result<Info, image::Error>, words: &[&str]| {
        let said = refused(result).to_string();
        let (what, to_do) = said.split_once("; ").expect("two parts");
        assert!(!what.is_empty() && !to_do.is_empty(), "{said}");
        for word in words {
            assert!(said.contains(word), "{said:?} without {word:?}");
        }
    };
    let load =
        |name, bytes: &[u8]| image::load(file_of(&directory, name, bytes)).map(|(_, info)| info);
    says(
        load("cut.image", &full[..200]),
        &["cut.image: ", "byte 200"],
    );
    says(load("delta", &delta), &["delta", "-1"]);
    let mut newer = full.clone();
    newer[8] = 200;
    says(load("newer", &newer), &["version 200", "version 1"]);
    says(load("none", &[b' '; 500]), &["none: "]);
    says(image::load("/no/such").map(|(_, info)| info), &["/no/such"]);
    let chain = [&directory.path("full"), &directory.path("full")];
    file_of(&directory, "full", &full);
    says(
        image::load_chain(chain).map(|(_, info)| info),
        &["full one"],
    );
    let error = refused(load("none", b""));
    let io = std::io::Error::from(error);
    assert_eq!(io.kind(), std::io::ErrorKind::InvalidData);
}
