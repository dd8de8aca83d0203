//! A thread that changes an arena all the time, and snapshots of it at moments between two writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pagecow::{Arena, Error, Snapshot, Snapshotter};

use crate::records;

/// Writes between two pauses of a millisecond.
const BURST: usize = 20;

/// Writes until it is dropped.
pub struct Writer {
    data: Arc<Mutex<Arena>>,
    snapshotter: Snapshotter,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Goes on from what the arena holds.
    pub fn start(arena: Arena) -> Self {
        let snapshotter = arena.snapshotter();
        let data = Arc::new(Mutex::new(arena));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (data, stop) = (data.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..BURST {
                        let mut arena = lock(&data);
                        let page_size = arena.page_size();
                        records::write(&mut arena, page_size);
                    }
                    // Without it the lock would hardly ever be free.
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self {
            data,
            snapshotter,
            stop,
            thread: Some(thread),
        }
    }

    /// A snapshot of a moment between two writes, and the number of the last one.
    pub fn snapshot(&self) -> Result<(Snapshot, u64), Error> {
        let snapshot = self.snapshotter.snapshot_with(|| lock(&self.data))?;
        let mut first = [0; 8];
        snapshot.read_at(0, &mut first)?;
        Ok((snapshot, records::last_write(first)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(data: &Mutex<Arena>) -> MutexGuard<'_, Arena> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}
