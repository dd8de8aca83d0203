//! Runs that are compressed, on several threads where asked.
//!
//! Each thread reads its part of the snapshot itself. The calling thread hands out the parts, and
//! writes what comes back in their order.

use std::collections::VecDeque;
use std::io::Write;
use std::num::NonZero;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use zstd::bulk::Compressor;

use crate::image::error::{Result, io};
use crate::image::format::Encoding;
use crate::image::plan::{Part, Plan};
use crate::image::sink::{Sink, Stored};
use crate::image::stretches::{Stretch, Stretches};
use crate::image::watch::Watch;
use crate::snapshot::Snapshot;
use crate::snapshot::chunks::Chunks;

#[derive(Clone, Copy, Debug)]
pub(super) struct Compression {
    pub level: i32,
    pub threads: NonZero<usize>,
}

type Runs = Vec<Stored<Vec<u8>>>;

/// A part on its way to a thread, and where what becomes of it goes.
struct Job {
    part: Part,
    reply: SyncSender<Result<Runs>>,
}

/// What one thread needs.
struct Worker<'a> {
    chunks: Chunks<'a>,
    buffer: Vec<u8>,
    compressor: Compressor<'static>,
    keep_zeros: bool,
}

impl Compression {
    /// Puts all of the plan's pages; those that are zeros only if they are to be kept.
    pub fn put<W: Write>(
        self,
        plan: &mut Plan<'_>,
        keep_zeros: bool,
        sink: &mut Sink<W>,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let snapshot = plan.snapshot();
        let worker = || Worker::new(snapshot, self.level, keep_zeros);
        if self.threads.get() == 1 {
            let mut worker = worker()?;
            while let Some(part) = plan.next_part() {
                sink.put(&worker.encode(&part)?)?;
                watch.tell(plan.progress(part.done, sink.written()))?;
            }
            return Ok(());
        }
        // So many that none of the threads waits while this one writes.
        let ahead = 2 * self.threads.get();
        let (jobs, queue) = mpsc::sync_channel(ahead);
        let queue = Mutex::new(queue);
        thread::scope(|scope| {
            // The threads end when it goes, also by an error.
            let jobs = jobs;
            for _ in 0..self.threads.get() {
                let mut worker = worker()?;
                let queue = &queue;
                thread::Builder::new()
                    .name("pagecow-image".to_owned())
                    .spawn_scoped(scope, move || worker.work(queue))
                    .map_err(io("start a thread"))?;
            }
            let mut waiting = VecDeque::new();
            loop {
                while waiting.len() < ahead
                    && let Some(part) = plan.next_part()
                {
                    let (reply, answer) = mpsc::sync_channel(1);
                    waiting.push_back((part.done, answer));
                    jobs.send(Job { part, reply })
                        .expect("the threads wait for jobs");
                }
                let Some((done, answer)) = waiting.pop_front() else {
                    return Ok(());
                };
                let runs = answer.recv().expect("the threads answer each job")?;
                sink.put(&runs)?;
                watch.tell(plan.progress(done, sink.written()))?;
            }
        })
    }
}

impl<'a> Worker<'a> {
    fn new(snapshot: &'a Snapshot, level: i32, keep_zeros: bool) -> Result<Self> {
        Ok(Self {
            chunks: snapshot.chunks(),
            buffer: Vec::new(),
            compressor: Compressor::new(level).map_err(io("compress"))?,
            keep_zeros,
        })
    }

    /// Does jobs until no more can come.
    fn work(&mut self, queue: &Mutex<Receiver<Job>>) {
        let next = || {
            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.recv()
        };
        while let Ok(Job { part, reply }) = next() {
            // Nobody waits for it any more when the save has failed.
            let _ = reply.send(self.encode(&part));
        }
    }

    fn encode(&mut self, part: &Part) -> Result<Runs> {
        let page_size = self.chunks.snapshot().page_size();
        let bytes = self.chunks.read(&part.ranges, &mut self.buffer)?;
        let mut runs = Vec::new();
        for (pages, bytes) in part.ranges.iter().zip(bytes) {
            for stretch in Stretches::of(pages.start, bytes, page_size) {
                let Stretch {
                    first,
                    bytes,
                    zeros,
                } = stretch;
                let count = bytes.len() / page_size;
                if zeros {
                    if self.keep_zeros {
                        runs.push(Stored::new(Encoding::Zeros, first, count, Vec::new()));
                    }
                    continue;
                }
                let small = self.compressor.compress(bytes).map_err(io("compress"))?;
                runs.push(if small.len() < bytes.len() {
                    Stored::new(Encoding::Zstd, first, count, small)
                } else {
                    Stored::new(Encoding::Plain, first, count, bytes.to_vec())
                });
            }
        }
        Ok(runs)
    }
}
