//! Images and deltas one after the other in a stream, and an arena that deltas are applied to.

use std::io::{Cursor, Read, Write};

use pagecow::image::{self, ErrorKind};

use crate::common::{bytes_of, expect_bytes, for_each_engine, on, page_size, patterned};
use crate::format::{ID, Made};
use crate::{delta_of, expect_holds, image_of, refused};

const PAGES: usize = 300;

/// Gives and takes a few bytes at a time, and is interrupted in between.
struct Trickle<T> {
    of: T,
    turn: usize,
}

impl<T> Trickle<T> {
    fn new(of: T) -> Self {
        Self { of, turn: 0 }
    }

    fn some(&mut self, most: usize) -> std::io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(3) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        Ok(most.min(1 + self.turn * 37 % 2000))
    }
}

impl<T: Read> Read for Trickle<T> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let some = self.some(buf.len())?;
        self.of.read(&mut buf[..some])
    }
}

impl<T: Write> Write for Trickle<T> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let some = self.some(buf.len())?;
        self.of.write(&buf[..some])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.of.flush()
    }
}

/// A replica gets a base and the deltas since, while its own snapshots stay what they are.
#[test]
fn a_replica() {
    for_each_engine(|engine| {
        let (mut arena, _) = patterned(on(engine), PAGES);
        let mut wire = Vec::new();
        let mut wanted = Vec::new();
        let mut last: Option<pagecow::Snapshot> = None;
        for number in 0..5 {
            for page in (number..PAGES).step_by(11) {
                arena[page * page_size()..][..page_size()].fill(number as u8);
            }
            let snapshot = arena.snapshot().unwrap();
            match &last {
                None => image::write_to(&snapshot, Trickle::new(&mut wire)),
                Some(last) => image::write_delta_to(&snapshot, last, Trickle::new(&mut wire)),
            }
            .unwrap();
            wanted.push(bytes_of(&snapshot));
            last = Some(snapshot);
        }
        let mut wire = Trickle::new(Cursor::new(wire));
        let loader = image::Loader::new().arena(on(engine));
        let (mut replica, mut info) = loader.read_from(&mut wire).unwrap();
        expect_holds(&replica, &wanted[0]);
        let mut before = replica.snapshot().unwrap();
        for number in 1..5 {
            info = image::apply(&mut replica, info.id, &mut wire).unwrap();
            expect_holds(&replica, &wanted[number]);
            expect_bytes(&before, &wanted[number - 1]);
            before = replica.snapshot().unwrap();
        }
        // Not a byte is left, and none was missing.
        assert_eq!(wire.of.position(), wire.of.get_ref().len() as u64);
    });
}

/// A delta that is cut at any length, or changed anywhere, changes no byte of the arena.
#[test]
fn a_delta_that_is_not_whole_changes_nothing() {
    for_each_engine(|engine| {
        let (mut arena, frozen) = patterned(on(engine), 6);
        let older = arena.snapshot().unwrap();
        arena[page_size()..2 * page_size()].fill(0);
        arena[3 * page_size()] ^= 0xff;
        let newer = arena.snapshot().unwrap();
        let (mut copy, info) = image::read_from(&image_of(&older)[..]).unwrap();
        let delta = delta_of(&newer, &older);
        for len in 0..delta.len() {
            let error = refused(image::apply(&mut copy, info.id, &delta[..len]));
            assert_eq!(crate::damaged_at(&error), len as u64, "{error}");
        }
        for at in 0..delta.len() {
            let mut changed = delta.clone();
            changed[at] ^= 0x10;
            refused(image::apply(&mut copy, info.id, &changed[..]));
        }
        expect_holds(&copy, &frozen);
        image::apply(&mut copy, info.id, &delta[..]).unwrap();
        expect_holds(&copy, &bytes_of(&newer));
    });
}

#[test]
fn a_delta_for_another_arena_is_refused() {
    let (mut arena, _) = patterned(pagecow::Arena::builder(), 4);
    let older = arena.snapshot().unwrap();
    let (mut copy, info) = image::read_from(&image_of(&older)[..]).unwrap();
    let wanted = bytes_of(&older);
    arena[0] ^= 1;
    let newer = arena.snapshot().unwrap();
    // Its base is not what is there.
    let error = refused(image::apply(&mut copy, ID, &delta_of(&newer, &older)[..]));
    assert!(
        matches!(error.kind(), ErrorKind::WrongParent { parent: Some(parent), there }
        if (*parent, *there) == (info.id, ID))
    );
    // No delta at all.
    let error = refused(image::apply(&mut copy, info.id, &image_of(&newer)[..]));
    assert!(matches!(
        error.kind(),
        ErrorKind::WrongParent { parent: None, .. }
    ));
    // Its base is there, it says, but with another length.
    let made = Made::new(page_size(), 100, Some(info.id));
    let error = refused(image::apply(&mut copy, info.id, &made.end()[..]));
    assert!(matches!(
        error.kind(),
        ErrorKind::WrongLength { image: 100, .. }
    ));
    // A delta, where an image is wanted.
    let error = refused(image::read_from(&delta_of(&newer, &older)[..]));
    assert!(matches!(error.kind(), ErrorKind::IsDelta { parent } if *parent == info.id));
    expect_holds(&copy, &wanted);
}
