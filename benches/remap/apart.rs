//! Beside fork: each side in a process of its own.

use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use crate::memory::{arena, await_merged, order, plain, words_of, words_per_page, write_pages};
use crate::support::child::{Child, minor_faults};
use crate::support::load::{Busy, Load};
use crate::support::{mapping, micros, said};
use crate::{Case, Job, WARM_UP};

/// How long a snapshot lives, or a child, whose writers are watched.
const LIFE: Duration = Duration::from_millis(100);

/// The thread that writes calls `act`, beside another that writes; microseconds of the call.
fn call<T>(words: &[AtomicU64], act: impl FnOnce() -> Result<T, String>) -> Result<f64, String> {
    Busy::during(words, |_| {
        Load::new(words).burst(WARM_UP);
        let begin = Instant::now();
        let made = act()?;
        let took = micros(begin.elapsed());
        drop(made);
        Ok(took)
    })
}

/// The longest time between two stores while `act` runs.
fn stall(words: &[AtomicU64], act: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    Busy::during(words, |busy| {
        thread::sleep(WARM_UP);
        busy.watch();
        act()?;
        Ok(micros(busy.worst()))
    })
}

/// The first store to pages of an arena or a branch; each must have had a fault of its own.
fn first_writes(words: &[AtomicU64], random: bool, part: usize) -> Result<f64, String> {
    let order = order(words.len() / words_per_page(), random, part);
    let before = minor_faults();
    let took = write_pages(words, &order);
    let faults = minor_faults() - before;
    if faults < order.len() as u64 {
        return Err(format!(
            "{} pages were written in {faults} faults",
            order.len()
        ));
    }
    Ok(took)
}

fn how_written(case: Case) -> (bool, usize) {
    match case {
        Case::FirstWriteSequential => (false, 1),
        Case::FirstWriteSparse => (true, 16),
        _ => (true, 1),
    }
}

pub fn measure_ours(job: &Job) -> Result<f64, String> {
    let arena = arena(job.len)?;
    let words = words_of(&arena);
    let snapshot = || arena.snapshot().map_err(said);
    match job.case {
        Case::Call => call(words, snapshot),
        Case::Stall => stall(words, || {
            let snapshot = snapshot()?;
            thread::sleep(LIFE);
            drop(snapshot);
            await_merged(&arena)
        }),
        Case::CopyTo => {
            let file = tempfile::tempfile().map_err(|error| error.to_string())?;
            let snapshot = snapshot()?;
            Busy::during(words, |_| {
                thread::sleep(WARM_UP);
                let begin = Instant::now();
                let copied = snapshot.copy_to(&file);
                copied.map_err(|error| error.to_string())?;
                Ok(micros(begin.elapsed()) / 1e3)
            })
        }
        Case::Branch => {
            let snapshot = snapshot()?;
            call(words, || snapshot.branch().map_err(said))
        }
        Case::BranchFirstWrite => {
            let mut branch = snapshot()?.branch().map_err(said)?;
            // SAFETY: the branch outlives them, and nothing else uses it.
            let words = unsafe { mapping::words(branch.as_mut_ptr(), branch.len()) };
            first_writes(words, true, 1)
        }
        case => {
            let (random, part) = how_written(case);
            let _snapshot = snapshot()?;
            first_writes(words, random, part)
        }
    }
}

pub fn measure_fork(job: &Job) -> Result<f64, String> {
    let words = plain(job.len)?;
    match job.case {
        Case::Call | Case::Branch => call(words, || Ok(Child::short()?.0)),
        Case::Stall => stall(words, || {
            let child = Child::sleeping()?;
            thread::sleep(LIFE);
            drop(child);
            thread::sleep(LIFE);
            Ok(())
        }),
        Case::CopyTo => {
            let file = tempfile::tempfile().map_err(|error| error.to_string())?;
            Busy::during(words, |_| {
                thread::sleep(WARM_UP);
                let took = Child::writing((words.as_ptr().cast(), job.len), &file)?;
                Ok(micros(took) / 1e3)
            })
        }
        case => {
            let (random, part) = how_written(case);
            let _child = Child::sleeping()?;
            first_writes(words, random, part)
        }
    }
}
