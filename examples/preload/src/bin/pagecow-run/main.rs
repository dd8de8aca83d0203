//! Starts a program with `pagecow-preload`, or says whether that would serve it.

#![allow(unsafe_code, reason = "a probe that maps memory and forks")]

mod allocator;
mod kernel;
mod library;
mod privileges;
mod program;
mod script;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::{CommandFactory, Parser};

use crate::library::Preload;

/// Starts a program whose fork() does not grow with its memory.
///
/// The program runs with libpagecow_preload.so in LD_PRELOAD, before what is there already. The
/// library is taken from PAGECOW_LIBRARY, from beside this program, or from ../lib. Its settings
/// are variables of the environment: PAGECOW_LOG=FILE, PAGECOW_GIB=N, PAGECOW_POPULATE=1,
/// PAGECOW_OFF=1.
///
/// With --check the exit code is 0 for served, 1 for not served, and 2 for wrong usage. Without it
/// is the program's: 127 when there is none, and 126 when it cannot be executed.
#[derive(Parser)]
#[command(name = "pagecow-run", version)]
struct Args {
    /// Says whether this kernel, and the program, can be served, and why not; does not start it
    #[arg(long)]
    check: bool,
    /// Puts libjemalloc behind the library, for programs that use the C library's malloc
    #[arg(long)]
    jemalloc: bool,
    /// What `--check` starts with the library
    #[arg(long, hide = true)]
    probe: bool,
    /// The program and its arguments
    #[arg(trailing_var_arg = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.probe {
        return kernel::probe();
    }
    if args.command.is_empty() && !args.check {
        let error = Args::command().error(
            clap::error::ErrorKind::MissingRequiredArgument,
            "no program to start",
        );
        error.exit();
    }
    let preload = match Preload::find(args.jemalloc) {
        Ok(preload) => preload,
        Err(why) => {
            eprintln!("pagecow-run: {why}");
            return ExitCode::FAILURE;
        }
    };
    if args.check {
        return check(&preload, &args);
    }
    let error = Command::new(&args.command[0])
        .args(&args.command[1..])
        .env("LD_PRELOAD", preload.list())
        .exec();
    eprintln!("pagecow-run: {}: {error}", args.command[0].display());
    let is_missing = error.kind() == ErrorKind::NotFound;
    ExitCode::from(if is_missing { 127 } else { 126 })
}

fn check(preload: &Preload, args: &Args) -> ExitCode {
    println!("library: {}", preload.library().display());
    let kernel = kernel::check(preload);
    println!("kernel: {}", text(&kernel));
    let mut is_served = kernel.is_ok();
    if let Some(name) = args.command.first() {
        let program = program::check(name, preload);
        println!("{}: {}", name.display(), text(&program));
        is_served &= program.is_ok();
    }
    if is_served {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Of what is served, or why it is not.
fn text(result: &Result<String, String>) -> String {
    match result {
        Ok(how) => format!("served: {how}"),
        Err(why) => format!("not served: {why}"),
    }
}
