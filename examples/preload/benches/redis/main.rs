//! What does a save cost the clients of a Redis server, as it is and with the library preloaded?
//!
//! `cargo bench -p pagecow-preload --bench redis -- [--quick] [--json] [--plot FILE.svg]`, and
//! `--help` for more. It needs a `redis-server`, and memory for 2.2 times the data.
//!
//! Servers run in turn, without the library and with it, each with the same keys and under the same
//! load: either one GET each millisecond, or SETs of keys at random, at a rate that the server
//! without the library can hold. Requests are sent when it is time to, whether or not earlier ones
//! are answered, and latency counts from when they were due. BGSAVE is one of them. A request
//! belongs to the part of a save in which it was due.
//!
//! `save_*` is from BGSAVE until the child has ended, `merge_*` from there until the library has
//! merged what was frozen (a plain server has nothing to merge: there it is the time after the
//! save), `rest_*` a while before the save. `cpu_us_per_op_*` is the processor time of the server's
//! threads, the library's too, by requests that were answered meanwhile. `extra_mib` is explained
//! in `machine.rs`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;

mod args;
#[path = "../../tests/common/mod.rs"]
mod common;
mod connection;
mod data;
#[path = "../../../../benches/support/figures.rs"]
mod figures;
mod machine;
mod measure;
mod open_loop;
mod plot;
mod resp;
mod row;
mod server;
mod table;

use args::{Args, Load, Times};
use data::{Random, Values};
use measure::{Save, What};
use open_loop::{OpenLoop, Pace};
use row::{Row, Span};
use server::{Mode, Server};

const MIB: u64 = 1 << 20;
/// Each client of the load has one.
const CONNECTIONS: usize = 8;
/// Of the rate that the plain server takes, so much is asked of both.
const SHARE: f64 = 1.0 / 3.0;
const PROBE: Duration = Duration::from_millis(1);
/// Memory and disk that a server takes while it saves, as times of the data, in tenths.
const TENTHS_OF_DATA: u64 = 22;
/// What is lacking here is not a failure of the benchmark.
const CANNOT_RUN: u8 = 2;

/// Servers of one size have the same keys and the same rate.
struct Size {
    bytes: u64,
    keys: Option<u64>,
    rate: Option<f64>,
}

struct Bench {
    args: Args,
    times: Times,
    library: PathBuf,
    values: Arc<Values>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn run(&self) -> io::Result<()> {
        let mut rows = Vec::new();
        let mut shown = Vec::new();
        let sizes = self.args.sizes();
        let largest = sizes.iter().max();
        for bytes in &sizes {
            let mut size = Size {
                bytes: *bytes,
                keys: None,
                rate: self.args.rate.map(f64::from),
            };
            for load in &self.args.load {
                let last = largest == Some(bytes) && self.args.load.last() == Some(load);
                for mode in [Mode::Plain, Mode::Preloaded] {
                    let mut saves = self.saves_of(mode, *load, &mut size)?;
                    if last && self.args.plot.is_some() {
                        shown.push(plot::Panels::of(mode, &saves));
                    }
                    rows.extend(saves.drain(..).map(|save| save.row));
                }
            }
        }
        if !self.args.json {
            table::print(&rows);
        }
        if let Some(path) = &self.args.plot {
            let svg = plot::draw(&shown).map_err(|error| io::Error::other(error.to_string()))?;
            fs::write(path, svg)?;
            eprintln!("{}", path.display());
        }
        Ok(())
    }

    /// A fresh server, filled, and its saves.
    fn saves_of(&self, mode: Mode, load: Load, size: &mut Size) -> io::Result<Vec<Save>> {
        let library = (mode == Mode::Preloaded).then_some(self.library.as_path());
        let mut server = Server::start(&self.args.server, self.dir.path(), library)?;
        let data_mib = size.bytes / MIB;
        eprintln!("{mode:?}, {data_mib} MiB, load: {}", load.name());
        let keys = server.fill(&self.values, size.keys, size.bytes)?;
        size.keys = Some(keys);
        let mut client = match load {
            Load::None => {
                let mut random = Random::new(3);
                OpenLoop::start(server.port, 1, Pace::Every(PROBE), move |into| {
                    data::get(random.below(keys), into);
                })?
            }
            Load::Writes => {
                let rate = match size.rate {
                    Some(rate) => rate,
                    None => self.calibrate(&server, keys)?,
                };
                size.rate = Some(rate);
                self.writes(
                    &server,
                    keys,
                    Pace::Every(Duration::from_secs_f64(1.0 / rate)),
                )?
            }
        };
        let version = server.version()?;
        let what = What {
            mode,
            version: &version,
            data_mib,
            load,
            times: &self.times,
        };
        let saves = (0..self.args.saves())
            .map(|_| {
                let save = measure::save(&mut server, &mut client, &what)?;
                self.tell(&save.row, size.rate)?;
                Ok(save)
            })
            .collect();
        drop(client);
        drop(server);
        self.clear()?;
        saves
    }

    fn writes(&self, server: &Server, keys: u64, pace: Pace) -> io::Result<OpenLoop> {
        let (values, mut random) = (Arc::clone(&self.values), Random::new(4));
        OpenLoop::start(server.port, CONNECTIONS, pace, move |into| {
            let key = random.below(keys);
            values.set(key, &mut random, into);
        })
    }

    /// The rate at which both servers are written to.
    fn calibrate(&self, server: &Server, keys: u64) -> io::Result<f64> {
        let mut client = self.writes(server, keys, Pace::AsAnswered)?;
        let from = Instant::now();
        thread::sleep(self.times.calibrate);
        let span = Span {
            from,
            to: Instant::now(),
        };
        let most = span.per_second(&client.take()?);
        let rate = (most * SHARE).round().max(1.0);
        eprintln!("the plain server takes {most:.0} writes/s; both get {rate:.0}");
        Ok(rate)
    }

    /// Prints the row, and a warning where its latencies do not mean much.
    fn tell(&self, row: &Row, rate: Option<f64>) -> io::Result<()> {
        if self.args.json {
            println!("{}", serde_json::to_string(row)?);
        }
        if let Some(rate) = rate.filter(|_| row.load == Load::Writes)
            && row.mode == Mode::Plain
            && row.ops_per_s_save < 0.95 * rate
        {
            let (got, mib) = (row.ops_per_s_save, row.data_mib);
            eprintln!(
                "warning: the plain server of {mib} MiB took {got:.0} of {rate:.0} writes/s while \
                 it saved; give a lower --rate"
            );
        }
        Ok(())
    }

    /// The next server begins without files.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.dir.path())? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

/// Why the benchmark cannot run here.
fn lacking(args: &Args, dir: &Path) -> io::Result<Option<String>> {
    let found = Command::new(&args.server)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if let Err(error) = found {
        let program = args.server.display();
        return Ok(Some(format!("no {program}: {error}")));
    }
    let most = args.sizes().into_iter().max().unwrap_or_default();
    let needed = most * TENTHS_OF_DATA / 10;
    for (what, free) in [
        ("memory", machine::available()?),
        ("disk", machine::free_on_disk(dir)?),
    ] {
        if free < needed {
            let [most, needed, free] = [most, needed, free].map(|bytes| bytes / MIB);
            return Ok(Some(format!(
                "a server with {most} MiB needs {needed} MiB of {what} to save, and {free} MiB \
                 are free; give smaller sizes with --size"
            )));
        }
    }
    Ok(None)
}

fn warn_if_busy() {
    if let Some((wanted, processors)) = machine::busy()
        && wanted > processors as f64 / 2.0
    {
        eprintln!(
            "warning: {wanted} threads of others wanted {processors} processors in the last \
             minute; latencies are theirs, too"
        );
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let run = || {
        let dir = match &args.dir {
            Some(dir) => tempfile::tempdir_in(dir)?,
            None => tempfile::tempdir()?,
        };
        if let Some(why) = lacking(&args, dir.path())? {
            eprintln!("redis: {why}");
            return Ok(ExitCode::from(CANNOT_RUN));
        }
        // Before the library is built, which takes processors too.
        warn_if_busy();
        let bench = Bench {
            times: args.times(),
            library: common::library(),
            values: Arc::new(Values::new()),
            dir,
            args,
        };
        bench.run().map(|()| ExitCode::SUCCESS)
    };
    run().unwrap_or_else(|error: io::Error| {
        eprintln!("redis: {error}");
        ExitCode::FAILURE
    })
}
