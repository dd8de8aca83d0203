//! A fresh process measures the row of fork: forking a process whose mappings are in pieces would
//! take longer.

use std::env;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::args::Job;
use crate::failure::Failure;
use crate::report::Row;
use crate::stop::Stop;

/// Runs this program again to measure `fork()` on the same job.
pub fn fork_row(job: &Job, stop: &Stop) -> Result<Row, Failure> {
    let cannot = |error| Failure::failed("cannot start the process that measures fork()", error);
    let mut process = Command::new(env::current_exe().map_err(cannot)?)
        .args(job.fork_row_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot)?;

    let status = loop {
        if let Some(status) = process.try_wait()? {
            break status;
        }
        if let Err(stopped) = stop.sleep(Duration::from_millis(20)) {
            // Not SIGKILL: the process has files to remove.
            let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM);
            process.wait()?;
            return Err(stopped);
        }
    };
    let mut line = String::new();
    if let Some(mut out) = process.stdout.take() {
        out.read_to_string(&mut line)?;
    }
    // A row that is not verified comes with a non-zero exit code.
    serde_json::from_str(&line).map_err(|_| {
        Failure::Failed(format!(
            "the process that measures fork() gave no result: {status}"
        ))
    })
}
