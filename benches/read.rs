//! How fast is a whole snapshot read, beside memcpy?
//!
//! `cargo bench --bench read -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! `reader` and `read-at` fill the same 64 KiB again and again. So does the memcpy beside them,
//! over plain memory of the same size and page kind. `pages` takes one page after the other from
//! the iterator, and is compared with the same memcpy. With `idle` no thread writes, so everything
//! is read from live memory. With `busy` a thread stores at full speed, to a hot set of 500 pages
//! and, one time in 20, to any page: of the arena, or of the memory that memcpy reads. Each
//! measurement reads a snapshot that was just taken. Fork has no row here: its child *has* the
//! memory.

#![allow(unsafe_code, reason = "memory that two threads access")]

use std::hint::black_box;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pagecow::{Arena, Snapshot};
use serde::Serialize;

mod support;

use support::engines::Engine;
use support::load::Busy;
use support::{MIB, Report, alternate, each, lacks_memory, mapping};

const CHUNK: usize = 64 << 10;

const WAYS: [(&str, Way); 3] = [("reader", reader), ("read-at", read_at), ("pages", pages)];
const WRITERS: [(&str, bool); 2] = [("idle", false), ("busy", true)];

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    way: &'static str,
    writer: &'static str,
    size_mib: usize,
    gb_per_s: f64,
    memcpy_gb_per_s: f64,
    ratio: f64,
}

type Way = fn(&Snapshot, &mut [u8]) -> Result<(), String>;

fn reader(snapshot: &Snapshot, buffer: &mut [u8]) -> Result<(), String> {
    let mut reader = snapshot.reader();
    while reader.read(buffer).map_err(|error| error.to_string())? > 0 {
        black_box(&buffer);
    }
    Ok(())
}

fn read_at(snapshot: &Snapshot, buffer: &mut [u8]) -> Result<(), String> {
    for offset in (0..snapshot.len()).step_by(CHUNK) {
        snapshot
            .read_at(offset, buffer)
            .map_err(|error| error.to_string())?;
        black_box(&buffer);
    }
    Ok(())
}

fn pages(snapshot: &Snapshot, _: &mut [u8]) -> Result<(), String> {
    for page in snapshot.pages() {
        black_box(page.map_err(|error| error.to_string())?.bytes());
    }
    Ok(())
}

/// Memory to which another thread may store meanwhile.
struct Plain {
    start: *mut u8,
    len: usize,
}

impl Plain {
    fn copy(&self, buffer: &mut [u8]) {
        for offset in (0..self.len).step_by(CHUNK) {
            // SAFETY: inside the mapping, whose length is a multiple of the buffer's.
            let from = unsafe { self.start.add(offset) };
            // SAFETY: both have `buffer.len()` bytes. The other thread's stores make this a race.
            // It is wanted here, happens in the C library, and no code looks at the bytes.
            unsafe { libc::memcpy(buffer.as_mut_ptr().cast(), from.cast(), buffer.len()) };
            black_box(&buffer);
        }
    }
}

/// Bytes per nanosecond. `busy`: while another thread writes the memory.
fn speed(
    memory: (*mut u8, usize),
    busy: bool,
    act: impl FnOnce() -> Result<Duration, String>,
) -> Result<f64, String> {
    let (start, len) = memory;
    let seconds = || Ok(act()?.as_secs_f64());
    let seconds: Result<f64, String> = if busy {
        // SAFETY: the memory outlives the writer. Besides the writer only snapshots use it, or
        // memcpy (see there).
        let words = unsafe { mapping::words(start, len) };
        Busy::during(words, |_| seconds())
    } else {
        seconds()
    };
    Ok(len as f64 / seconds? / 1e9)
}

/// The speed of reading a snapshot and that of memcpy, measured `times` times.
fn compare(
    times: usize,
    arena: &Arena,
    plain: &Plain,
    busy: bool,
    read: Way,
) -> Result<Vec<(f64, f64)>, String> {
    let mut buffer = vec![0; CHUNK];
    let mut other = buffer.clone();
    alternate(
        times,
        || {
            speed((arena.as_mut_ptr(), arena.len()), busy, || {
                let snapshot = arena.snapshot().map_err(|error| error.to_string())?;
                let begin = Instant::now();
                read(&snapshot, &mut buffer)?;
                Ok(begin.elapsed())
            })
        },
        || {
            speed((plain.start, plain.len), busy, || {
                let begin = Instant::now();
                plain.copy(&mut other);
                Ok(begin.elapsed())
            })
        },
    )
}

fn main() -> ExitCode {
    support::run("read", |options| {
        let header = [
            "engine", "way", "writer", "MiB", "GB/s", "memcpy's", "ratio",
        ];
        let mut report = Report::new(options, 3, &header);
        let len = if options.quick { 64 * MIB } else { 1024 * MIB };
        let engines = Engine::available(&mut report);
        if let Some(why) = lacks_memory(4 * len) {
            report.skipped(&["all".to_owned()], &why);
            report.print();
            return Ok(());
        }
        let bytes = mapping::ordinary(len, false)?;
        mapping::fill(bytes);
        let plain = Plain {
            start: bytes.as_mut_ptr(),
            len,
        };
        for engine in engines {
            let arena = engine.plain_arena(len)?;
            for (writer, busy) in WRITERS {
                for (way, read) in WAYS {
                    let pairs = compare(options.repetitions(), &arena, &plain, busy, read)?;
                    let ours = each(&pairs, |pair| pair.0);
                    let memcpy = each(&pairs, |pair| pair.1);
                    let row = Row {
                        bench: "read",
                        engine,
                        way,
                        writer,
                        size_mib: len / MIB,
                        gb_per_s: ours.median(),
                        memcpy_gb_per_s: memcpy.median(),
                        ratio: ours.median() / memcpy.median(),
                    };
                    let cells = vec![
                        engine.name().to_owned(),
                        way.to_owned(),
                        writer.to_owned(),
                        row.size_mib.to_string(),
                        ours.to_string(),
                        memcpy.to_string(),
                        support::number(row.ratio),
                    ];
                    report.row(&row, cells)?;
                }
            }
        }
        report.print();
        Ok(())
    })
}
