//! Saves that the server makes by itself, at instants that nobody knows. What each has is told from
//! the values: a client counts up, so a file has a beginning of what it wrote, without a gap.

use std::sync::atomic::Ordering::Relaxed;

use crate::load::under_load_of;
use crate::server::{Program, Server, await_merge, digest_of_file, log};

const CLIENTS: u64 = 3;
/// Keys of each client, which it writes in turn.
const KEYS: u64 = 5000;
/// Files to look at.
const SAVES: usize = 3;

/// What `client` writes as its command `number`: that number, long enough for a page of its own to
/// be written every few commands.
fn value(number: u64) -> String {
    format!("{number}:{}", "x".repeat((number % 700) as usize))
}

/// Checks what a plain server loads from the file in `dir`, and returns how many commands of each
/// client it has.
fn beginnings(program: &Program, dir: &std::path::Path) -> Vec<u64> {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("dump.rdb"), copy.path().join("dump.rdb")).unwrap();
    program.check(&copy.path().join("dump.rdb"));
    let server = Server::start(program, copy.path(), false, &[]);
    let mut connection = server.client();
    let beginnings = (1..=CLIENTS).map(|client| {
        let held: Vec<String> = (0..KEYS)
            .map(|key| connection.ask(&["GET", &format!("{client}:{key}")]))
            .collect();
        let numbers = held.iter().filter_map(|value| value.split(':').next());
        let newest = numbers.filter_map(|number| number.parse::<u64>().ok());
        // "-1" is no value.
        let count = newest.max().map_or(0, |newest| newest + 1);
        for (key, held) in (0..KEYS).zip(&held) {
            // The last of the first `count` commands that wrote to this key.
            let last = count.checked_sub(key + 1);
            let expected = last.map(|rest| value(rest / KEYS * KEYS + key));
            let expected = expected.as_deref().unwrap_or("-1");
            assert_eq!(held, expected, "key {key} of {client} after {count}");
        }
        count
    });
    let beginnings = beginnings.collect();
    server.end();
    beginnings
}

#[test]
fn saves_that_a_server_makes_by_itself() {
    let test = "saves_that_a_server_makes_by_itself";
    let Some(redis) = Program::redis(test) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump.rdb");
    let server = Server::start(&redis, dir.path(), true, &["--save", "1 1"]);
    let mut connection = server.client();
    let command = |client, number| format!("SET {client}:{} {}", number % KEYS, value(number));
    under_load_of(&server, CLIENTS, command, |made| {
        let mut before = vec![0; CLIENTS as usize];
        for _ in 0..SAVES {
            let last = connection.info("rdb_last_save_time");
            connection.await_that("rdb_last_save_time", |time| time != last);
            let begun = made.load(Relaxed);
            let found = beginnings(&redis, dir.path());
            assert!(found.iter().sum::<u64>() > 0 && begun > 0);
            assert!(before.iter().zip(&found).all(|(before, now)| before <= now));
            before = found;
        }
    });
    // The last has everything: nobody writes any more.
    connection.await_no("rdb_changes_since_last_save");
    connection.await_no("rdb_bgsave_in_progress");
    assert_eq!(connection.info("rdb_last_bgsave_status"), "ok");
    let digest = connection.ask(&["DEBUG", "DIGEST"]);
    assert_eq!(digest_of_file(&redis, &file), digest);
    await_merge(dir.path());
    server.end();
    let log = log(dir.path());
    assert!(log.matches("fork: child").count() >= SAVES, "{log}");
}
