//! A Redis server with the library in `LD_PRELOAD`: what it saves is what it held. Skipped, by
//! name, where there is no `redis-server`.

#![allow(unsafe_code, reason = "a server that a test leaves behind is ended")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// `None` where there is none.
fn server_is_missing(test: &str) -> bool {
    let found = Command::new("redis-server")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if found.is_err() {
        println!("{test}: skipped: no redis-server");
    }
    found.is_err()
}

struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// On a free port, with its files in `dir`.
    fn start(dir: &Path, preloaded: bool, options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--save", ""]);
        command
            .args(["--enable-debug-command", "yes", "--dir"])
            .arg(dir);
        command.args(options).stdout(Stdio::null());
        if preloaded {
            command.env("LD_PRELOAD", common::library());
            command.env("PAGECOW_LOG", dir.join("log"));
        }
        let process = command.spawn().unwrap();
        let server = Self { process, port };
        let begin = Instant::now();
        loop {
            // It says so when it still loads.
            if let Ok(mut client) = Client::connect(port)
                && client.send(&["PING"]).is_ok()
                && client.answer_or_error().is_ok()
            {
                return server;
            }
            assert!(begin.elapsed() < PATIENCE, "no answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn client(&self) -> Client {
        Client::connect(self.port).unwrap()
    }

    fn end(mut self) {
        let _ = self.client().send(&["SHUTDOWN", "NOSAVE"]);
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn send(&mut self, words: &[&str]) -> std::io::Result<()> {
        self.send_all(&[words])
    }

    /// Commands that are taken one after the other, with nobody's in between.
    fn send_all(&mut self, commands: &[&[&str]]) -> std::io::Result<()> {
        let mut text = String::new();
        for words in commands {
            text += &format!("*{}\r\n", words.len());
            for word in *words {
                text += &format!("${}\r\n{word}\r\n", word.len());
            }
        }
        self.0.get_mut().write_all(text.as_bytes())
    }

    /// An answer of one value, or the number of them.
    fn answer(&mut self) -> String {
        self.answer_or_error().unwrap()
    }

    fn answer_or_error(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let rest = line[1..].trim_end().to_owned();
        match line.as_bytes()[0] {
            b'$' if rest != "-1" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            b'-' => Err(rest),
            _ => Ok(rest),
        }
    }

    fn ask(&mut self, words: &[&str]) -> String {
        self.send(words).unwrap();
        self.answer()
    }

    fn info(&mut self, name: &str) -> String {
        let all = self.ask(&["INFO"]);
        let line = all
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")));
        line.unwrap()[name.len() + 1..].trim().to_owned()
    }

    fn await_no(&mut self, name: &str) {
        let begin = Instant::now();
        while self.info(name) != "0" {
            assert!(begin.elapsed() < PATIENCE, "{name} does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Ends what waits for it also when a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Changes of all kinds, as fast as they are taken, until it is told to stop.
fn change(port: u16, seed: u64, stop: &AtomicBool, made: &AtomicU64) {
    let mut client = Client::connect(port).unwrap();
    let mut state = seed;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    while !stop.load(Relaxed) {
        let batch: Vec<Vec<String>> = (0..16)
            .map(|_| {
                let (key, few) = (random(60_000), random(500));
                let value = "x".repeat(random(400) as usize) + &random(1000).to_string();
                let text = match random(7) {
                    0 | 1 => format!("SET key:{key} {value}"),
                    2 => format!("HSET hash:{few} {key} {value}"),
                    3 => format!("LPUSH list:{few} {value}"),
                    4 => format!("ZADD set:{few} {key} {value}"),
                    5 => format!("DEL key:{key}"),
                    _ => format!("EXPIRE key:{key} 100000"),
                };
                text.split(' ').map(str::to_owned).collect()
            })
            .collect();
        for words in &batch {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            client.send(&words).unwrap();
        }
        for _ in &batch {
            client.answer();
        }
        made.fetch_add(batch.len() as u64, Relaxed);
    }
}

/// Acts while as many clients make changes, and is told how many were made so far.
fn under_load(server: &Server, clients: u64, act: impl FnOnce(&AtomicU64)) {
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for seed in 1..=clients {
            let (stop, made, port) = (&stop, &made, server.port);
            scope.spawn(move || change(port, seed, stop, made));
        }
        act(&made);
    });
}

/// The digest of what a plain server loads.
fn digest_of(dir: &Path, options: &[&str]) -> String {
    let server = Server::start(dir, false, options);
    let digest = server.client().ask(&["DEBUG", "DIGEST"]);
    server.end();
    digest
}

/// As many as `PAGECOW_ROUNDS` says.
fn rounds(usual: usize) -> usize {
    std::env::var("PAGECOW_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

/// Rounds of a save under load, whose file is compared with the digest of its instant.
fn save_rounds(test: &str, rounds: usize, options: &[&str]) {
    if server_is_missing(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), true, options);
    let mut client = server.client();
    client.ask(&["DEBUG", "POPULATE", "60000", "filler", "200"]);
    under_load(&server, 3, |made| {
        for round in 0..rounds {
            let before = made.load(Relaxed);
            let commands: [&[&str]; 2] = [&["DEBUG", "DIGEST"], &["BGSAVE"]];
            client.send_all(&commands).unwrap();
            let digest = client.answer();
            assert!(client.answer().contains("started"));
            client.await_no("rdb_bgsave_in_progress");
            assert_eq!(client.info("rdb_last_bgsave_status"), "ok");
            let file = dir.path().join("dump.rdb");
            let checked = Command::new("redis-check-rdb").arg(&file).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
            let copy = tempfile::tempdir().unwrap();
            std::fs::copy(&file, copy.path().join("dump.rdb")).unwrap();
            assert_eq!(digest_of(copy.path(), &[]), digest, "round {round}");
            assert!(made.load(Relaxed) > before);
        }
    });
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
    let begin = Instant::now();
    while !log().contains("merged:") {
        assert!(begin.elapsed() < PATIENCE, "not merged: {}", log());
        thread::sleep(Duration::from_millis(20));
    }
    server.end();
    assert!(log().matches("fork: child").count() >= rounds, "{}", log());
}

#[test]
fn what_is_saved_is_what_was_held() {
    save_rounds("what_is_saved_is_what_was_held", rounds(3), &[]);
}

#[test]
fn what_is_saved_is_what_was_held_with_threads() {
    let options = ["--io-threads", "3", "--io-threads-do-reads", "yes"];
    save_rounds(
        "what_is_saved_is_what_was_held_with_threads",
        rounds(2),
        &options,
    );
}

/// The append-only file, rewritten under load, has what the server holds in the end.
#[test]
fn what_is_appended_is_what_is_held() {
    let test = "what_is_appended_is_what_is_held";
    if server_is_missing(test) {
        return;
    }
    for preamble in ["yes", "no"] {
        let dir = tempfile::tempdir().unwrap();
        let options = ["--appendonly", "yes", "--aof-use-rdb-preamble", preamble];
        let server = Server::start(dir.path(), true, &options);
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
        assert_eq!(digest_of(dir.path(), &options), digest, "{preamble}");
    }
}

#[test]
fn a_save_during_a_merge_and_a_child_that_is_killed() {
    let test = "a_save_during_a_merge_and_a_child_that_is_killed";
    if server_is_missing(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), true, &[]);
    let mut client = server.client();
    client.ask(&["DEBUG", "POPULATE", "100000", "filler", "300"]);
    under_load(&server, 1, |_| {
        for round in 0..8 {
            client.ask(&["BGSAVE"]);
            if round % 2 == 0 {
                // The child.
                let processes = std::fs::read_dir("/proc").unwrap().flatten();
                let children = processes.filter_map(|entry| {
                    let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
                    let parent = format!("PPid:\t{}\n", server.process.id());
                    let number = entry.file_name().to_str()?.parse::<i32>().ok()?;
                    status.contains(&parent).then_some(number)
                });
                for child in children {
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
    assert_eq!(digest_of(dir.path(), &[]), digest);
}
