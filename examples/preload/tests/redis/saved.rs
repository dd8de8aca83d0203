//! Saves under load: the file has the digest of the instant.

use std::sync::atomic::Ordering::Relaxed;

use crate::client::Client;
use crate::load::under_load;
use crate::server::{Program, Server, await_merge, digest_of, digest_of_file, log};

/// As many as `PAGECOW_ROUNDS` says.
fn rounds(usual: usize) -> usize {
    std::env::var("PAGECOW_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

/// Rounds of a save under load, whose file is compared with the digest of its instant. `prepare`
/// says whether the server can do what is to be tested, and `look` looks at it afterwards.
fn save_rounds(
    program: &Program,
    rounds: usize,
    options: &[&str],
    prepare: impl FnOnce(&mut Client) -> bool,
    look: impl FnOnce(&mut Client),
) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(program, dir.path(), true, options);
    let mut client = server.client();
    client.ask(&["DEBUG", "POPULATE", "60000", "filler", "200"]);
    if !prepare(&mut client) {
        return;
    }
    under_load(&server, 3, |made| {
        for round in 0..rounds {
            let before = made.load(Relaxed);
            let commands: [&[&str]; 2] = [&["DEBUG", "DIGEST"], &["BGSAVE"]];
            client.send_all(&commands).unwrap();
            let digest = client.answer();
            assert!(client.answer().contains("started"));
            client.await_no("rdb_bgsave_in_progress");
            assert_eq!(client.info("rdb_last_bgsave_status"), "ok");
            let saved = digest_of_file(program, &dir.path().join("dump.rdb"));
            assert_eq!(saved, digest, "round {round}");
            assert!(made.load(Relaxed) > before);
        }
        look(&mut client);
    });
    await_merge(dir.path());
    server.end();
    let log = log(dir.path());
    assert!(log.matches("fork: child").count() >= rounds, "{log}");
}

#[test]
fn what_is_saved_is_what_was_held() {
    if let Some(redis) = Program::redis("what_is_saved_is_what_was_held") {
        save_rounds(&redis, rounds(3), &[], |_| true, |_| {});
    }
}

#[test]
fn what_is_saved_is_what_was_held_with_threads() {
    let options = ["--io-threads", "3", "--io-threads-do-reads", "yes"];
    if let Some(redis) = Program::redis("what_is_saved_is_what_was_held_with_threads") {
        save_rounds(&redis, rounds(2), &options, |_| true, |_| {});
    }
}

#[test]
fn what_valkey_saves_is_what_it_held() {
    if let Some(valkey) = Program::valkey("what_valkey_saves_is_what_it_held") {
        save_rounds(&valkey, rounds(3), &[], |_| true, |_| {});
    }
}

/// Values move in memory all the while. What is in the way of it: every second value is deleted.
#[test]
fn what_is_saved_is_what_was_held_while_memory_is_defragmented() {
    let test = "what_is_saved_is_what_was_held_while_memory_is_defragmented";
    let Some(redis) = Program::redis(test) else {
        return;
    };
    let options = [
        "--active-defrag-ignore-bytes",
        "1024",
        "--active-defrag-threshold-lower",
        "1",
        "--active-defrag-cycle-min",
        "25",
        "--active-defrag-cycle-max",
        "75",
    ];
    let prepare = |client: &mut Client| {
        client
            .send(&["CONFIG", "SET", "activedefrag", "yes"])
            .unwrap();
        if let Err(why) = client.answer_or_error() {
            println!("{test}: this build has no activedefrag: {why}");
            return false;
        }
        for key in (0..60_000).step_by(2) {
            client.ask(&["DEL", &format!("filler:{key}")]);
        }
        true
    };
    save_rounds(&redis, rounds(2), &options, prepare, |client| {
        client.await_that("active_defrag_hits", |hits| hits != "0");
    });
}

#[test]
fn a_save_during_a_merge_and_a_child_that_is_killed() {
    let test = "a_save_during_a_merge_and_a_child_that_is_killed";
    let Some(redis) = Program::redis(test) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&redis, dir.path(), true, &[]);
    let mut client = server.client();
    client.ask(&["DEBUG", "POPULATE", "100000", "filler", "300"]);
    under_load(&server, 1, |_| {
        for round in 0..8 {
            client.ask(&["BGSAVE"]);
            if round % 2 == 0 {
                for child in server.children() {
                    // SAFETY: a plain system call, to the server's child.
                    unsafe { libc::kill(child, libc::SIGKILL) };
                }
            }
            client.await_no("rdb_bgsave_in_progress");
        }
        client.ask(&["FLUSHALL"]);
    });
    client.ask(&["DEBUG", "POPULATE", "30000", "other", "100"]);
    let digest = client.ask(&["DEBUG", "DIGEST"]);
    client.ask(&["SAVE"]);
    server.end();
    assert_eq!(digest_of(&redis, dir.path(), &[]), digest);
}
