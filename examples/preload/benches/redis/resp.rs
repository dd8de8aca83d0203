//! The servers' protocol: commands, and answers of one value.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take. A server that saves still answers.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn command(words: &[&[u8]], into: &mut Vec<u8>) {
    into.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        into.extend(format!("${}\r\n", word.len()).bytes());
        into.extend(*word);
        into.extend(b"\r\n");
    }
}

/// An answer at the beginning of what was received.
pub struct Answer<'a> {
    pub text: &'a [u8],
    pub is_error: bool,
    /// With what is around the text.
    pub len: usize,
}

/// `None` while it is not complete.
pub fn answer(bytes: &[u8]) -> io::Result<Option<Answer<'_>>> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let unknown = || io::Error::other("the server answers in a way that is not known here");
    let (kind, line, begin) = (bytes[0], &bytes[1..end], end + 2);
    match kind {
        b'$' if line != b"-1" => {
            let len: usize = std::str::from_utf8(line)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(unknown)?;
            Ok((bytes.len() >= begin + len + 2).then(|| Answer {
                text: &bytes[begin..begin + len],
                is_error: false,
                len: begin + len + 2,
            }))
        }
        b'+' | b'-' | b':' | b'$' => Ok(Some(Answer {
            text: line,
            is_error: kind == b'-',
            len: begin,
        })),
        _ => Err(unknown()),
    }
}

/// A client that waits for its answers.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    pub fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let received = Vec::new();
        Ok(Self { stream, received })
    }

    pub fn ask(&mut self, words: &[&str]) -> io::Result<String> {
        let mut bytes = Vec::new();
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        command(&words, &mut bytes);
        self.send(&bytes)?;
        self.next_answer()
    }

    /// Commands, of whose answers `next_answer` must be called for each.
    pub fn send(&mut self, commands: &[u8]) -> io::Result<()> {
        self.stream.write_all(commands)
    }

    pub fn next_answer(&mut self) -> io::Result<String> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(answer) = answer(&self.received)? {
                let text = String::from_utf8_lossy(answer.text).into_owned();
                let (is_error, len) = (answer.is_error, answer.len);
                self.received.drain(..len);
                return if is_error {
                    Err(io::Error::other(format!("the server says: {text}")))
                } else {
                    Ok(text)
                };
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::Error::other("the server closed the connection")),
                len => self.received.extend(&buffer[..len]),
            }
        }
    }
}
