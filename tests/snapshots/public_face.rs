//! What a program meets before it takes a snapshot: names, options that are refused, lengths, what
//! is printed.

#![allow(unsafe_code, reason = "casts bytes to a type of larger alignment")]

use std::io::BufRead;

use crate::common::{
    by_faults, for_each_engine, for_each_fault_engine, on, page_by_page, page_size,
};
// As a program may do that has results of its own.
use pagecow::*;

/// Compiles only while no name of ours hides one of std's prelude.
fn parse(text: &str) -> Result<u8, String> {
    text.parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())
}

#[test]
fn a_glob_import_leaves_the_prelude_alone() {
    assert_eq!(parse("7"), Ok(7));
    assert!(parse("seven").is_err());
}

#[test]
fn windows_that_make_no_sense_are_refused() {
    let adaptive = |max_pages, max_ratio| Window::Adaptive {
        max_pages,
        max_ratio,
    };
    for_each_engine(|engine| {
        for window in [
            Window::Fixed(0),
            adaptive(0, 4.0),
            adaptive(128, f64::NAN),
            adaptive(128, 0.0),
            adaptive(128, -3.0),
            adaptive(128, 0.999),
            adaptive(128, f64::NEG_INFINITY),
        ] {
            let error = on(engine).window(window).build(page_size()).unwrap_err();
            assert!(matches!(error, Error::Window { .. }), "{error:?}");
            let said = error.to_string();
            assert!(said.contains(&format!("{window:?}")), "{said}");
            assert!(said.contains("at least 1"), "{said}");
        }
        for window in [
            Window::Page,
            Window::Fixed(1),
            Window::Fixed(usize::MAX),
            adaptive(1, 1.0),
            adaptive(usize::MAX, f64::INFINITY),
        ] {
            let arena = on(engine).window(window).build(page_size()).unwrap();
            arena.snapshot().unwrap();
        }
    });
}

#[test]
fn engines_have_names() {
    for engine in Engine::ALL {
        assert_eq!(engine.to_string().parse::<Engine>().unwrap(), *engine);
        assert_eq!(format!("{engine:>13}").trim_start(), engine.name());
    }
    for name in ["", "Mprotect", "mprotect "] {
        let error = name.parse::<Engine>().unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains(&format!("{name:?}")) && said.contains("userfaultfd"),
            "{said}"
        );
    }
}

#[test]
fn a_reader_is_printed_without_its_bytes() {
    for_each_engine(|engine| {
        let arena = on(engine).build(40 * page_size()).unwrap();
        arena.snapshot().unwrap();
        let snapshot = arena.snapshot().unwrap();
        let mut reader = snapshot.reader();
        assert!(!reader.fill_buf().unwrap().is_empty());
        reader.consume(17);
        let wanted = format!(
            "SnapshotReader {{ snapshot: 2, position: 17, len: {}, .. }}",
            40 * page_size()
        );
        assert_eq!(format!("{reader:?}"), wanted);
    });
}

/// What a program may cast the bytes of a page to.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

#[test]
fn the_bytes_of_a_page_are_aligned_to_pages() {
    for_each_engine(|engine| {
        let mut arena = page_by_page(engine).build(8 * page_size()).unwrap();
        arena.fill(7);
        let snapshot = arena.snapshot().unwrap();
        for page in [1, 4] {
            arena[page * page_size()] = 8;
        }
        let pages: Vec<Page> = snapshot.pages().map(|page| page.unwrap()).collect();
        let copies = pages.clone();
        for page in pages.iter().chain(&copies) {
            let bytes = page.bytes();
            let is_saved = by_faults(engine) && [1, 4].contains(&page.index());
            assert_eq!(page.is_saved(), is_saved);
            assert!(
                bytes.as_ptr().addr().is_multiple_of(page_size()),
                "{page:?}"
            );
            assert!(bytes.iter().all(|byte| *byte == 7));
            // SAFETY: any bytes of the right alignment are a `Line`.
            let (before, lines, after) = unsafe { bytes.align_to::<Line>() };
            assert!(before.is_empty() && after.is_empty());
            assert_eq!(lines.len(), page_size() / 64);
            assert!(
                lines
                    .iter()
                    .all(|line| line.0 == [0x0707_0707_0707_0707; 8])
            );
        }
    });
}

#[test]
fn numbers_and_exactness_cost_no_walk() {
    for_each_fault_engine(|engine| {
        let limit = page_size();
        let builder = page_by_page(engine).store_limit(limit);
        let mut arena = builder.build(2 * page_size() - 1).unwrap();
        let (first, second) = (arena.snapshot().unwrap(), arena.snapshot().unwrap());
        assert_eq!((first.id(), second.id(), second.clone().id()), (1, 2, 2));
        arena[0] = 1;
        assert!(first.is_exact() && second.is_exact());
        arena[page_size()] = 1;
        assert!(!first.is_exact() && !second.is_exact());
        let third = arena.snapshot().unwrap();
        assert_eq!(third.id(), 3);
        assert!(!first.is_exact() && !second.is_exact() && third.is_exact());
        for snapshot in [&first, &second, &third] {
            let stats = snapshot.stats();
            assert_eq!(
                (stats.number, stats.failed),
                (snapshot.id(), !snapshot.is_exact())
            );
            assert_eq!(snapshot.requested_len(), 2 * page_size() - 1);
            assert_eq!(snapshot.len(), 2 * page_size());
        }
    });
}
