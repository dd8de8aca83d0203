//! A client of a server, with as much of its protocol as the tests need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// After which something is taken for hanging.
pub const PATIENCE: Duration = Duration::from_secs(600);

pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    pub fn send(&mut self, words: &[&str]) -> std::io::Result<()> {
        self.send_all(&[words])
    }

    /// Commands that are taken one after the other, with nobody's in between.
    pub fn send_all(&mut self, commands: &[&[&str]]) -> std::io::Result<()> {
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
    pub fn answer(&mut self) -> String {
        self.answer_or_error().unwrap()
    }

    pub fn answer_or_error(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the server has closed the connection");
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

    pub fn ask(&mut self, words: &[&str]) -> String {
        self.send(words).unwrap();
        self.answer()
    }

    pub fn info(&mut self, name: &str) -> String {
        let all = self.ask(&["INFO"]);
        value_in(&all, name).to_owned()
    }

    /// Waits until this value is 0.
    pub fn await_no(&mut self, name: &str) {
        self.await_that(name, |value| value == "0");
    }

    pub fn await_that(&mut self, name: &str, holds: impl Fn(&str) -> bool) {
        let begin = Instant::now();
        loop {
            let value = self.info(name);
            if holds(&value) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{name} stays {value}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A value in the answer to INFO.
pub fn value_in<'a>(info: &'a str, name: &str) -> &'a str {
    let mut lines = info.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap().trim()
}
