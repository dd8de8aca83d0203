//! A connection of a client that never waits for it alone.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::resp;

pub struct Connection {
    stream: TcpStream,
    /// What is to be sent, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// What has come of answers that are not complete.
    incoming: Vec<u8>,
    /// When the requests that are not answered yet were due.
    waiting: VecDeque<Instant>,
}

impl Connection {
    pub fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            waiting: VecDeque::new(),
        })
    }

    /// A request that is due at `at`. It goes out with the next `send`.
    pub fn add(&mut self, at: Instant, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.outgoing);
        self.waiting.push_back(at);
    }

    /// When the oldest request was due that is not answered.
    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.front().copied()
    }

    /// Sends what the system takes.
    pub fn send(&mut self) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    /// Takes what has come. `answered` is told when each request was due whose answer is complete.
    pub fn receive(&mut self, mut answered: impl FnMut(Instant)) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("the server closed the connection")),
                Ok(len) => {
                    self.incoming.extend(&buffer[..len]);
                    self.take_answers(&mut answered)?;
                    if len < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_answers(&mut self, answered: &mut impl FnMut(Instant)) -> io::Result<()> {
        let mut taken = 0;
        while taken < self.incoming.len()
            && let Some(answer) = resp::answer(&self.incoming[taken..])?
        {
            if answer.is_error {
                let text = String::from_utf8_lossy(answer.text);
                return Err(io::Error::other(format!("the server says: {text}")));
            }
            taken += answer.len;
            let at = self.waiting.pop_front();
            answered(at.ok_or_else(|| io::Error::other("an answer that nobody asked for"))?);
        }
        self.incoming.drain(..taken);
        Ok(())
    }
}

/// Until there is something to do for one of them, or this time has passed.
pub fn wait(connections: &[Connection], pause: Duration) -> io::Result<()> {
    let mut looks: Vec<libc::pollfd> = connections
        .iter()
        .map(|connection| libc::pollfd {
            fd: connection.stream.as_raw_fd(),
            events: if connection.outgoing.is_empty() {
                libc::POLLIN
            } else {
                libc::POLLIN | libc::POLLOUT
            },
            revents: 0,
        })
        .collect();
    let pause = libc::timespec {
        tv_sec: pause.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(pause.subsec_nanos()),
    };
    // SAFETY: an array of as many elements, and a time.
    let found = unsafe {
        libc::ppoll(
            looks.as_mut_ptr(),
            looks.len() as libc::nfds_t,
            &pause,
            std::ptr::null(),
        )
    };
    match io::Error::last_os_error() {
        error if found < 0 && error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
