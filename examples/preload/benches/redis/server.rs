//! A server in a process of its own, on a free port of the loopback.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::data::{Random, Values};
use crate::resp::{Client, PATIENCE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Plain,
    Preloaded,
}

pub struct Server {
    process: Child,
    pub port: u16,
    pub client: Client,
    /// Of the library; a plain server has none.
    log: Option<PathBuf>,
}

impl Server {
    /// With its files in `dir`, and with `library` preloaded if there is one.
    pub fn start(program: &Path, dir: &Path, library: Option<&Path>) -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(dir);
        command.stdout(Stdio::null()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PAGECOW_LOG") {
                command.env_remove(name);
            }
        }
        let log = library.map(|library| {
            let log = dir.join("pagecow.log");
            command.env("LD_PRELOAD", library).env("PAGECOW_LOG", &log);
            log
        });
        // SAFETY: the call is one that may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // However this process ends, the server does not stay.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut process = command.spawn()?;
        let begin = Instant::now();
        let client = loop {
            if let Ok(mut client) = Client::connect(port)
                && client.ask(&["PING"]).is_ok()
            {
                break client;
            }
            if let Some(status) = process.try_wait()? {
                return Err(io::Error::other(format!("the server ended: {status}")));
            }
            if begin.elapsed() > PATIENCE {
                let _ = process.kill();
                let _ = process.wait();
                return Err(io::Error::other("the server does not answer"));
            }
            thread::sleep(Duration::from_millis(20));
        };
        let server = Self {
            process,
            port,
            client,
            log,
        };
        if server.log.is_some() && !server.log_text()?.contains(": serving from ") {
            let log = server.log_text()?;
            let why = format!("the library does not serve the server: {}", log.trim());
            return Err(io::Error::other(why));
        }
        Ok(server)
    }

    pub fn process(&self) -> u32 {
        self.process.id()
    }

    /// A field of INFO.
    pub fn info(&mut self, name: &str) -> io::Result<String> {
        let all = self.client.ask(&["INFO"])?;
        all.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .ok_or_else(|| io::Error::other(format!("INFO has no {name}")))
    }

    pub fn info_number(&mut self, name: &str) -> io::Result<u64> {
        let value = self.info(name)?;
        let number = value.parse();
        number.map_err(|_| io::Error::other(format!("{name} is {value}")))
    }

    /// Name, version and allocator.
    pub fn version(&mut self) -> io::Result<String> {
        let allocator = self.info("mem_allocator")?;
        let (name, version) = match self.info("valkey_version") {
            Ok(version) => ("Valkey", version),
            Err(_) => ("Redis", self.info("redis_version")?),
        };
        Ok(format!("{name} {version}, {allocator}"))
    }

    /// Writes keys from 0 up to `keys`, or where that is not known until the server holds `bytes`.
    /// Returns how many there are.
    pub fn fill(&mut self, values: &Values, keys: Option<u64>, bytes: u64) -> io::Result<u64> {
        const BATCH: u64 = 1024;
        let mut random = Random::new(2);
        let mut key = 0;
        let mut commands = Vec::new();
        loop {
            let left = match keys {
                Some(keys) => keys - key,
                None if self.info_number("used_memory")? >= bytes => 0,
                None => BATCH,
            };
            let batch = left.min(BATCH);
            if batch == 0 {
                return Ok(key);
            }
            commands.clear();
            for key in key..key + batch {
                values.set(key, &mut random, &mut commands);
            }
            self.client.send(&commands)?;
            for _ in 0..batch {
                self.client.next_answer()?;
            }
            key += batch;
        }
    }

    /// The child that saves, when there is one.
    pub fn child(&self) -> io::Result<Option<u32>> {
        let process = self.process();
        let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
        Ok(text.split_whitespace().find_map(|word| word.parse().ok()))
    }

    /// How many merges the library has finished; 0 without it.
    pub fn merges(&self) -> io::Result<usize> {
        Ok(self.log_text()?.matches(": merged: ").count())
    }

    pub fn has_library(&self) -> bool {
        self.log.is_some()
    }

    /// For a message: what the library has said last.
    pub fn last_of_log(&self) -> String {
        let text = self.log_text().unwrap_or_default();
        text.lines().last().unwrap_or("nothing").to_owned()
    }

    fn log_text(&self) -> io::Result<String> {
        self.log
            .as_ref()
            .map_or(Ok(String::new()), fs::read_to_string)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
