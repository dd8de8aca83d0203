//! Deltas: the pages that changed, and chains of them.

use pagecow::image::{self, ErrorKind, Id};
use pagecow::{Arena, Engine, Snapshot};

use crate::common::{bytes_of, for_each_engine, on, page_size, patterned};
use crate::{Directory, delta_of, expect_holds, image_of, refused};

const PAGES: usize = 400;

/// The bytes of a delta beside those of its pages.
fn frame(runs: u64) -> u64 {
    96 + 32 * runs + 32
}

/// Stores to some pages, makes others zeros, and takes a snapshot.
fn step(arena: &mut Arena, number: usize) -> Snapshot {
    for page in (number..PAGES).step_by(37) {
        arena[page * page_size() + number] ^= 0x55;
    }
    let zeros = (number * 50 % PAGES) * page_size();
    arena[zeros..zeros + 3 * page_size()].fill(0);
    arena.snapshot().unwrap()
}

#[test]
fn a_delta_has_the_pages_that_changed() {
    for_each_engine(|engine| {
        let (mut arena, _) = patterned(on(engine).window(pagecow::Window::Page), PAGES);
        let older = arena.snapshot().unwrap();
        arena[3 * page_size()] ^= 1;
        arena[4 * page_size()] ^= 1;
        arena[100 * page_size()..102 * page_size()].fill(0);
        let newer = arena.snapshot().unwrap();
        let mut delta = Vec::new();
        let info = image::write_delta_to(&newer, &older, &mut delta).unwrap();
        assert_eq!(info.parent, Some(Id::of(&older).unwrap()));
        assert_eq!(info.id, Id::of(&newer).unwrap());
        assert_eq!(info.pages, 4);
        // Of the two that became zeros there is nothing but a record.
        assert_eq!(info.bytes, frame(2) + 2 * page_size() as u64);
        assert_eq!(info.bytes, delta.len() as u64);
    });
}

#[test]
fn a_chain_gives_the_last_snapshot_and_so_does_one_image_of_it() {
    for_each_engine(|engine| {
        let directory = Directory::new();
        let (mut arena, _) = patterned(on(engine), PAGES);
        let mut last = arena.snapshot().unwrap();
        let mut chain = vec![directory.path("base")];
        image::save(&last, &chain[0]).unwrap();
        for number in 1..6 {
            let snapshot = step(&mut arena, number);
            chain.push(directory.path(&format!("delta {number}")));
            image::save_delta(&snapshot, &last, &chain[number]).unwrap();
            let (loaded, info) = image::Loader::new()
                .arena(on(engine))
                .load_chain(&chain)
                .unwrap();
            assert_eq!(info.id, Id::of(&snapshot).unwrap());
            expect_holds(&loaded, &bytes_of(&snapshot));
            last = snapshot;
        }
        let one = directory.path("one");
        let info = image::compact(&chain, &one).unwrap();
        assert_eq!((info.id, info.parent), (Id::of(&last).unwrap(), None));
        expect_holds(&image::load(&one).unwrap().0, &bytes_of(&last));
        // What comes next applies to it, too; and it may take the place of the chain's own.
        let next = step(&mut arena, 7);
        let delta = directory.path("next");
        image::save_delta(&next, &last, &delta).unwrap();
        image::compact([&one, &delta], &one).unwrap();
        expect_holds(&image::load(&one).unwrap().0, &bytes_of(&next));
    });
}

/// Each has the snapshot that it got last as its base, and gets the next when it likes.
#[test]
fn any_number_of_consumers_with_bases_of_their_own() {
    struct Consumer {
        every: usize,
        base: Snapshot,
        copy: Arena,
        id: Id,
    }
    for_each_engine(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        let first = arena.snapshot().unwrap();
        let (id, image) = (Id::of(&first).unwrap(), image_of(&first));
        let mut consumers: Vec<_> = [1, 2, 3]
            .map(|every| Consumer {
                every,
                base: first.clone(),
                copy: image::read_from(&image[..]).unwrap().0,
                id,
            })
            .into();
        drop(first);
        for number in 1..=6 {
            let snapshot = step(&mut arena, number);
            for consumer in &mut consumers {
                if !number.is_multiple_of(consumer.every) {
                    continue;
                }
                let delta = delta_of(&snapshot, &consumer.base);
                let info = image::apply(&mut consumer.copy, consumer.id, &delta[..]).unwrap();
                consumer.id = info.id;
                consumer.base = snapshot.clone();
                expect_holds(&consumer.copy, &bytes_of(&snapshot));
            }
        }
    });
}

#[test]
fn nothing_changed() {
    for_each_engine(|engine| {
        let (arena, frozen) = patterned(on(engine), 10);
        let (older, newer) = (arena.snapshot().unwrap(), arena.snapshot().unwrap());
        let delta = delta_of(&newer, &older);
        assert_eq!(delta.len() as u64, frame(0));
        let (mut copy, info) = image::read_from(&image_of(&older)[..]).unwrap();
        image::apply(&mut copy, info.id, &delta[..]).unwrap();
        expect_holds(&copy, &frozen);
    });
}

#[test]
fn chains_in_another_order_are_refused() {
    let directory = Directory::new();
    let (mut arena, _) = patterned(on(Engine::Mprotect), PAGES);
    let snapshots: Vec<_> = (0..4).map(|number| step(&mut arena, number)).collect();
    let ids: Vec<_> = snapshots.iter().map(|one| Id::of(one).unwrap()).collect();
    let paths: Vec<_> = (0..4)
        .map(|number| directory.path(&number.to_string()))
        .collect();
    image::save(&snapshots[0], &paths[0]).unwrap();
    for number in 1..4 {
        image::save_delta(&snapshots[number], &snapshots[number - 1], &paths[number]).unwrap();
    }
    let load = |order: &[usize]| image::load_chain(order.iter().map(|number| &paths[*number]));
    assert!(load(&[0, 1, 2, 3]).is_ok());
    for (order, wrong, parent, there) in [
        (&[0, 2, 1, 3][..], 2, Some(ids[1]), ids[0]),
        (&[0, 1, 3], 3, Some(ids[2]), ids[1]),
        (&[0, 1, 1], 1, Some(ids[0]), ids[1]),
        (&[0, 1, 0], 0, None, ids[1]),
    ] {
        let error = refused(load(order));
        assert!(
            matches!(error.kind(), ErrorKind::WrongParent { parent: found, there: other }
                if (*found, *other) == (parent, there)),
            "{error}"
        );
        assert_eq!(error.path(), Some(paths[wrong].as_path()));
        let refused = refused(image::compact(
            order.iter().map(|number| &paths[*number]),
            directory.path("one"),
        ));
        assert!(matches!(refused.kind(), ErrorKind::WrongParent { .. }));
        assert!(!crate::exists(&directory.path("one")));
    }
    for order in [&[1][..], &[1, 2], &[3, 0]] {
        let error = refused(load(order));
        assert!(matches!(error.kind(), ErrorKind::IsDelta { .. }), "{error}");
    }
    assert!(matches!(refused(load(&[])).kind(), ErrorKind::NoImages));
}

#[test]
fn what_is_no_delta_of_these_two_is_refused() {
    for_each_engine(|engine| {
        let directory = Directory::new();
        let (mut arena, _) = patterned(on(engine), 10);
        let older = arena.snapshot().unwrap();
        arena[0] ^= 1;
        let newer = arena.snapshot().unwrap();
        let other = on(engine).build(4096).unwrap().snapshot().unwrap();
        for (snapshot, since) in [(&older, &newer), (&newer, &other)] {
            let error = refused(image::save_delta(snapshot, since, directory.path("delta")));
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Memory(pagecow::Error::NotOlder { .. })
                ),
                "{error}"
            );
            assert!(directory.names().is_empty());
        }
    });
}
