//! The append-only file, rewritten under load, has what the server holds in the end.

use crate::load::under_load;
use crate::server::{Program, Server, digest_of};

/// With saved values before the commands, and without.
fn append(program: &Program) {
    for preamble in ["yes", "no"] {
        let dir = tempfile::tempdir().unwrap();
        let options = ["--appendonly", "yes", "--aof-use-rdb-preamble", preamble];
        let server = Server::start(program, dir.path(), true, &options);
        let mut client = server.client();
        under_load(&server, 3, |_| {
            for _ in 0..3 {
                client.await_no("aof_rewrite_in_progress");
                client.ask(&["BGREWRITEAOF"]);
                client.await_no("aof_rewrite_in_progress");
                assert_eq!(client.info("aof_last_bgrewrite_status"), "ok");
            }
        });
        let digest = client.ask(&["DEBUG", "DIGEST"]);
        server.end();
        assert_eq!(
            digest_of(program, dir.path(), &options),
            digest,
            "{preamble}"
        );
    }
}

#[test]
fn what_is_appended_is_what_is_held() {
    if let Some(redis) = Program::redis("what_is_appended_is_what_is_held") {
        append(&redis);
    }
}

#[test]
fn what_valkey_appends_is_what_it_holds() {
    if let Some(valkey) = Program::valkey("what_valkey_appends_is_what_it_holds") {
        append(&valkey);
    }
}
