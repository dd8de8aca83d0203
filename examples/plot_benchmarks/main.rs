//! Draws what the benchmarks measured.
//!
//! `cargo run --release --example plot_benchmarks -- [--rows FILE ...] [--out DIR]` reads rows of
//! JSON as the benchmarks print them with `--json`, and writes
//!
//! - `writer-latency.svg`: what a writer sees around a snapshot, and around a fork (rows of
//!   `timeline`);
//! - `pause.svg`: for how long busy writers are stopped, by size (rows of `pause`);
//! - `first-write.svg`: what the first write to a page costs (rows of `first_write`);
//! - `deltas.svg`: how many bytes deltas take where full images would be saved (rows of `deltas`).
//!
//! Of several rows about the same thing the last one counts. Text is written as text, so no fonts
//! are needed here.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

mod deltas;
mod first_write;
mod latency;
mod pause;
mod rows;
mod style;

use rows::Rows;

/// The command that makes all rows.
const ALL: &str = "cargo bench --quiet -- --json > docs/benchmarks/rows.jsonl";

/// Draw what the benchmarks measured, as SVG.
#[derive(Parser)]
#[command(after_help = format!("All rows are made with\n  {ALL}"), max_term_width = 120)]
struct Args {
    /// Rows of JSON, as the benchmarks print them with --json
    #[arg(long, value_name = "FILE", num_args = 1.., default_value = "docs/benchmarks/rows.jsonl")]
    rows: Vec<PathBuf>,

    /// Where the plots go
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    out: PathBuf,
}

fn draw_all(args: &Args) -> Result<(), Box<dyn Error>> {
    let rows = Rows::read(&args.rows)?;
    // Nothing is written unless all plots can be drawn.
    let plots = [
        ("writer-latency.svg", latency::draw(&rows)?),
        ("pause.svg", pause::draw(&rows)?),
        ("first-write.svg", first_write::draw(&rows)?),
        ("deltas.svg", deltas::draw(&rows)?),
    ];
    fs::create_dir_all(&args.out).map_err(|error| format!("{}: {error}", args.out.display()))?;
    for (name, svg) in plots {
        let path = args.out.join(name);
        fs::write(&path, svg).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn main() -> ExitCode {
    match draw_all(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plot_benchmarks: {error}");
            ExitCode::FAILURE
        }
    }
}
