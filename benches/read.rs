//! How fast is a whole snapshot read, beside memcpy?
//!
//! `cargo bench --bench read -- [--json] [--quick]`: a table of medians, with the least and the
//! most in brackets, or one JSON object per row.
//!
//! `reader` and `read-at` fill the same 64 KiB again and again. So does the memcpy beside them,
//! over plain memory of the same size and page kind. `pages` takes one page after the other from
//! the iterator, and is compared with the same memcpy (with the engine that remaps nothing is
//! copied: only the pages' addresses are handed out). `copy-to` saves to a new file in memory, and
//! is compared with write(2) of the plain memory to such a file. With `idle` no thread writes, so
//! everything is read from live memory. With `busy` a thread stores at full speed, to a hot set of
//! 500 pages and, one time in 20, to any page: of the arena, or of the plain memory. Each
//! measurement reads a snapshot that was just taken. Fork has no row here: its child *has* the
//! memory.

#![allow(unsafe_code, reason = "memory that two threads access")]

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pagecow::{Arena, Snapshot};
use serde::Serialize;

mod support;

use support::engines::Engine;
use support::load::Busy;
use support::{MIB, Report, alternate, each, lacks_memory, mapping};

const CHUNK: usize = 64 << 10;
/// How many bytes one write(2) gets.
const WRITTEN: usize = 256 << 10;

const WAYS: [(&str, Way, &str, Beside); 4] = [
    ("reader", reader, "memcpy", Plain::copy),
    ("read-at", read_at, "memcpy", Plain::copy),
    ("pages", pages, "memcpy", Plain::copy),
    ("copy-to", copy_to, "write", Plain::write),
];
const WRITERS: [(&str, bool); 2] = [("idle", false), ("busy", true)];

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    way: &'static str,
    writer: &'static str,
    size_mib: usize,
    gb_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memcpy_gb_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_gb_per_s: Option<f64>,
    ratio: f64,
}

/// Reads all of a snapshot. Where a file is written, it is the one that is given.
type Way = fn(&Snapshot, &mut [u8], &File) -> Result<(), String>;
/// The same with plain memory.
type Beside = fn(&Plain, &mut [u8], &File) -> Result<(), String>;

fn reader(snapshot: &Snapshot, buffer: &mut [u8], _: &File) -> Result<(), String> {
    let mut reader = snapshot.reader();
    while reader.read(buffer).map_err(|error| error.to_string())? > 0 {
        black_box(&buffer);
    }
    Ok(())
}

fn read_at(snapshot: &Snapshot, buffer: &mut [u8], _: &File) -> Result<(), String> {
    for offset in (0..snapshot.len()).step_by(CHUNK) {
        snapshot
            .read_at(offset, buffer)
            .map_err(|error| error.to_string())?;
        black_box(&buffer);
    }
    Ok(())
}

fn pages(snapshot: &Snapshot, _: &mut [u8], _: &File) -> Result<(), String> {
    for page in snapshot.pages() {
        black_box(page.map_err(|error| error.to_string())?.bytes());
    }
    Ok(())
}

fn copy_to(snapshot: &Snapshot, _: &mut [u8], file: &File) -> Result<(), String> {
    snapshot.copy_to(file).map_err(|error| error.to_string())?;
    Ok(())
}

/// An empty file in memory.
fn new_file() -> Result<File, String> {
    // SAFETY: a name that ends with a zero byte.
    let number = unsafe { libc::memfd_create(c"read".as_ptr(), libc::MFD_CLOEXEC) };
    if number < 0 {
        return Err(format!("memfd_create: {}", io::Error::last_os_error()));
    }
    // SAFETY: a descriptor that was just made, and that no other code knows.
    Ok(unsafe { File::from_raw_fd(number) })
}

/// Memory to which another thread may store meanwhile.
struct Plain {
    start: *mut u8,
    len: usize,
}

impl Plain {
    /// By memcpy.
    fn copy(&self, buffer: &mut [u8], _: &File) -> Result<(), String> {
        for offset in (0..self.len).step_by(CHUNK) {
            // SAFETY: inside the mapping, whose length is a multiple of the buffer's.
            let from = unsafe { self.start.add(offset) };
            // SAFETY: both have `buffer.len()` bytes. The other thread's stores make this a race.
            // It is wanted here, happens in the C library, and no code looks at the bytes.
            unsafe { libc::memcpy(buffer.as_mut_ptr().cast(), from.cast(), buffer.len()) };
            black_box(&buffer);
        }
        Ok(())
    }

    /// By write(2).
    fn write(&self, _: &mut [u8], file: &File) -> Result<(), String> {
        for offset in (0..self.len).step_by(WRITTEN) {
            // SAFETY: inside the mapping, whose length is a multiple of that.
            let from = unsafe { self.start.add(offset) };
            // SAFETY: the bytes are mapped. The kernel reads them while the other thread
            // stores to them.
            let written = unsafe { libc::write(file.as_raw_fd(), from.cast(), WRITTEN) };
            if written != WRITTEN as isize {
                return Err(format!("write: {}", io::Error::last_os_error()));
            }
        }
        Ok(())
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

/// The speed of reading a snapshot and that of the same with plain memory, measured `times` times.
fn compare(
    times: usize,
    arena: &Arena,
    plain: &Plain,
    busy: bool,
    read: Way,
    beside: Beside,
) -> Result<Vec<(f64, f64)>, String> {
    let mut buffer = vec![0; CHUNK];
    let mut other = buffer.clone();
    alternate(
        times,
        || {
            speed((arena.as_mut_ptr(), arena.len()), busy, || {
                let snapshot = arena.snapshot().map_err(|error| error.to_string())?;
                let file = new_file()?;
                let begin = Instant::now();
                read(&snapshot, &mut buffer, &file)?;
                Ok(begin.elapsed())
            })
        },
        || {
            speed((plain.start, plain.len), busy, || {
                let file = new_file()?;
                let begin = Instant::now();
                beside(plain, &mut other, &file)?;
                Ok(begin.elapsed())
            })
        },
    )
}

fn main() -> ExitCode {
    support::run("read", |options| {
        let header = [
            "engine", "way", "writer", "MiB", "GB/s", "beside", "GB/s", "ratio",
        ];
        let mut report = Report::new(options, 3, &header);
        let len = if options.quick { 64 * MIB } else { 1024 * MIB };
        let engines = Engine::available(&mut report);
        if let Some(why) = lacks_memory(5 * len) {
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
                for (way, read, beside, plainly) in WAYS {
                    let pairs =
                        compare(options.repetitions(), &arena, &plain, busy, read, plainly)?;
                    let ours = each(&pairs, |pair| pair.0);
                    let others = each(&pairs, |pair| pair.1);
                    let row = Row {
                        bench: "read",
                        engine,
                        way,
                        writer,
                        size_mib: len / MIB,
                        gb_per_s: ours.median(),
                        memcpy_gb_per_s: (beside == "memcpy").then(|| others.median()),
                        write_gb_per_s: (beside == "write").then(|| others.median()),
                        ratio: ours.median() / others.median(),
                    };
                    let cells = vec![
                        engine.name().to_owned(),
                        way.to_owned(),
                        writer.to_owned(),
                        row.size_mib.to_string(),
                        ours.to_string(),
                        beside.to_owned(),
                        others.to_string(),
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
