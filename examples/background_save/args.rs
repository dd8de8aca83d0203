//! The command line, and the job that it asks for.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, ValueEnum};
use pagecow::{Engine, Window};

use crate::base::Base;
use crate::failure::Failure;
use crate::plan::Pattern;

const SIGNALS: &str = "\
Signals:
  SIGINT, SIGTERM  stop: the writers are joined, half-written files are removed, and the --out file
                   stays what it was before the save in progress; exit code 130 or 143
  SIGUSR1          save again now: one more snapshot is taken under full load, checked, and saved
                   to --out. During the last window this is done at once, and the window starts
                   again. Before that it is done after the step in progress, but not before the
                   first save. Signals that arrive before it is done count as one. Once pagecow's
                   row is measured, nothing is left to save.

Exit code: 0 when every row is verified, 1 when one is not or the run failed, 2 for bad arguments.";

/// Pages in one fault where everything is written, when no other number is asked for.
const DENSE_WINDOW: usize = 64;
/// The rate of a writer with `--load hot`, when no other is asked for.
const HOT_RATE: u32 = 200_000;

/// Fill memory, change it all the time, and save a frozen image of it in the background: pagecow
/// beside fork().
#[derive(Debug, Parser)]
#[command(version, after_help = SIGNALS, max_term_width = 120)]
struct Args {
    /// Bytes of memory, as in 4096, 256M or 1G [default: the input's size, or 256M]
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,

    /// Start from the contents of this file; what is saved is then as long as this file
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Save pagecow's snapshot here [default: a temporary file that is removed]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Save pagecow's snapshot as an image (docs/images.md), which is checked by loading it;
    /// without it the file is the memory, byte for byte. fork() saves that in any case
    #[arg(long)]
    image: bool,

    /// Threads that write [default: one for each core but one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    writers: Option<u16>,

    /// Which pages the writers change
    #[arg(long, value_enum, default_value = "uniform")]
    load: Pattern,

    /// Writes per second of each writer [default: 200000 with --load hot, else as many as it can]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// How long to watch the writers before the first snapshot, and again after the last
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_seconds)]
    seconds: f64,

    /// What to compare with
    #[arg(long, value_enum, default_value = "fork")]
    versus: Versus,

    /// How pagecow freezes memory; "best" is userfaultfd where the system allows it, else mprotect
    /// [default: remap where the system allows it, else mprotect; mprotect with --stand-ready or
    /// --window, which remap does without]
    #[arg(long, value_parser = engine_parser())]
    engine: Option<Engine>,

    /// How many neighbouring pages pagecow saves in one fault, or "adaptive" to let it find out
    /// [default: 64 with --load uniform, which writes everything, else adaptive]
    #[arg(long, value_name = "PAGES", value_parser = parse_window)]
    window: Option<Window>,

    /// Let pagecow's arena stand ready for snapshots: pages that are not written for a while are
    /// armed ahead, while the writers run. They then run for 4 times --seconds before the snapshot
    /// that is taken under load
    #[arg(long)]
    stand_ready: bool,

    /// Print one JSON object per row, and nothing else, to standard output
    #[arg(long)]
    json: bool,

    /// Measure fork() in this process and print that row as JSON.
    #[arg(long, hide = true)]
    fork_row: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Versus {
    Fork,
    None,
}

/// What to run, checked.
#[derive(Debug)]
pub struct Job {
    /// Bytes of memory, in whole pages.
    pub size: usize,
    pub page_size: usize,
    /// How many of the bytes are saved.
    pub saved_len: u64,
    pub input: Option<PathBuf>,
    pub out: Option<PathBuf>,
    /// Whether pagecow saves an image.
    pub image: bool,
    pub writers: usize,
    pub load: Pattern,
    /// Writes per second of each writer; `None`: as many as it can.
    pub rate: Option<u32>,
    pub seconds: Duration,
    pub versus: Versus,
    pub engine: Engine,
    pub window: Window,
    pub stand_ready: bool,
    pub json: bool,
    pub fork_row: bool,
}

impl Job {
    /// Reads the command line. `Ok(None)`: there is nothing to run, because help or version was
    /// asked for and printed.
    pub fn from_command_line() -> Result<Option<Job>, Failure> {
        match Args::try_parse() {
            Ok(args) => Job::new(args).map(Some),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
                ) =>
            {
                error.print()?;
                Ok(None)
            }
            Err(error) => Err(Failure::Usage(one_line(&error))),
        }
    }

    fn new(args: Args) -> Result<Job, Failure> {
        let page_size = region::page::size();
        let input_len = args.input.as_deref().map(input_len).transpose()?;
        let asked = match (args.size, input_len) {
            (Some(size), Some(len)) if size < len => {
                return Err(Failure::Usage(format!(
                    "--size is {size} bytes, but the input has {len}; ask for at least that many, \
                     or leave --size out"
                )));
            }
            (Some(size), _) => size,
            (None, Some(len)) => len,
            (None, None) => 256 << 20,
        };
        // A snapshot may have to keep the old bytes of every page, and an image is loaded beside
        // it.
        let needed = asked.saturating_mul(if args.image { 3 } else { 2 });
        let available = available_memory();
        let size = usize::try_from(asked)
            .ok()
            .and_then(|size| size.checked_next_multiple_of(page_size))
            .filter(|_| needed <= available)
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "{} of memory and its snapshot need up to {}, {} are available",
                    human_bytes(asked),
                    human_bytes(needed),
                    human_bytes(available)
                ))
            })?;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let writers = args.writers.map_or((cores - 1).max(1), usize::from);
        let (usual_rate, usual_window) = match args.load {
            Pattern::Uniform => (None, Window::Fixed(DENSE_WINDOW)),
            Pattern::Hot => (Some(HOT_RATE), Window::default()),
        };
        let arms = args.stand_ready || args.window.is_some();
        let usual_engine = || match Engine::Remap.check() {
            Ok(()) if !arms => Engine::Remap,
            _ => Engine::Mprotect,
        };
        Ok(Job {
            size,
            page_size,
            saved_len: input_len.unwrap_or(size as u64),
            input: args.input,
            out: args.out,
            image: args.image,
            writers: writers.min(size / page_size),
            load: args.load,
            rate: args.rate.or(usual_rate),
            seconds: Duration::from_secs_f64(args.seconds),
            versus: args.versus,
            engine: args.engine.unwrap_or_else(usual_engine),
            window: args.window.unwrap_or(usual_window),
            stand_ready: args.stand_ready,
            json: args.json,
            fork_row: args.fork_row,
        })
    }

    pub fn pages(&self) -> usize {
        self.size / self.page_size
    }

    /// How many pages the saved bytes take, the last one perhaps in part.
    pub fn saved_pages(&self) -> usize {
        self.saved_len.div_ceil(self.page_size as u64) as usize
    }

    /// The contents that memory starts from.
    pub fn base(&self) -> Result<Base, Failure> {
        match self.input {
            Some(_) => Ok(Base::File(self.open_input()?)),
            None => Ok(Base::Pattern),
        }
    }

    /// Opens the input; there must be one.
    pub fn open_input(&self) -> Result<File, Failure> {
        let path = self.input.as_deref().expect("a job with an input");
        File::open(path).map_err(|error| Failure::failed(path.display(), error))
    }

    /// The arguments that make a fresh process measure fork() on the same job.
    pub fn fork_row_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--fork-row".into()];
        let mut add = |name: &str, value: OsString| args.extend([name.into(), value]);
        add("--size", self.size.to_string().into());
        add("--writers", self.writers.to_string().into());
        let load = self.load.to_possible_value().expect("none is skipped");
        add("--load", load.get_name().into());
        if let Some(rate) = self.rate {
            add("--rate", rate.to_string().into());
        }
        add("--seconds", self.seconds.as_secs_f64().to_string().into());
        if let Some(path) = &self.input {
            add("--input", path.into());
        }
        if let Some(path) = &self.out {
            add("--out", path.into());
        }
        if self.json {
            args.push("--json".into());
        }
        args
    }
}

fn parse_window(text: &str) -> Result<Window, String> {
    match text.parse() {
        Ok(pages @ 1..=512) => Ok(Window::Fixed(pages)),
        _ if text == "adaptive" => Ok(Window::default()),
        _ => Err("neither 1 to 512 nor \"adaptive\"".to_owned()),
    }
}

fn input_len(path: &std::path::Path) -> Result<u64, Failure> {
    let bad = |why: &dyn std::fmt::Display| {
        Failure::usage(format_args!("--input {}", path.display()), why)
    };
    // The check comes before the opening: opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(|error| bad(&error))?;
    if !metadata.is_file() {
        return Err(bad(&"not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(bad(&"the file is empty"));
    }
    File::open(path).map_err(|error| bad(&error))?;
    Ok(metadata.len())
}

/// An engine by its name, or "best".
fn engine_parser() -> impl TypedValueParser<Value = Engine> {
    let names = Engine::ALL.iter().map(|engine| engine.name());
    PossibleValuesParser::new(names.chain(["best"]))
        .map(|name| name.parse().unwrap_or_else(|_| Engine::best()))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err("sizes look like 4096, 256M or 1G".into()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "sizes look like 4096, 256M or 1G")?;
    match number.checked_mul(1 << shift) {
        Some(0) => Err("there must be at least one byte".into()),
        Some(size) => Ok(size),
        None => Err("more than 64 bits can address".into()),
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be between 0.001 and 86400".into()),
    }
}

/// The first line of clap's message, without its usage block.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => {
            format!("{first} (one of: {})", values.join(", "))
        }
        _ => first.to_owned(),
    }
}

/// Bytes that are free without swapping. No limit if the system does not say.
fn available_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib * 1024)
}

/// A number of bytes for people.
pub fn human_bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "bytes" || value.fract() == 0.0 {
        format!("{value} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("2KiB"), Ok(2048));
        for bad in [
            "",
            "M",
            "0",
            "0G",
            "-1",
            "1.5G",
            "1X",
            "12 M",
            "99999999999T",
            "1é",
        ] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn seconds() {
        assert_eq!(parse_seconds("0.3"), Ok(0.3));
        for bad in ["", "0", "-1", "nan", "inf", "1e9", "1s"] {
            assert!(parse_seconds(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rate_follows_the_load() {
        for (args, rate) in [
            (&["x", "--size=1M"][..], None),
            (&["x", "--size=1M", "--load=hot"], Some(HOT_RATE)),
            (&["x", "--size=1M", "--load=hot", "--rate=7"], Some(7)),
            (&["x", "--size=1M", "--rate=7"], Some(7)),
        ] {
            let job = Job::new(Args::try_parse_from(args).unwrap()).unwrap();
            assert_eq!(job.rate, rate, "{args:?}");
        }
    }

    #[test]
    fn errors_take_one_line() {
        for args in [
            ["x", "--sise=1"],
            ["x", "--versus=no"],
            ["x", "--writers=0"],
            ["x", "--size"],
        ] {
            let error = Args::try_parse_from(args).unwrap_err();
            let line = one_line(&error);
            assert!(!line.contains('\n') && line.len() > 10, "{line:?}");
        }
    }
}
