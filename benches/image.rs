//! What do images cost, beside writing and reading the same bytes?
//!
//! `cargo bench --bench image -- [--json] [--quick]`, with `--features zstd` also compressed: a
//! table of medians, with the least and the most in brackets, or one JSON object per row. GB/s are
//! of the pages that are saved or loaded; the more the better.
//!
//! - `save`: `image::save` of a snapshot while a thread writes, to a file. Beside it the same bytes
//!   from plain memory, while a thread writes other memory: 256 KiB at a time summed with CRC-32C
//!   and written; fsync, rename, fsync of the directory;
//! - `delta`: `image::save_delta` of one page in a hundred, scattered, as of the one before it;
//!   beside as many pages of plain memory, gathered into 256 KiB and written likewise; no thread
//!   writes. `delta-first` is the first after a thread wrote everything: where a fault saves
//!   neighbours ahead, these are many more pages once, and all are compared;
//! - `load`, `load-chain`: a full image, and one with a delta, beside reading the same bytes into
//!   new memory, summed likewise;
//! - `save-zstd`: compressed on two threads at level 1. Beside it the plain bytes, as for `save`.
//!
//! Files are in `target/`, on whatever disk that is. The words are random: nothing is left out, and
//! compression finds little.

#![allow(unsafe_code, reason = "memory that two threads access")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pagecow::{Arena, Snapshot, image};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

mod support;

use support::engines::Engine;
use support::load::Busy;
use support::{MIB, Options, Report, alternate, each, lacks_memory, mapping, said};

/// How many bytes are summed and written at a time.
const SOME: usize = 256 << 10;
/// One page in this many is in the delta.
const CHANGED: usize = 100;

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    engine: Engine,
    case: &'static str,
    size_mib: usize,
    gb_per_s: f64,
    baseline_gb_per_s: f64,
    ratio: f64,
    bytes: u64,
    baseline_bytes: u64,
}

/// What took so long, and how many bytes the file has.
type Took = Result<(Duration, u64), String>;

fn timed(act: impl FnOnce() -> Result<u64, String>) -> Took {
    let begin = Instant::now();
    let bytes = act()?;
    Ok((begin.elapsed(), bytes))
}

/// A file that takes another's place once it is whole.
struct Plain {
    file: File,
    beside: PathBuf,
    sum: u32,
    bytes: u64,
}

impl Plain {
    fn beside(path: &Path) -> Result<Self, String> {
        let beside = path.with_extension("beside");
        Ok(Self {
            file: File::create(&beside).map_err(said)?,
            beside,
            sum: 0,
            bytes: 0,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(said)
    }

    fn publish(mut self, path: &Path) -> Result<u64, String> {
        self.file.write_all(&self.sum.to_le_bytes()).map_err(said)?;
        self.file.sync_all().map_err(said)?;
        fs::rename(&self.beside, path).map_err(said)?;
        let directory = path.parent().ok_or("no directory")?;
        let synced = File::open(directory).and_then(|it| it.sync_all());
        synced.map_err(said)?;
        Ok(self.bytes)
    }
}

/// Plain memory, 256 KiB at a time.
fn save_plain(bytes: &[u8], path: &Path) -> Result<u64, String> {
    let mut plain = Plain::beside(path)?;
    for some in bytes.chunks(SOME) {
        plain.put(some)?;
    }
    plain.publish(path)
}

/// These pages of plain memory, gathered.
fn save_pages(bytes: &[u8], pages: &[usize], path: &Path) -> Result<u64, String> {
    let page = region::page::size();
    let mut plain = Plain::beside(path)?;
    for pages in pages.chunks(SOME / page) {
        let gathered: Vec<&[u8]> = pages.iter().map(|at| &bytes[at * page..][..page]).collect();
        plain.put(&gathered.concat())?;
    }
    plain.publish(path)
}

/// A file into new memory.
fn load_plain(path: &Path, len: usize) -> Result<u64, String> {
    let mut file = File::open(path).map_err(said)?;
    let bytes = mapping::ordinary(len, false)?;
    let mut sum = 0;
    for some in bytes.chunks_mut(SOME) {
        file.read_exact(some).map_err(said)?;
        sum = crc32c::crc32c_append(sum, some);
    }
    std::hint::black_box(sum);
    // SAFETY: made above, and used no more.
    unsafe { libc::munmap(bytes.as_mut_ptr().cast(), len) };
    Ok(len as u64)
}

/// Random words.
fn fill(bytes: &mut [u8]) {
    let mut rng = StdRng::seed_from_u64(3);
    for word in bytes.as_chunks_mut::<8>().0 {
        *word = rng.random::<u64>().to_ne_bytes();
    }
}

/// Acts while a thread writes the memory at full speed.
fn beside_a_writer(memory: (*mut u8, usize), act: impl FnOnce() -> Took) -> Took {
    // SAFETY: the memory outlives the writer; besides it only snapshots use it.
    let words = unsafe { mapping::words(memory.0, memory.1) };
    Busy::during(words, |_| act())
}

struct Bench<'a> {
    report: &'a mut Report,
    options: &'a Options,
    engine: Engine,
    len: usize,
}

impl Bench<'_> {
    fn compare(
        &mut self,
        case: &'static str,
        saved: usize,
        ours: impl FnMut() -> Took,
        baseline: impl FnMut() -> Took,
    ) -> Result<(), String> {
        let took = alternate(self.options.repetitions(), ours, baseline)?;
        let speed = |took: &Duration| saved as f64 / took.as_secs_f64() / 1e9;
        let ours = each(&took, |((took, _), _)| speed(took));
        let baseline = each(&took, |(_, (took, _))| speed(took));
        let ((_, bytes), (_, baseline_bytes)) = took[0];
        let row = Row {
            bench: "image",
            engine: self.engine,
            case,
            size_mib: self.len / MIB,
            gb_per_s: ours.median(),
            baseline_gb_per_s: baseline.median(),
            ratio: ours.median() / baseline.median(),
            bytes,
            baseline_bytes,
        };
        let cells = vec![
            self.engine.name().to_owned(),
            case.to_owned(),
            (self.len / MIB).to_string(),
            ours.to_string(),
            baseline.to_string(),
            support::number(row.ratio),
            bytes.to_string(),
            baseline_bytes.to_string(),
        ];
        self.report.row(&row, cells)
    }

    fn measure(&mut self, directory: &Path) -> Result<(), String> {
        let len = self.len;
        let path = |name: &str| directory.join(name);
        let [full, delta, other] = ["full", "delta", "other"].map(path);
        let mut arena = self.engine.untouched_arena(len)?;
        fill(&mut arena);
        let plain = mapping::ordinary(len, false)?;
        fill(plain);
        let plain = &*plain;
        // What the writer stores to beside plain memory: what is summed has to stand still.
        let stored_to = mapping::ordinary(len, false)?;
        mapping::fill(stored_to);
        let stored_to = (stored_to.as_mut_ptr(), len);
        let snapshot =
            |arena: &Arena| -> Result<Snapshot, String> { arena.snapshot().map_err(said) };

        let arena_at = (arena.as_mut_ptr(), len);
        let beside = || beside_a_writer(stored_to, || timed(|| save_plain(plain, &other)));
        let save = || {
            beside_a_writer(arena_at, || {
                let snapshot = snapshot(&arena)?;
                timed(|| Ok(image::save(&snapshot, &full).map_err(said)?.bytes))
            })
        };
        self.compare("save", len, save, beside)?;
        #[cfg(feature = "zstd")]
        {
            let save = || {
                beside_a_writer(arena_at, || {
                    let snapshot = snapshot(&arena)?;
                    let mut saver = image::Saver::new().compress(1).threads(2);
                    timed(|| Ok(saver.save(&snapshot, &full).map_err(said)?.bytes))
                })
            };
            self.compare("save-zstd", len, save, beside)?;
        }

        let pages = len / region::page::size();
        let mut rng = StdRng::seed_from_u64(5);
        let mut changed = rand::seq::index::sample(&mut rng, pages, pages / CHANGED).into_vec();
        changed.sort_unstable();
        let saved = changed.len() * region::page::size();
        let mut older = snapshot(&arena)?;
        for case in ["delta-first", "delta"] {
            for page in &changed {
                arena[page * region::page::size()] ^= 1;
            }
            let newer = snapshot(&arena)?;
            let save = || image::save_delta(&newer, &older, &delta).map_err(said);
            self.compare(
                case,
                saved,
                || timed(|| Ok(save()?.bytes)),
                || timed(|| save_pages(plain, &changed, &other)),
            )?;
            image::save(&older, &full).map_err(said)?;
            older = newer;
        }

        save_plain(plain, &other)?;
        let load_plain = || timed(|| load_plain(&other, len));
        self.compare(
            "load",
            len,
            || timed(|| Ok(image::load(&full).map_err(said)?.1.bytes)),
            load_plain,
        )?;
        let chain = [&full, &delta];
        self.compare(
            "load-chain",
            len,
            || timed(|| Ok(image::load_chain(chain).map_err(said)?.1.bytes)),
            load_plain,
        )?;
        for start in [plain.as_ptr().cast_mut(), stored_to.0] {
            // SAFETY: made above, and used no more.
            unsafe { libc::munmap(start.cast(), len) };
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    support::run("image", |options| {
        let header = [
            "engine", "case", "MiB", "GB/s", "beside", "ratio", "bytes", "beside",
        ];
        let mut report = Report::new(options, 2, &header);
        let len = if options.quick { 128 * MIB } else { 1024 * MIB };
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = tempfile::tempdir_in(target).map_err(said)?;
        for engine in Engine::available(&mut report) {
            if let Some(why) = lacks_memory(len * 5) {
                report.skipped(&[engine.name().to_owned()], &why);
                continue;
            }
            let mut bench = Bench {
                report: &mut report,
                options,
                engine,
                len,
            };
            bench.measure(directory.path())?;
        }
        report.print();
        Ok(())
    })
}
