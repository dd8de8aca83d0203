//! Both processes, killed in turn.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pagecow::image::{self, Id};
use pagecow::{Arena, Snapshot};

use super::*;
use crate::follow::Held;
use crate::primary::{KEPT, Published};
use crate::processes::{ALARM, Process, be_the_example};

#[test]
fn as_a_process() {
    be_the_example(|args| run(Args::parse_from(args)).unwrap());
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn primary(&self) -> Process {
        Process::start(&[
            "primary",
            "--dir",
            self.path("saved").to_str().unwrap(),
            "--listen",
            self.path("primary").to_str().unwrap(),
            "--size=524288",
            "--interval-ms=5",
        ])
    }

    fn replica(&self) -> Process {
        Process::start(&[
            "replica",
            "--from",
            self.path("primary").to_str().unwrap(),
            "--serve",
            self.path("replica").to_str().unwrap(),
        ])
    }
}

/// One answer. `None`: the replica is not there, or has nothing yet.
fn ask(socket: &Path, question: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    writeln!(stream, "{question}").ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    let answer = answer.strip_suffix('\n')?;
    (answer != "nothing yet").then(|| answer.to_owned())
}

/// The number of the last write that a replica shows. Anything but a whole state is a failure.
fn shown(socket: &Path) -> Option<u64> {
    let answer = ask(socket, "check")?;
    let number = answer.strip_prefix("write ");
    let number = number.unwrap_or_else(|| panic!("the replica says {answer:?}"));
    Some(number.parse().unwrap())
}

/// Waits until a replica shows a write, or a later one.
fn until_shown(socket: &Path, write: u64) {
    let alarm = Instant::now() + ALARM;
    while shown(socket) < Some(write) {
        assert!(Instant::now() < alarm, "write {write} does not arrive");
        thread::sleep(Duration::from_millis(1));
    }
}

fn saved(primary: &Process) -> u64 {
    let line = primary.line("saved write ").expect("it runs");
    line.parse().unwrap()
}

/// Ends the reader, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_replica_catches_up_whichever_is_killed() {
    let place = Place::new();
    let socket = place.path("replica");
    let mut primary = place.primary();
    let mut replica = Some(place.replica());
    let newest = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let at_the_end = Done(&done);
        // Reads all the time: each state is whole, and none is older than one before it.
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !done.load(Ordering::Relaxed) {
                if let Some(write) = shown(&socket) {
                    let before = newest.fetch_max(write, Ordering::Relaxed);
                    assert!(write >= before, "write {write} after {before}");
                    read += 1;
                }
            }
            read
        });
        for round in 0..8_u64 {
            until_shown(&socket, saved(&primary));
            thread::sleep(Duration::from_millis(round * 3));
            if round % 2 == 0 {
                primary.kill("saved write ");
                primary = place.primary();
                let begins: u64 = primary.line("begins at write ").unwrap().parse().unwrap();
                assert!(begins >= newest.load(Ordering::Relaxed), "{begins} is lost");
            } else {
                replica.take().expect("one runs").kill("got a base");
                replica = Some(place.replica());
            }
            if reader.is_finished() {
                break;
            }
        }
        let last = saved(&primary);
        until_shown(&socket, last);
        drop(at_the_end);
        assert!(reader.join().unwrap() > 0);
    });
    // The last one got one base, and deltas since.
    assert_eq!(replica.expect("one runs").kill("got a base").len(), 1);
}

/// An arena whose states are sent by this process.
struct Sender {
    arena: Arena,
    published: Arc<Published>,
}

impl Sender {
    fn new() -> Self {
        let arena = Arena::new(64 << 12).unwrap();
        let published = Arc::new(Published::default());
        Self { arena, published }
    }

    /// Makes a write, and publishes the state.
    fn publish(&mut self) -> Snapshot {
        let page_size = self.arena.page_size();
        records::write(&mut self.arena, page_size);
        let snapshot = self.arena.snapshot().unwrap();
        let mark = Arc::new(snapshot.mark().unwrap());
        self.published.publish(snapshot.clone(), mark).unwrap();
        snapshot
    }

    fn connect(&self) -> UnixStream {
        let (here, there) = UnixStream::pair().unwrap();
        let published = self.published.clone();
        thread::spawn(move || primary::serve(&there, &published));
        here
    }
}

/// Asks for one image, takes it, and returns what kind it was.
fn take(stream: &UnixStream, held: &mut Held) -> u8 {
    let mut from = BufReader::new(stream);
    wire::say(stream, held.as_ref().map(|(_, id)| *id)).unwrap();
    let mut kind = [0];
    from.read_exact(&mut kind).unwrap();
    match held {
        Some((arena, id)) if kind[0] == wire::DELTA => {
            *id = image::apply(arena, *id, &mut from).unwrap().id;
        }
        _ => {
            let (arena, info) = image::read_from(&mut from).unwrap();
            *held = Some((arena, info.id));
        }
    }
    let (arena, _) = held.as_ref().unwrap();
    records::check(arena, arena.page_size()).unwrap();
    kind[0]
}

fn holds(held: &Held, snapshot: &Snapshot) -> bool {
    let (arena, id) = held.as_ref().unwrap();
    let mut bytes = vec![0; snapshot.len()];
    snapshot.read_at(0, &mut bytes).unwrap();
    *id == Id::of(snapshot).unwrap() && arena[..] == bytes[..]
}

#[test]
fn a_replica_that_connects_again_gets_what_changed() {
    let mut sender = Sender::new();
    let mut held = None;
    sender.publish();
    let stream = sender.connect();
    assert_eq!(take(&stream, &mut held), wire::BASE);
    // On one connection, however much there was meanwhile.
    let mut newest = sender.publish();
    for _ in 0..2 * KEPT {
        newest = sender.publish();
    }
    assert_eq!(take(&stream, &mut held), wire::DELTA);
    assert!(holds(&held, &newest));

    // The connection breaks, and the replica is still among those that are known.
    drop(stream);
    for _ in 0..KEPT - 1 {
        newest = sender.publish();
    }
    let stream = sender.connect();
    assert_eq!(take(&stream, &mut held), wire::DELTA);
    assert!(holds(&held, &newest));

    drop(stream);
    for _ in 0..KEPT {
        newest = sender.publish();
    }
    assert_eq!(take(&sender.connect(), &mut held), wire::BASE);
    assert!(holds(&held, &newest));

    // Another arena: that of a primary that was started again.
    let mut sender = Sender::new();
    newest = sender.publish();
    assert_eq!(take(&sender.connect(), &mut held), wire::BASE);
    assert!(holds(&held, &newest));
}

#[test]
fn half_a_delta_changes_nothing() {
    let mut sender = Sender::new();
    let base = sender.publish();
    let mut newer = sender.publish();
    for _ in 0..5 {
        newer = sender.publish();
    }
    let mut wire = vec![wire::BASE];
    image::write_to(&base, &mut wire).unwrap();
    let base_len = wire.len();
    wire.push(wire::DELTA);
    image::write_delta_to(&newer, &base, &mut wire).unwrap();
    for end in (base_len..wire.len()).step_by(509) {
        let (here, mut there) = UnixStream::pair().unwrap();
        let sent = wire[..end].to_vec();
        let sending = thread::spawn(move || {
            let (base, delta) = sent.split_at(base_len);
            for image in [base, delta] {
                wire::hear(&there).unwrap();
                there.write_all(image).unwrap();
            }
        });
        let (mut held, served) = (None, Served::default());
        let why = follow::update(&here, &mut held, &served).unwrap_err();
        follow::forget_if_unfit(&mut held, &why);
        sending.join().unwrap();
        assert!(holds(&held, &base), "{end} bytes of {}", wire.len());
        let (shown, id) = served.get().unwrap();
        assert_eq!(id, Id::of(&base).unwrap());
        let mut bytes = vec![0; shown.len()];
        shown.read_at(0, &mut bytes).unwrap();
        assert_eq!(records::check(&bytes, shown.page_size()), Ok(1));

        // The next connection brings the rest.
        assert_eq!(take(&sender.connect(), &mut held), wire::DELTA);
        assert!(holds(&held, &newer));
    }
}

#[test]
fn after_a_delta_for_another_state_a_base_comes() {
    let mut sender = Sender::new();
    let states = [(); 3].map(|()| sender.publish());
    let mut wire = Vec::new();
    image::write_to(&states[0], &mut wire).unwrap();
    let (arena, info) = image::read_from(&wire[..]).unwrap();
    let mut held = Some((arena, info.id));

    let (here, mut there) = UnixStream::pair().unwrap();
    there.write_all(&[wire::DELTA]).unwrap();
    image::write_delta_to(&states[2], &states[1], &there).unwrap();
    let served = Served::default();
    let why = follow::update(&here, &mut held, &served).unwrap_err();
    assert!(holds(&held, &states[0]) && served.get().is_none());
    follow::forget_if_unfit(&mut held, &why);
    assert_eq!(take(&sender.connect(), &mut held), wire::BASE);
    assert!(holds(&held, &states[2]));
}

#[test]
fn questions_are_answered_from_one_state() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("replica");
    let served = Served::default();
    serve::listen(&socket, served.clone()).unwrap();
    assert_eq!(ask(&socket, "check"), None);
    let mut sender = Sender::new();
    let snapshot = sender.publish();
    let id = Id::of(&snapshot).unwrap();
    served.set(snapshot.clone(), id);
    assert_eq!(ask(&socket, "check").unwrap(), "write 1");
    assert_eq!(ask(&socket, "id").unwrap(), id.to_string());
    let counts = (1..64).map(|page| ask(&socket, &format!("count {page}")).unwrap());
    assert_eq!(counts.filter(|count| count == "1").count(), 1);
    for bad in ["count 64", "count", "what"] {
        assert!(ask(&socket, bad).unwrap().starts_with("error: "), "{bad}");
    }
}
