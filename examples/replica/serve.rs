//! The replica's answers, from a snapshot of what was applied last.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use pagecow::Snapshot;
use pagecow::image::Id;

use crate::chain::Failure;
use crate::records;
use crate::wire;

/// What is served; clones serve the same.
#[derive(Clone, Default)]
pub struct Served(Arc<Mutex<Option<(Snapshot, Id)>>>);

impl Served {
    /// From now on this is served. Answers in progress go on with what they began with.
    pub fn set(&self, snapshot: Snapshot, id: Id) {
        let old = self.lock().replace((snapshot, id));
        // Only now, so that nobody waits for it.
        drop(old);
    }

    pub fn get(&self) -> Option<(Snapshot, Id)> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Snapshot, Id)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers at a socket, on threads of its own.
pub fn listen(socket: &Path, served: Served) -> Result<(), Failure> {
    let readers = wire::listener(socket)?;
    thread::spawn(move || {
        for reader in readers.incoming().map_while(Result::ok) {
            let served = served.clone();
            // Ends when the reader has gone.
            thread::spawn(move || answer(&reader, &served));
        }
    });
    Ok(())
}

fn answer(mut reader: &UnixStream, served: &Served) -> Result<(), Failure> {
    for question in BufReader::new(reader).lines() {
        let answer = match served.get() {
            None => "nothing yet".to_owned(),
            Some((snapshot, id)) => match answer_to(&question?, &snapshot, id) {
                Ok(answer) => answer,
                Err(why) => format!("error: {why}"),
            },
        };
        writeln!(reader, "{answer}")?;
    }
    Ok(())
}

fn answer_to(question: &str, snapshot: &Snapshot, id: Id) -> Result<String, Failure> {
    let (question, page) = question.split_once(' ').unwrap_or((question, ""));
    match question {
        "check" => {
            let mut memory = vec![0; snapshot.len()];
            snapshot.read_at(0, &mut memory)?;
            let last = records::check(&memory, snapshot.page_size())?;
            Ok(format!("write {last}"))
        }
        "id" => Ok(id.to_string()),
        // A record begins with how often it was written.
        "count" => {
            let page = page
                .parse()
                .ok()
                .filter(|&page| page < snapshot.page_count());
            let page = page.ok_or("no such page; ask for one in the arena")?;
            let mut count = [0; 8];
            count.copy_from_slice(&snapshot.page(page)?.bytes()[..8]);
            Ok(u64::from_ne_bytes(count).to_string())
        }
        _ => Err("ask check, id or count PAGE".into()),
    }
}
