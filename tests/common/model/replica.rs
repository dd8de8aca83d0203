//! An arena beside the model that is brought up to date by images: first a full one, then deltas.

use pagecow::image::{self, Error, Id, Loader};
use pagecow::{Arena, Engine, Mark, Snapshot};

/// What was loaded, and from where the next delta counts.
pub struct Replica {
    pub arena: Arena,
    id: Id,
    mark: Mark,
}

impl Replica {
    /// Of all of a snapshot.
    pub fn new(engine: Engine, snapshot: &Snapshot) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        image::write_to(snapshot, &mut bytes)?;
        let builder = Arena::builder().engine(engine).keeper(false);
        let (arena, info) = Loader::new().arena(builder).read_from(&bytes[..])?;
        let mark = snapshot.mark()?;
        let id = info.id;
        Ok(Self { arena, id, mark })
    }

    /// By what changed since the last one, of which there is a mark and no snapshot any more.
    pub fn update(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let mut delta = Vec::new();
        image::write_delta_to(snapshot, &self.mark, &mut delta)?;
        self.id = image::apply(&mut self.arena, self.id, &delta[..])?.id;
        self.mark = snapshot.mark()?;
        Ok(())
    }
}

/// All bytes of a snapshot, by way of an image of an older one and a delta since that.
pub fn by_way_of(older: &Snapshot, newer: &Snapshot) -> Result<Arena, Error> {
    let mut bytes = Vec::new();
    image::write_to(older, &mut bytes)?;
    let (mut arena, info) = image::read_from(&bytes[..])?;
    let mut delta = Vec::new();
    image::write_delta_to(newer, older, &mut delta)?;
    image::apply(&mut arena, info.id, &delta[..])?;
    Ok(arena)
}
