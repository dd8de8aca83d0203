//! How a run ends that fails.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Why a run was given up.
#[derive(Debug)]
pub enum Failure {
    /// The request cannot be carried out; nothing was started.
    Usage(String),
    /// Something went wrong during the run.
    Failed(String),
    /// The signal with this number told us to stop.
    Stopped(i32),
}

impl Failure {
    /// A usage error that ends with the system's reason.
    pub fn usage(what: impl fmt::Display, why: impl fmt::Display) -> Failure {
        Failure::Usage(format!("{what}: {why}"))
    }

    /// A failure that ends with the system's reason.
    pub fn failed(what: impl fmt::Display, why: impl fmt::Display) -> Failure {
        Failure::Failed(format!("{what}: {why}"))
    }

    /// The code a shell sees: 2 for misuse, 128 + signal when stopped.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Failed(_) => ExitCode::FAILURE,
            Failure::Stopped(signal) => ExitCode::from(128 + *signal as u8),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text) | Failure::Failed(text) => f.write_str(text),
            Failure::Stopped(signal) => write!(f, "stopped by signal {signal}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Failed(error.to_string())
    }
}

impl From<pagecow::Error> for Failure {
    fn from(error: pagecow::Error) -> Failure {
        Failure::Failed(error.to_string())
    }
}
