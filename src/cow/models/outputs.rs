//! Frozen pages on their way to a file, while their first writes come through.

use std::io;

use super::*;
use crate::cow::output::Output;
use crate::sys::Piece;

/// A file: what arrived last at each place.
struct Written(Vec<u8>);

impl Output for Written {
    fn put(&mut self, at: usize, pieces: &[Piece<'_>]) -> io::Result<()> {
        let mut at = at;
        for piece in pieces {
            let part = &mut self.0[at..at + piece.len];
            piece.memory.read(piece.start, part);
            at += piece.len;
        }
        Ok(())
    }
}

/// All of a snapshot.
fn written_out(core: &Core, snapshot: &Live) -> io::Result<Vec<u8>> {
    let bytes = core.pages.get() * core.page_size.bytes();
    let mut file = Written(vec![0xee; bytes]);
    core.write_out(snapshot, &(0..bytes), &mut file)?;
    Ok(file.0)
}

fn is(error: &io::Error, which: fn(&Error) -> bool) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.is_some_and(which)
}

/// Two pages leave together, and one look at their words follows.
#[test]
fn output_and_first_writes() {
    model(3, || {
        let core = arena_with(2, 1, usize::MAX);
        let snapshot = core.snapshot();
        let output = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| {
                assert_eq!(written_out(core, &snapshot).unwrap(), [0, 0]);
            })
        };
        core.write(1, 1);
        core.write(0, 1);
        output.join().unwrap();
        assert_eq!(written_out(&core, &snapshot).unwrap(), [0, 0]);
    });
}

/// The same, and another snapshot arms the pages again meanwhile.
#[test]
fn output_and_commit() {
    model(2, || {
        let core = arena_with(2, 1, usize::MAX);
        let snapshot = core.snapshot();
        let output = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| {
                assert_eq!(written_out(core, &snapshot).unwrap(), [0, 0]);
            })
        };
        core.write(0, 1);
        let second = core.snapshot();
        core.write(0, 2);
        output.join().unwrap();
        assert_eq!(written_out(&core, &second).unwrap(), [1, 0]);
    });
}

/// The store is used up: the frozen bytes, or the error.
#[test]
fn output_and_store_used_up() {
    model(3, || {
        let core = arena_with(2, 1, 1);
        let snapshot = core.snapshot();
        let output = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| match written_out(core, &snapshot) {
                Ok(bytes) => assert_eq!(bytes, [0, 0]),
                Err(error) => assert!(is(&error, |error| {
                    matches!(error, Error::StoreExhausted { .. })
                })),
            })
        };
        core.write(0, 1);
        core.write(1, 1);
        output.join().unwrap();
        assert!(written_out(&core, &snapshot).is_err());
    });
}

/// Somebody closes userfaultfd's descriptor: the frozen bytes, or the error.
#[test]
fn output_and_closed_descriptor() {
    model(2, || {
        let core = arena_of_blocks(2);
        // Its block is protected page by page.
        core.write(0, 1);
        let snapshot = core.snapshot();
        let output = {
            let snapshot = snapshot.clone();
            spawn(&core, move |core| match written_out(core, &snapshot) {
                Ok(bytes) => assert_eq!(bytes, [1, 0]),
                Err(error) => assert!(is(&error, |error| matches!(error, Error::Engine { .. }))),
            })
        };
        core.engine.close_descriptor();
        core.write(0, 5);
        output.join().unwrap();
        assert!(written_out(&core, &snapshot).is_err());
    });
}
