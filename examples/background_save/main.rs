//! The main job: writers change memory all the time, while a frozen image of it is saved to a file
//! in the background. Once with pagecow, once with `fork()`.
//!
//! `cargo run --release --example background_save -- --help` lists the options.

mod args;
mod base;
mod cost;
mod failure;
mod forked;
mod fresh;
mod in_process;
mod load;
mod plan;
mod progress;
mod report;
mod save;
mod scenario;
mod shared;
mod stop;
mod verify;

use std::process::ExitCode;

use pagecow::Arena;

use crate::args::{Job, Versus};
use crate::failure::Failure;
use crate::forked::Mapping;
use crate::progress::Progress;
use crate::report::Row;
use crate::save::Target;
use crate::stop::Stop;

fn main() -> ExitCode {
    let mut quiet = false;
    let outcome = match Job::from_command_line() {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(job)) if job.fork_row => {
            let outcome = fork_row(&job);
            // The process that started this one prints it too.
            quiet = matches!(outcome, Err(Failure::Stopped(_)));
            outcome
        }
        Ok(Some(job)) => compare(&job),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            if !quiet {
                eprintln!("error: {failure}");
            }
            failure.exit_code()
        }
    }
}

/// Measures everything that was asked for. Returns whether every row is verified.
fn compare(job: &Job) -> Result<bool, Failure> {
    let stop = Stop::listen(true)?;
    let mut rows = vec![pagecow_row(job, &stop)?];
    if job.json {
        report::print_json(&rows[0])?;
    }
    if job.versus == Versus::Fork {
        let row = fresh::fork_row(job, &stop)?;
        if job.json {
            report::print_json(&row)?;
        }
        rows.push(row);
    }
    if !job.json {
        report::print_table(job, &rows)?;
    }
    Ok(rows.iter().all(|row| row.verified))
}

/// When this returns, nothing of the arena is left.
fn pagecow_row(job: &Job, stop: &Stop) -> Result<Row, Failure> {
    let target = Target::new(job.out.as_deref())?;
    let arena = Arena::builder()
        .engine(job.engine)
        .window(job.window)
        .stand_ready(job.stand_ready)
        .build(job.size)?;
    scenario::measure(
        arena,
        job,
        &target,
        stop,
        &Progress::new("pagecow", job.json),
    )
}

/// Measures `fork()` in this process and prints the row for the one that started it.
fn fork_row(job: &Job) -> Result<bool, Failure> {
    let stop = Stop::listen(false)?;
    let target = Target::beside(job.out.as_deref())?;
    let memory = Mapping::new(job.size, job.page_size)?;
    let row = scenario::measure(
        memory,
        job,
        &target,
        &stop,
        &Progress::new("fork", job.json),
    )?;
    report::print_json(&row)?;
    Ok(row.verified)
}
