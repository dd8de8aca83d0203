//! Beside plain memory, or the same memory at rest: both in one process.

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use pagecow::Arena;

use crate::memory::{
    arena, await_merged, leave_to_merge, order, plain, remapping, words_of, words_per_page,
    write_pages,
};
use crate::support::child::minor_faults;
use crate::support::load::{Busy, Paced, Random};
use crate::support::{alternate, each, mapping, micros, said};
use crate::{Case, Job, WARM_UP};

/// For how long it is looked what a writer does at rest.
const REST: Duration = Duration::from_millis(300);
const CHUNK: usize = 64 << 10;
/// How often things are measured in turn.
const ROUNDS: usize = 5;

/// For each figure: ours, the baseline's. Those of the other side are not a number.
pub type Measured = Vec<(f64, f64)>;

fn rest() -> Result<(), String> {
    thread::sleep(REST);
    Ok(())
}

pub fn measure_both(job: &Job, ours_first: bool) -> Result<Measured, String> {
    if job.case == Case::Steady {
        return steady(job.len, ours_first);
    }
    let arena = arena(job.len)?;
    let words = words_of(&arena);
    let one = match job.case {
        Case::MergeStall => {
            let at_rest = Paced::during(words, rest)?;
            leave_to_merge(&arena)?;
            let ours = Paced::during(words, || await_merged(&arena))?;
            (micros(ours), micros(at_rest))
        }
        Case::FirstRead => {
            let plain = plain(job.len)?;
            let _snapshot = arena.snapshot().map_err(said)?;
            (read_pages(words), read_pages(plain))
        }
        Case::ViewRead => {
            let plain = plain(job.len)?;
            let view = arena
                .snapshot()
                .and_then(|taken| taken.view())
                .map_err(said)?;
            view_read((view.as_ptr(), plain.as_ptr().cast()), job.len)?
        }
        Case::Merge => return merge(&arena, job.len),
        case => return Err(format!("{case:?} is not measured in one process")),
    };
    Ok(vec![one])
}

fn read_pages(words: &[AtomicU64]) -> f64 {
    let begin = Instant::now();
    for page in words.chunks(words_per_page()) {
        black_box(page[0].load(Relaxed));
    }
    begin.elapsed().as_nanos() as f64 / (words.len() / words_per_page()) as f64
}

fn view_read(from: (*const u8, *const u8), len: usize) -> Result<(f64, f64), String> {
    let mut buffer = vec![1; CHUNK];
    let mut copy = |from: *const u8| {
        let begin = Instant::now();
        for offset in (0..len).step_by(CHUNK) {
            let from = from.wrapping_add(offset);
            // SAFETY: inside the memory, whose length is a multiple of the buffer's, to which
            // nobody stores.
            unsafe { from.copy_to(buffer.as_mut_ptr(), CHUNK) };
            black_box(&buffer);
        }
        len as f64 / begin.elapsed().as_nanos() as f64
    };
    copy(from.1);
    let before = minor_faults();
    let first = copy(from.0);
    let faults = minor_faults() - before;
    if faults > 16 {
        return Err(format!("{faults} faults while a view was read"));
    }
    let mut pairs = vec![(first, copy(from.1))];
    for _ in 1..ROUNDS {
        pairs.push((copy(from.0), copy(from.1)));
    }
    let median = |pick: fn(&(f64, f64)) -> f64| each(&pairs, pick).median();
    Ok((median(|pair| pair.0), median(|pair| pair.1)))
}

fn merge(arena: &Arena, len: usize) -> Result<Measured, String> {
    let (ours, rates) = Busy::during(words_of(arena), |busy| {
        thread::sleep(WARM_UP);
        let at_rest = busy.rate(rest)?;
        leave_to_merge(arena)?;
        let begin = Instant::now();
        let meanwhile = busy.rate(|| await_merged(arena))?;
        Ok::<_, String>((begin.elapsed(), (meanwhile, at_rest)))
    })?;
    let (from, to) = (plain(len)?, plain(len)?);
    let begin = Instant::now();
    // SAFETY: two pieces of memory that no other thread uses.
    unsafe {
        from.as_ptr()
            .copy_to_nonoverlapping(to.as_ptr().cast_mut(), to.len())
    };
    Ok(vec![
        (micros(ours) / 1e3, micros(begin.elapsed()) / 1e3),
        rates,
    ])
}

fn steady(len: usize, ours_first: bool) -> Result<Measured, String> {
    let arena = remapping()?.untouched_arena(len)?;
    let ordinary = mapping::ordinary(len, false)?;
    // SAFETY: never unmapped, and used only through the words from here on.
    let plain = unsafe { mapping::words(ordinary.as_mut_ptr(), len) };
    let words = words_of(&arena);
    let in_order = order(len / region::page::size(), false, 1);
    let touch = |words| write_pages(words, &in_order);
    let touched = if ours_first {
        (touch(words), touch(plain))
    } else {
        let first = touch(plain);
        (touch(words), first)
    };
    let stores = |words: &[AtomicU64]| {
        let count = words.len() / 8;
        let mut random = Random(0x1234_5678_9abc_def1);
        let begin = Instant::now();
        for _ in 0..count {
            words[random.below(words.len())].store(2, Relaxed);
        }
        Ok(begin.elapsed().as_nanos() as f64 / count as f64)
    };
    let medians = || {
        let pairs = alternate(ROUNDS, || stores(words), || stores(plain))?;
        Ok::<_, String>((
            each(&pairs, |pair| pair.0).median(),
            each(&pairs, |pair| pair.1).median(),
        ))
    };
    let before = medians()?;
    leave_to_merge(&arena)?;
    await_merged(&arena)?;
    Ok(vec![touched, before, medians()?])
}
