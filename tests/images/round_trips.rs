//! What is saved is what is loaded.

use pagecow::{Window, image};

use crate::common::{
    bytes_of, engines, for_each_engine, on, page_size, pattern, patterned, snapshots_beside_writers,
};
use crate::{Directory, expect_holds, expect_round_trip, image_of, pages_with_bytes};

const PAGES: usize = 700;

#[test]
fn an_arena_that_nobody_wrote_to() {
    for_each_engine(|engine| {
        let arena = on(engine).build(1 << 20).unwrap();
        let snapshot = arena.snapshot().unwrap();
        let info = expect_round_trip(&snapshot, on(engine), &vec![0; 1 << 20]);
        assert_eq!((info.pages, info.bytes), (0, 128));
        assert_eq!((info.requested_len, info.parent), (1 << 20, None));
    });
}

/// Each engine's images are loaded on each engine.
#[test]
fn all_pages_on_all_engines() {
    for_each_engine(|engine| {
        let (mut arena, frozen) = patterned(on(engine), PAGES);
        let snapshot = arena.snapshot().unwrap();
        // Every third page has a copy.
        for page in (0..PAGES).step_by(3) {
            arena[page * page_size()] ^= 0xff;
        }
        for other in engines() {
            let info = expect_round_trip(&snapshot, on(*other), &frozen);
            assert_eq!(info.pages, pages_with_bytes(&frozen));
        }
    });
}

#[test]
fn lengths_that_are_no_whole_pages() {
    for_each_engine(|engine| {
        for len in [
            1,
            100,
            page_size() - 1,
            page_size() + 1,
            300 * page_size() + 7,
        ] {
            let mut arena = on(engine).build(len).unwrap();
            // All of it, what was not asked for included.
            let last = arena.len() - 1;
            (arena[0], arena[last]) = (1, 2);
            let snapshot = arena.snapshot().unwrap();
            let info = expect_round_trip(&snapshot, on(engine), &arena);
            assert_eq!(info.requested_len, len as u64);
        }
    });
}

#[test]
fn zeros_are_left_out_however_they_came_to_be() {
    for_each_engine(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        // Written, and zeros: single pages, long rows, the first and the last.
        for pages in [0..1, 5..6, 7..8, 100..400, PAGES - 1..PAGES] {
            arena[pages.start * page_size()..pages.end * page_size()].fill(0);
        }
        // One byte is enough, the last of a page.
        arena[201 * page_size() - 1] = 1;
        let snapshot = arena.snapshot().unwrap();
        let bytes = bytes_of(&snapshot);
        let info = expect_round_trip(&snapshot, on(engine), &bytes);
        assert_eq!(info.pages, pages_with_bytes(&bytes));
        assert!(info.pages <= (PAGES - 304 + 1) as u64);
    });
}

#[test]
fn little_in_a_lot_of_address_space() {
    for_each_engine(|engine| {
        let len = 64 << 30;
        let mut arena = on(engine).build(len).unwrap();
        let places = [0, 3 << 30, (3 << 30) + page_size(), len - 1];
        for (number, place) in places.into_iter().enumerate() {
            arena[place] = number as u8 + 1;
        }
        let snapshot = arena.snapshot().unwrap();
        let directory = Directory::new();
        let path = directory.path("image");
        let saved = image::save(&snapshot, &path).unwrap();
        assert_eq!(saved.pages, 4);
        assert!(saved.bytes < 10 * page_size() as u64);
        let (loaded, info) = image::Loader::new().arena(on(engine)).load(&path).unwrap();
        assert_eq!((loaded.len(), info), (len, saved));
        for (number, place) in places.into_iter().enumerate() {
            assert_eq!(loaded[place], number as u8 + 1);
        }
        let again = loaded.snapshot().unwrap();
        assert_eq!(image_of(&again).len() as u64, saved.bytes);
    });
}

/// The image has what was frozen, not what is stored meanwhile.
#[test]
fn while_writers_write() {
    for_each_engine(|engine| {
        for window in [Window::Page, Window::default()] {
            let (mut arena, _) = patterned(on(engine).window(window), PAGES);
            snapshots_beside_writers(&mut arena, 5, |snapshot| {
                let image = image_of(snapshot);
                let (loaded, _) = image::read_from(&image[..]).unwrap();
                expect_holds(&loaded, &bytes_of(snapshot));
            });
        }
    });
}

/// An image is loaded where pages are smaller or larger, if it fits.
#[test]
fn pages_of_another_size() {
    use crate::format::Made;
    let host = page_size();
    let bytes = pattern(8);
    for size in [host / 4, host / 2, 2 * host, 4 * host] {
        let mut made = Made::new(size, 8 * host as u64, None);
        made.plain(0, &bytes);
        let (arena, info) = image::read_from(&made.end()[..]).unwrap();
        assert_eq!((info.page_size, arena.page_size()), (size, host));
        expect_holds(&arena, &bytes);
    }
    // Its last page goes beyond what is the end of the arena here.
    let mut made = Made::new(4 * host, host as u64, None);
    made.plain(0, &[&bytes[..host], &vec![0; 3 * host]].concat());
    expect_holds(
        &image::read_from(&made.end()[..]).unwrap().0,
        &bytes[..host],
    );
    let mut made = Made::new(4 * host, host as u64, None);
    made.plain(0, &bytes[..4 * host]);
    let error = crate::refused(image::read_from(&made.end()[..]));
    assert!(
        matches!(error.kind(), image::ErrorKind::PageSize { image, here }
        if (*image, *here) == (4 * host, host))
    );
}
