//! Measuring in a fresh process: only what is measured is resident in it.

use std::process::{Command, ExitCode};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// First argument of the fresh process; the job follows.
const FRESH: &str = "--in-fresh-process";

/// Starts a fresh process of this program, which does the job.
pub fn process<R: DeserializeOwned>(job: &impl Serialize) -> Result<R, String> {
    let job = serde_json::to_string(job).map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args([FRESH, &job])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{job}: {}, {}", output.status, said.trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{job}: {error}"))
}

/// Does the job if this is the fresh process. `main` must call it first.
pub fn answer<J: DeserializeOwned, R: Serialize>(
    act: impl FnOnce(&J) -> Result<R, String>,
) -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != FRESH {
        return None;
    }
    let job = args.next().unwrap_or_default();
    let said = serde_json::from_str(&job)
        .map_err(|error| error.to_string())
        .and_then(|job| act(&job))
        .and_then(|result| serde_json::to_string(&result).map_err(|error| error.to_string()));
    Some(match said {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}
