//! The primary: one thread writes, one saves what changed, and one for each replica sends it.

use std::collections::VecDeque;
use std::io::{BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pagecow::image::{self, Id, Saver};
use pagecow::{Arena, Mark, Snapshot};

use crate::chain::{self, Chain, Directory, Failure};
use crate::records;
use crate::wire;
use crate::writer::Writer;

/// How many deltas a chain gets before a new base takes its place.
const CHAIN: u32 = 50;
/// How many moments are known: a replica that connects and has an older one gets a base.
pub const KEPT: usize = 16;

/// What may be sent: it has been saved.
#[derive(Default)]
struct Versions {
    newest: Option<Version>,
    /// Marks at the newest one and at those before it, which keep no copies.
    marks: VecDeque<(Id, Arc<Mark>)>,
}

#[derive(Clone)]
struct Version {
    id: Id,
    snapshot: Snapshot,
    mark: Arc<Mark>,
}

#[derive(Default)]
pub struct Published {
    versions: Mutex<Versions>,
    changed: Condvar,
}

pub fn run(
    directory: &Path,
    listen: &Path,
    size: usize,
    interval: Duration,
) -> Result<(), Failure> {
    let saved_in = Directory::open(directory)?;
    let builder = Arena::builder();
    let arena = match chain::load(directory, &builder)? {
        Some((arena, _)) => arena,
        // Room for the first page and a record.
        None => builder.build(size.max(2 * Arena::new(1)?.page_size()))?,
    };
    let last = records::check(&arena, arena.page_size())?;
    println!("begins at write {last}");

    let published = Arc::new(Published::default());
    let replicas = wire::listener(listen)?;
    thread::spawn({
        let published = published.clone();
        move || {
            for replica in replicas.incoming().map_while(Result::ok) {
                let published = published.clone();
                thread::spawn(move || {
                    if let Err(why) = serve(&replica, &published) {
                        println!("a replica is gone: {why}");
                    }
                });
            }
        }
    });
    save(&saved_in, &Writer::start(arena), &published, interval)
}

/// Saves a base and what changed since, and publishes each moment once it is saved. Ends only by an
/// error.
fn save(
    saved_in: &Directory,
    writer: &Writer,
    published: &Published,
    interval: Duration,
) -> Result<(), Failure> {
    let mut last: Option<(Chain, Arc<Mark>)> = None;
    loop {
        let (snapshot, write) = writer.snapshot()?;
        let mark = Arc::new(snapshot.mark()?);
        let chain = match last.take() {
            Some((mut chain, since)) if chain.images() <= CHAIN => {
                chain.add(&snapshot, &since, Saver::new())?;
                chain
            }
            _ => saved_in.begin(&snapshot, Saver::new())?.0,
        };
        last = Some((chain, mark.clone()));
        published.publish(snapshot, mark)?;
        println!("saved write {write}");
        thread::sleep(interval);
    }
}

/// Brings a replica up to date, again and again. Ends when it is gone.
pub fn serve(replica: &UnixStream, published: &Published) -> Result<(), Failure> {
    let mut sent: Option<(Id, Arc<Mark>)> = None;
    loop {
        let has = wire::hear(replica)?;
        let (newest, mut since) = published.newer_than(has);
        // However long ago that was, changes since then are known.
        if let Some((id, mark)) = sent
            && has == Some(id)
        {
            since = Some(mark);
        }
        let mut to = BufWriter::new(replica);
        match since {
            Some(mark) => {
                to.write_all(&[wire::DELTA])?;
                image::write_delta_to(&newest.snapshot, &*mark, &mut to)?;
            }
            None => {
                to.write_all(&[wire::BASE])?;
                image::write_to(&newest.snapshot, &mut to)?;
            }
        }
        to.flush()?;
        sent = Some((newest.id, newest.mark));
    }
}

impl Published {
    /// Has replicas get this.
    pub fn publish(&self, snapshot: Snapshot, mark: Arc<Mark>) -> Result<(), image::Error> {
        let id = Id::of(&snapshot)?;
        let mut versions = self.lock();
        versions.marks.push_back((id, mark.clone()));
        if versions.marks.len() > KEPT {
            versions.marks.pop_front();
        }
        let old = versions.newest.replace(Version { id, snapshot, mark });
        drop(versions);
        drop(old);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until there is something that a replica does not have. Returns it, and a mark at what
    /// the replica has, if there is one.
    fn newer_than(&self, has: Option<Id>) -> (Version, Option<Arc<Mark>>) {
        let is_old = |versions: &mut Versions| match &versions.newest {
            Some(version) => has == Some(version.id),
            None => true,
        };
        let versions = self.changed.wait_while(self.lock(), is_old);
        let versions = versions.unwrap_or_else(PoisonError::into_inner);
        let newest = versions.newest.clone().expect("waited for it");
        let since = versions.marks.iter().find(|(id, _)| has == Some(*id));
        (newest, since.map(|(_, mark)| mark.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
