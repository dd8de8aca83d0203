//! A primary that changes its memory all the time, and replicas that follow it: a base, and then
//! what changed, every 100 ms, over a Unix socket.
//!
//! ```sh
//! cargo build --release --example replica
//! R=target/release/examples/replica
//! $R primary --dir /tmp/primary --listen /tmp/primary.sock &
//! $R replica --from /tmp/primary.sock --serve /tmp/replica.sock &
//! echo check | nc -N -U /tmp/replica.sock # "write 12345" again and again
//! ```
//!
//! Kill either at any moment, and start it again. A replica says what it has when it connects. The
//! primary keeps marks at what it sent last, so it sends what changed since then, or a base when it
//! does not know what the replica has, or the replica has nothing. What is sent was saved in the
//! primary's directory before, and a primary goes on from there: so nothing that a replica has
//! shown is ever taken back.
//!
//! A replica answers from a snapshot of what it applied last. So no answer is torn, also while the
//! next delta is being applied.

#[path = "../common/chain.rs"]
mod chain;
mod follow;
mod primary;
#[cfg(test)]
#[path = "../common/processes.rs"]
mod processes;
#[path = "../common/records.rs"]
mod records;
mod serve;
mod wire;
#[path = "../common/writer.rs"]
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::chain::Failure;
use crate::serve::Served;

/// Follow memory that changes all the time in another process.
#[derive(Debug, Parser)]
enum Args {
    /// Change memory, and send it to those who connect
    Primary {
        /// Save here what is sent, and go on from what is here
        #[arg(long)]
        dir: PathBuf,
        /// A Unix socket for replicas
        #[arg(long, value_name = "SOCKET")]
        listen: PathBuf,
        /// Bytes of memory, where there is nothing to go on from
        #[arg(long, default_value_t = 16 << 20)]
        size: usize,
        /// Time between two deltas
        #[arg(long, value_name = "MS", default_value_t = 100)]
        interval_ms: u64,
    },
    /// Follow a primary, and answer questions about what it has: "check", "id" and "count PAGE"
    Replica {
        /// The primary's socket
        #[arg(long, value_name = "SOCKET")]
        from: PathBuf,
        /// A Unix socket for questions, one a line
        #[arg(long, value_name = "SOCKET")]
        serve: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::Primary {
            dir,
            listen,
            size,
            interval_ms,
        } => primary::run(&dir, &listen, size, Duration::from_millis(interval_ms)),
        Args::Replica { from, serve } => {
            let served = Served::default();
            serve::listen(&serve, served.clone())?;
            follow::follow(&from, &served)
        }
    }
}

#[cfg(test)]
mod tests;
