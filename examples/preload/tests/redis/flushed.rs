//! Everything is deleted while a child saves it: the child saves what was there.

use std::path::Path;

use crate::client::{Client, value_in};
use crate::server::{Program, Server, digest_of, digest_of_file};

/// So many times at most, since the child may be done before the values are gone.
const ROUNDS: usize = 20;

/// In the child, microseconds for each key.
const SLOW: [&str; 2] = ["--rdb-key-save-delay", "50"];

fn populate(client: &mut Client, name: &str) {
    client.ask(&["DEBUG", "POPULATE", "40000", name, "300"]);
}

/// Has the digest taken, `save` begun and `flush` done with nothing in between. Returns the digest,
/// and what INFO says right after it.
fn save_and_flush(client: &mut Client, save: &str, flush: &[&str]) -> (String, String) {
    let commands: [&[&str]; 4] = [&["DEBUG", "DIGEST"], &[save], flush, &["INFO"]];
    client.send_all(&commands).unwrap();
    let digest = client.answer();
    assert!(client.answer().contains("started"));
    assert_eq!(client.answer(), "OK");
    (digest, client.answer())
}

/// A server which was saved and loaded with its values new is no other.
fn end_and_compare(program: &Program, server: Server, dir: &Path) {
    let mut client = server.client();
    populate(&mut client, "last");
    let digest = client.ask(&["DEBUG", "DIGEST"]);
    client.ask(&["SAVE"]);
    server.end();
    assert_eq!(digest_of(program, dir, &[]), digest);
}

/// `FLUSHDB` leaves the child alone. It gives back nearly all memory at once, in a thread of its
/// own or not, and what is written next gets it again.
fn flush_one(program: &Program) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(program, dir.path(), true, &SLOW);
    let mut client = server.client();
    for how in ["SYNC", "ASYNC"] {
        let met = (0..ROUNDS).any(|round| {
            populate(&mut client, &format!("{how}:{round}"));
            let (digest, info) = save_and_flush(&mut client, "BGSAVE", &["FLUSHDB", how]);
            populate(&mut client, "next");
            client.await_no("rdb_bgsave_in_progress");
            assert_eq!(client.info("rdb_last_bgsave_status"), "ok");
            let file = dir.path().join("dump.rdb");
            assert_eq!(digest_of_file(program, &file), digest);
            value_in(&info, "rdb_bgsave_in_progress") == "1"
        });
        assert!(met, "no child lived when the values were gone");
    }
    end_and_compare(program, server, dir.path());
}

#[test]
fn values_deleted_during_a_save_are_saved() {
    if let Some(redis) = Program::redis("values_deleted_during_a_save_are_saved") {
        flush_one(&redis);
    }
}

#[test]
fn values_deleted_during_a_save_of_valkey_are_saved() {
    if let Some(valkey) = Program::valkey("values_deleted_during_a_save_of_valkey_are_saved") {
        flush_one(&valkey);
    }
}

/// `FLUSHALL` kills a child that saves. The file of the save before stays.
#[test]
fn a_save_that_flushall_ends_leaves_the_file_before() {
    let test = "a_save_that_flushall_ends_leaves_the_file_before";
    let Some(redis) = Program::redis(test) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&redis, dir.path(), true, &SLOW);
    let mut client = server.client();
    populate(&mut client, "first");
    let digest = client.ask(&["DEBUG", "DIGEST"]);
    client.ask(&["SAVE"]);
    for round in 0..4 {
        populate(&mut client, &format!("round:{round}"));
        save_and_flush(&mut client, "BGSAVE", &["FLUSHALL"]);
        populate(&mut client, "next");
        client.await_no("rdb_bgsave_in_progress");
        let file = dir.path().join("dump.rdb");
        assert_eq!(digest_of_file(&redis, &file), digest);
    }
    end_and_compare(&redis, server, dir.path());
}

/// It leaves a child alone that rewrites the append-only file: what that child saves has the digest
/// of before, and the file as a whole that of the end.
#[test]
fn flushall_during_a_rewrite() {
    let Some(redis) = Program::redis("flushall_during_a_rewrite") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let options = ["--appendonly", "yes", SLOW[0], SLOW[1]];
    let server = Server::start(&redis, dir.path(), true, &options);
    let mut client = server.client();
    let met = (0..ROUNDS).any(|round| {
        populate(&mut client, &format!("round:{round}"));
        let (digest, info) = save_and_flush(&mut client, "BGREWRITEAOF", &["FLUSHALL"]);
        for key in 0..1000 {
            client.ask(&["SET", &format!("after:{round}:{key}"), "value"]);
        }
        client.await_no("aof_rewrite_in_progress");
        assert_eq!(client.info("aof_last_bgrewrite_status"), "ok");
        let bases = std::fs::read_dir(dir.path().join("appendonlydir")).unwrap();
        // The one before goes in the background.
        let newest = bases
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(".base.rdb"))
            .max_by_key(|path| number_of_base(path));
        assert_eq!(digest_of_file(&redis, &newest.unwrap()), digest);
        value_in(&info, "aof_rewrite_in_progress") == "1"
    });
    assert!(met, "no child lived when the values were gone");
    let digest = client.ask(&["DEBUG", "DIGEST"]);
    server.end();
    assert_eq!(digest_of(&redis, dir.path(), &options), digest);
}

/// appendonly.aof.NUMBER.base.rdb
fn number_of_base(path: &Path) -> u64 {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.split('.').nth(2).unwrap().parse().unwrap()
}
