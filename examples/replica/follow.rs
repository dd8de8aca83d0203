//! The replica's side of the socket: it asks, and applies what comes.

use std::io::{BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use pagecow::Arena;
use pagecow::image::{self, ErrorKind, Id};

use crate::chain::Failure;
use crate::serve::Served;
use crate::wire;

/// Time between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(20);

/// What the replica holds. In memory only: one that is started again asks for a base.
pub type Held = Option<(Arena, Id)>;

/// Follows a primary, also one that is started again. Does not return.
pub fn follow(primary: &Path, served: &Served) -> Result<(), Failure> {
    let mut held = None;
    loop {
        if let Ok(stream) = UnixStream::connect(primary)
            && let Err(why) = update(&stream, &mut held, served)
        {
            println!("the primary is gone: {why}");
            forget_if_unfit(&mut held, &why);
        }
        thread::sleep(AGAIN);
    }
}

/// Asks for what is new, again and again, until the connection breaks. A delta that did not arrive
/// as a whole changes nothing.
pub fn update(stream: &UnixStream, held: &mut Held, served: &Served) -> Result<(), Failure> {
    let mut from = BufReader::new(stream);
    loop {
        wire::say(stream, held.as_ref().map(|(_, id)| *id))?;
        let mut kind = [0];
        from.read_exact(&mut kind)?;
        match (kind[0], held.as_mut()) {
            (wire::DELTA, Some((arena, id))) => {
                *id = image::apply(arena, *id, &mut from)?.id;
            }
            (wire::BASE, _) => {
                let (arena, info) = image::read_from(&mut from)?;
                println!("got a base");
                *held = Some((arena, info.id));
            }
            (kind, _) => return Err(format!("it sent {kind} in place of an image").into()),
        }
        if let Some((arena, id)) = &*held {
            served.set(arena.snapshot()?, *id);
        }
    }
}

/// Forgets what is here where a delta was not for it, so that a base comes next. Until it is here
/// the old state is served. Any other error leaves what is here as it was.
pub fn forget_if_unfit(held: &mut Held, why: &Failure) {
    let image = why.downcast_ref().map(image::Error::kind);
    if let Some(ErrorKind::WrongParent { .. } | ErrorKind::WrongLength { .. }) = image {
        *held = None;
    }
}
