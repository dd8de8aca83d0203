//! A client that sends when it is time to, whether or not earlier requests are answered. Latency
//! counts from when a request was to be sent, so a server that stands still is seen by all requests
//! that were due meanwhile.

use std::io;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::connection::{Connection, wait};
use crate::resp::{PATIENCE, command};

/// Above other threads, as far as the system allows it: this one says what time it is.
const NICE: libc::c_int = -15;

#[derive(Clone, Copy)]
pub struct Sample {
    /// When the request was to be sent.
    pub at: Instant,
    pub took: Duration,
}

impl Sample {
    pub fn answered(&self) -> Instant {
        self.at + self.took
    }
}

#[derive(Clone, Copy)]
pub enum Pace {
    /// A request each time so much time has passed.
    Every(Duration),
    /// A request on each connection as soon as the one before is answered.
    AsAnswered,
}

enum Order {
    Save(Sender<Instant>),
    Take(Sender<Vec<Sample>>),
}

/// The client, in a thread of its own. Dropping it ends it.
pub struct OpenLoop {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl OpenLoop {
    /// `request` appends the next request.
    pub fn start(
        port: u16,
        connections: usize,
        pace: Pace,
        request: impl FnMut(&mut Vec<u8>) + Send + 'static,
    ) -> io::Result<Self> {
        let connections = (0..connections)
            .map(|_| Connection::open(port))
            .collect::<io::Result<Vec<_>>>()?;
        let (orders, inbox) = channel();
        let mut run = Run {
            connections,
            pace,
            request,
            samples: Vec::new(),
            turn: 0,
            taking: None,
        };
        Ok(Self {
            orders: Some(orders),
            thread: Some(std::thread::spawn(move || run.run(&inbox))),
        })
    }

    /// Sends BGSAVE between the other requests. Returns when.
    pub fn save(&mut self) -> io::Result<Instant> {
        self.order(Order::Save)
    }

    /// The requests since this was called before, as soon as those that are due now are answered.
    pub fn take(&mut self) -> io::Result<Vec<Sample>> {
        self.order(Order::Take)
    }

    fn order<T>(&mut self, order: impl FnOnce(Sender<T>) -> Order) -> io::Result<T> {
        let (reply, answer) = channel();
        if let Some(orders) = &self.orders {
            let _ = orders.send(order(reply));
        }
        answer.recv().map_err(|_| self.end())
    }

    /// Why the thread has ended.
    fn end(&mut self) -> io::Error {
        self.orders = None;
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(Err(error))) => error,
            _ => io::Error::other("the client ended"),
        }
    }
}

impl Drop for OpenLoop {
    fn drop(&mut self) {
        self.end();
    }
}

struct Run<F> {
    connections: Vec<Connection>,
    pace: Pace,
    request: F,
    samples: Vec<Sample>,
    /// The connection that sends next.
    turn: usize,
    /// Requests until this instant are to be handed over.
    taking: Option<(Instant, Sender<Vec<Sample>>)>,
}

impl<F: FnMut(&mut Vec<u8>)> Run<F> {
    fn run(&mut self, inbox: &Receiver<Order>) -> io::Result<()> {
        prefer_this_thread();
        let mut due = Instant::now();
        loop {
            match inbox.try_recv() {
                Ok(Order::Save(reply)) => {
                    let now = Instant::now();
                    let append = |into: &mut Vec<u8>| command(&[b"BGSAVE"], into);
                    self.connections[self.turn].add(now, append);
                    let _ = reply.send(now);
                }
                Ok(Order::Take(reply)) => self.taking = Some((Instant::now(), reply)),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            self.add_what_is_due(&mut due);
            for connection in &mut self.connections {
                connection.send()?;
            }
            let pause = match self.pace {
                Pace::Every(_) => due.saturating_duration_since(Instant::now()),
                Pace::AsAnswered => Duration::from_millis(1),
            };
            wait(&self.connections, pause)?;
            let samples = &mut self.samples;
            for connection in &mut self.connections {
                connection.receive(|at| {
                    let took = at.elapsed();
                    samples.push(Sample { at, took });
                })?;
            }
            self.hand_over()?;
        }
    }

    fn add_what_is_due(&mut self, due: &mut Instant) {
        let now = Instant::now();
        match self.pace {
            Pace::Every(gap) => {
                while *due <= now {
                    self.connections[self.turn].add(*due, &mut self.request);
                    self.turn = (self.turn + 1) % self.connections.len();
                    *due += gap;
                }
            }
            Pace::AsAnswered => {
                for connection in &mut self.connections {
                    if connection.oldest().is_none() {
                        connection.add(now, &mut self.request);
                    }
                }
            }
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let oldest = self.connections.iter().filter_map(Connection::oldest).min();
        if oldest.is_some_and(|at| at.elapsed() > PATIENCE) {
            return Err(io::Error::other(
                "the server cannot hold this rate; give a lower one with --rate",
            ));
        }
        if let Some((until, reply)) = self.taking.take() {
            if oldest.is_some_and(|at| at <= until) {
                self.taking = Some((until, reply));
            } else {
                let _ = reply.send(std::mem::take(&mut self.samples));
            }
        }
        Ok(())
    }
}

fn prefer_this_thread() {
    // SAFETY: plain system calls. Where the system refuses them the thread waits its turn.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        // Wake-ups in nanoseconds, not within the usual 50 microseconds.
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
    }
}
