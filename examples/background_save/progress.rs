//! Prints what the run is doing, on standard error if that is a terminal.

use std::fmt;

use indicatif::{ProgressBar, ProgressStyle};

#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn new(name: &'static str, hidden: bool) -> Progress {
        // indicatif itself hides the bar when standard error is no terminal.
        let bar = if hidden {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        Progress {
            bar: bar.with_prefix(name),
        }
    }

    /// Shows the present step.
    pub fn phase(&self, what: &'static str) {
        self.bar.set_style(style("{prefix:>7}  {msg}"));
        self.bar.set_message(what);
    }

    /// Shows a bar that is full at `len` bytes.
    pub fn saving(&self, len: u64) {
        self.bar.reset();
        self.bar.set_length(len);
        self.bar.set_message("saving");
        self.bar.set_style(style(
            "{prefix:>7}  {msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
        ));
    }

    pub fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Prints a line that stays.
    pub fn note(&self, text: impl fmt::Display) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a fixed template")
}
