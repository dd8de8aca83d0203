//! Redis does not let a table of keys grow while a child lives, since moving all keys to a larger
//! one would copy most of the memory. Does it know of the child, when the library forks?

use crate::client::Client;
use crate::server::{Program, Server, await_merge, log};

/// A power of two: with more keys than that a table of as many places grows. `PAGECOW_KEYS` says
/// another.
fn most_keys() -> usize {
    std::env::var("PAGECOW_KEYS").map_or(16 << 10, |text| text.parse().unwrap())
}

/// As many keys are new during the save.
const NEW: usize = 1000;
/// In the child, microseconds for each key.
const SLOW: [&str; 2] = ["--rdb-key-save-delay", "20"];

/// How many tables the keys are in: two while they are moved from one to the other.
fn tables(client: &mut Client) -> usize {
    let text = client.ask(&["DEBUG", "HTSTATS", "0"]);
    let keys = text.split("[Expires HT]").next().unwrap();
    keys.matches("table size").count()
}

fn set(client: &mut Client, name: &str, count: usize) {
    for key in 0..count {
        client.ask(&["SET", &format!("{name}:{key}"), "0123456789abcdef"]);
    }
}

/// Saves while keys are added to that many; returns how many pages were copied. Where a rehash is
/// `begun`, it goes on with each command.
fn pages_copied(redis: &Program, keys: usize, begun: bool) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let options = [SLOW[0], SLOW[1], "--activerehashing", "no"];
    let server = Server::start(redis, dir.path(), true, &options);
    let mut client = server.client();
    client.ask(&["DEBUG", "POPULATE", &keys.to_string(), "key", "16"]);
    set(&mut client, "first", if begun { 8 } else { 0 });
    let before = tables(&mut client);
    assert_eq!(before, if begun { 2 } else { 1 });
    client.ask(&["BGSAVE"]);
    set(&mut client, "new", NEW);
    let during = tables(&mut client);
    assert_eq!(
        client.info("rdb_bgsave_in_progress"),
        "1",
        "too short a save"
    );
    assert_eq!(during, before, "a table grew while a child lived");
    client.await_no("rdb_bgsave_in_progress");
    await_merge(dir.path());
    set(&mut client, "last", 1);
    if keys + NEW > most_keys() {
        assert_eq!(tables(&mut client), 2, "it never grows");
    }
    let log = log(dir.path());
    let merged = log.lines().find(|line| line.contains("merged:")).unwrap();
    let pages = merged
        .split(", ")
        .find_map(|part| part.strip_suffix(" pages"));
    server.end();
    pages.unwrap().parse().unwrap()
}

#[test]
fn a_table_does_not_grow_while_a_child_lives() {
    let Some(redis) = Program::redis("a_table_does_not_grow_while_a_child_lives") else {
        return;
    };
    let most = most_keys();
    let below = pages_copied(&redis, most - 2 * NEW, false);
    let beyond = pages_copied(&redis, most - 4, false);
    let begun = pages_copied(&redis, most - 4, true);
    println!(
        "{most} places, {NEW} keys added during a save; pages copied: {below} with places for all \
         of them, {beyond} without, {begun} where a rehash had begun before"
    );
    // Moving the keys would copy a page for each that holds some, and the places.
    assert!(
        beyond < below + below / 2,
        "{beyond} pages, {below} without growing"
    );
}
