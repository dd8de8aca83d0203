//! What one save gave: a row.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::args::Load;
use crate::open_loop::Sample;
use crate::server::Mode;

#[derive(Serialize)]
pub struct Row {
    pub bench: &'static str,
    pub mode: Mode,
    pub server: String,
    pub data_mib: u64,
    pub load: Load,
    pub fork_us: u64,
    pub worst_at_fork_us: Option<f64>,
    pub save_p99_us: Option<f64>,
    pub save_p999_us: Option<f64>,
    pub save_worst_us: Option<f64>,
    pub merge_p99_us: Option<f64>,
    pub merge_p999_us: Option<f64>,
    pub merge_worst_us: Option<f64>,
    pub rest_p99_us: Option<f64>,
    pub rest_p999_us: Option<f64>,
    pub rest_worst_us: Option<f64>,
    pub save_ms: f64,
    pub extra_mib: f64,
    pub ops_per_s_rest: f64,
    pub ops_per_s_save: f64,
    pub cpu_us_per_op_rest: Option<f64>,
    pub cpu_us_per_op_save: Option<f64>,
}

/// A stretch of time.
#[derive(Clone, Copy)]
pub struct Span {
    pub from: Instant,
    pub to: Instant,
}

impl Span {
    fn has(&self, at: Instant) -> bool {
        self.from <= at && at < self.to
    }

    /// Requests that were answered in it.
    pub fn answered(&self, samples: &[Sample]) -> usize {
        samples
            .iter()
            .filter(|one| self.has(one.answered()))
            .count()
    }

    pub fn per_second(&self, samples: &[Sample]) -> f64 {
        self.answered(samples) as f64 / (self.to - self.from).as_secs_f64()
    }

    /// Of each request that was answered in it.
    pub fn cpu_us_per_op(&self, cpu: Duration, samples: &[Sample]) -> Option<f64> {
        match self.answered(samples) {
            0 => None,
            answered => Some(micros(cpu) / answered as f64),
        }
    }

    /// Of the requests that were due in it.
    pub fn latency(&self, samples: &[Sample]) -> Latency {
        let due = samples.iter().filter(|one| self.has(one.at));
        let mut ascending: Vec<Duration> = due.map(|one| one.took).collect();
        ascending.sort_unstable();
        Latency { ascending }
    }
}

/// Latencies of a span.
pub struct Latency {
    ascending: Vec<Duration>,
}

impl Latency {
    /// In microseconds: that which this share of the requests did not exceed. `None` where nothing
    /// was due, as in a merge of a millisecond.
    pub fn share(&self, share: f64) -> Option<f64> {
        let rank = (self.ascending.len() as f64 * share).ceil() as usize;
        let place = rank.saturating_sub(1);
        self.ascending.get(place).copied().map(micros)
    }

    pub fn worst(&self) -> Option<f64> {
        self.share(1.0)
    }
}

pub fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}
