//! For tests: this example as a process of its own, whose lines can be waited for.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// Set in a process that is to be the example: its arguments, one a line.
const ARGS: &str = "PAGECOW_EXAMPLE_ARGS";
/// What takes longer hangs.
pub const ALARM: Duration = Duration::from_secs(60);

/// A running example. It is killed when this is dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

/// In a process that [`Process::start`] started this is the example, and does not return. A test
/// called `as_a_process` calls it.
pub fn be_the_example(main: impl FnOnce(Vec<String>)) {
    let Ok(args) = std::env::var(ARGS) else {
        return;
    };
    thread::spawn(|| {
        thread::sleep(ALARM);
        std::process::exit(99);
    });
    let args = args.lines().map(str::to_owned);
    main(["example".to_owned()].into_iter().chain(args).collect());
    std::process::exit(0);
}

impl Process {
    pub fn start(args: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tests::as_a_process", "--exact", "--nocapture"])
            .env(ARGS, args.join("\n"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that begins like this, and returns the rest of it. `None`: the process has
    /// ended.
    pub fn line(&self, begin: &str) -> Option<String> {
        loop {
            match self.lines.recv_timeout(ALARM) {
                Ok(line) => {
                    // The test harness prints the test's name without a line's end.
                    if let Some((_, rest)) = line.split_once(begin) {
                        return Some(rest.to_owned());
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line {begin:?}: it hangs"),
            }
        }
    }

    /// Kills it by SIGKILL, and returns the rest of each line that begins like this and was not
    /// waited for.
    pub fn kill(mut self, begin: &str) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.line(begin)).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
