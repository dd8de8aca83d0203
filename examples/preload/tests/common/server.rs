//! Servers of the test's own: on free ports, ended with the test.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, PATIENCE};
use crate::common;

/// A server program.
pub struct Program {
    path: PathBuf,
    /// The name by which it checks files instead.
    checks: &'static str,
    /// Preloaded behind the library: the allocator, where the program has none of its own.
    behind: Option<&'static str>,
    /// Commands for debugging have to be asked for.
    asks_for_debug: bool,
}

impl Program {
    /// The `redis-server` that `PAGECOW_REDIS_SERVER` names, otherwise the installed one. Where
    /// there is none, says so, and there is nothing to test.
    pub fn redis(test: &str) -> Option<Self> {
        let path = std::env::var_os("PAGECOW_REDIS_SERVER").unwrap_or("redis-server".into());
        let Ok(version) = Command::new(&path).arg("--version").output() else {
            println!("{test}: skipped: no redis-server");
            return None;
        };
        let version = String::from_utf8(version.stdout).unwrap();
        let major = version.split_once("v=").unwrap().1.split('.').next();
        Some(Self {
            path: path.into(),
            checks: "redis-check-rdb",
            behind: None,
            asks_for_debug: major.unwrap().parse::<u32>().unwrap() >= 7,
        })
    }

    /// The `valkey-server` that `PAGECOW_VALKEY_SERVER` names.
    pub fn valkey(test: &str) -> Option<Self> {
        let Some(path) = std::env::var_os("PAGECOW_VALKEY_SERVER") else {
            println!("{test}: did not run, PAGECOW_VALKEY_SERVER names no server");
            return None;
        };
        Some(Self {
            path: path.into(),
            checks: "valkey-check-rdb",
            behind: Some("libjemalloc.so.2"),
            asks_for_debug: true,
        })
    }

    /// Whether it takes `file` for a saved one.
    pub fn check(&self, file: &Path) {
        let mut command = Command::new(&self.path);
        let checked = command.arg0(self.checks).arg(file).output().unwrap();
        let text = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{checked:?}");
        assert!(text.contains("RDB looks OK!"), "{text}");
    }
}

pub struct Server {
    process: Child,
    pub port: u16,
}

impl Server {
    /// On a free port, with its files in `dir`.
    pub fn start(program: &Program, dir: &Path, preloaded: bool, options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let mut command = Command::new(&program.path);
        command.args(["--port", &port.to_string(), "--save", "", "--dir"]);
        command.arg(dir);
        if program.asks_for_debug {
            command.args(["--enable-debug-command", "yes"]);
        }
        command.args(options).stdout(Stdio::null());
        let mut preload = program.behind.unwrap_or_default().to_owned();
        if preloaded {
            preload = format!("{} {preload}", common::library().to_str().unwrap());
            command.env("PAGECOW_LOG", dir.join("log"));
        }
        command.env("LD_PRELOAD", preload.trim());
        let process = command.spawn().unwrap();
        let mut server = Self { process, port };
        let begin = Instant::now();
        loop {
            // It says so when it still loads.
            if let Ok(mut client) = Client::connect(port)
                && client.send(&["PING"]).is_ok()
                && client.answer_or_error().is_ok()
            {
                return server;
            }
            if let Some(status) = server.process.try_wait().unwrap() {
                panic!("no server: {status}");
            }
            assert!(begin.elapsed() < PATIENCE, "no answer");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port).unwrap()
    }

    /// The processes that it has forked.
    pub fn children(&self) -> Vec<i32> {
        let parent = format!("PPid:\t{}\n", self.process.id());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let children = processes.filter_map(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            status.contains(&parent).then_some(number)
        });
        children.collect()
    }

    pub fn end(mut self) {
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

/// The digest of what a plain server loads.
pub fn digest_of(program: &Program, dir: &Path, options: &[&str]) -> String {
    let server = Server::start(program, dir, false, options);
    let digest = server.client().ask(&["DEBUG", "DIGEST"]);
    server.end();
    digest
}

/// The digest of what a plain server loads from a copy of `file`.
pub fn digest_of_file(program: &Program, file: &Path) -> String {
    program.check(file);
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(file, dir.path().join("dump.rdb")).unwrap();
    digest_of(program, dir.path(), &[])
}

pub fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap()
}

/// Waits until the library of the server with its files in `dir` has merged what it froze.
pub fn await_merge(dir: &Path) {
    let begin = Instant::now();
    while !log(dir).contains("merged:") {
        assert!(begin.elapsed() < PATIENCE, "not merged: {}", log(dir));
        thread::sleep(Duration::from_millis(20));
    }
}
