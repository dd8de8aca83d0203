//! What a snapshot costs besides time: memory and CPU time.
//!
//! Memory is looked at before the snapshot, after it was taken, and when it is saved but still
//! there. A snapshot that lives only gathers copies, so the last look finds the most. There is none
//! in between: the kernel walks all page tables for a look, and stops writers that fault meanwhile.
#![allow(unsafe_code, reason = "getrusage")]

use std::fs;
use std::io;
use std::time::Duration;

use crate::failure::Failure;

/// Adds up what one snapshot costs.
#[derive(Debug)]
pub struct Cost {
    /// Bytes before there was a snapshot.
    before: Option<u64>,
    /// The most bytes that a look found.
    most: Option<u64>,
    cpu: Duration,
}

impl Cost {
    /// Starts before the snapshot, with a first look at this process.
    pub fn start() -> Cost {
        let before = dirty_memory(None);
        Cost {
            before,
            most: before,
            cpu: Duration::ZERO,
        }
    }

    /// Looks at the memory of this process, and of the child if there is one.
    pub fn look(&mut self, child: Option<libc::pid_t>) {
        let now = dirty_memory(child);
        self.most = self.most.zip(now).map(|(most, now)| most.max(now));
    }

    /// Adds the CPU time of this process while `act` runs, and all that of the children that end
    /// meanwhile.
    pub fn work<T>(&mut self, act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let begin = cpu_time()?;
        let done = act()?;
        self.cpu += cpu_time()?.saturating_sub(begin);
        Ok(done)
    }

    /// Bytes that the snapshot took at the most. `None`: the kernel does not say.
    pub fn extra_memory(&self) -> Option<u64> {
        let (most, before) = self.most.zip(self.before)?;
        Some(most.saturating_sub(before))
    }

    pub fn cpu(&self) -> Duration {
        self.cpu
    }
}

/// Bytes of dirty memory that this process and the child have together. A page that both share is
/// half a page in each, and so counts once. Page tables do not count.
fn dirty_memory(child: Option<libc::pid_t>) -> Option<u64> {
    let own = dirty_share("self")?;
    let other = child.map_or(Some(0), |pid| dirty_share(&pid.to_string()))?;
    Some(own + other)
}

fn dirty_share(process: &str) -> Option<u64> {
    let known = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let rest = known
        .lines()
        .find_map(|line| line.strip_prefix("Pss_Dirty:"))?;
    let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// The CPU time so far of this process and of the children that were waited for.
fn cpu_time() -> io::Result<Duration> {
    Ok(cpu_time_of(libc::RUSAGE_SELF)? + cpu_time_of(libc::RUSAGE_CHILDREN)?)
}

fn cpu_time_of(processes: libc::c_int) -> io::Result<Duration> {
    // SAFETY: all zeroes are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: writes to what it is given.
    if unsafe { libc::getrusage(processes, &raw mut usage) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let time = |of: libc::timeval| {
        Duration::from_secs(of.tv_sec as u64) + Duration::from_micros(of.tv_usec as u64)
    };
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use super::*;

    #[test]
    fn memory_that_is_written_counts() {
        let Some(before) = dirty_memory(None) else {
            return; // This kernel does not say.
        };
        let mut cost = Cost::start();
        let bytes = black_box(vec![1u8; 32 << 20]);
        cost.look(None);
        drop(bytes);
        cost.look(None);
        let extra = cost.extra_memory().unwrap();
        assert!(extra > 24 << 20, "{extra} more than {before}");
    }

    #[test]
    fn work_counts() {
        let mut cost = Cost::start();
        let begin = cpu_time().unwrap();
        let busy = || {
            while cpu_time()? < begin + Duration::from_millis(20) {
                black_box(Instant::now());
            }
            Ok(())
        };
        cost.work(busy).unwrap();
        assert!(cost.cpu() > Duration::from_millis(15));
    }
}
