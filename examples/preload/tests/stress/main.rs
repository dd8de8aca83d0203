//! Threads store in an order that can be replayed, and two threads fork all the while. Each child
//! must see an exact prefix of what each thread has stored, and no store may be lost in the end.
//!
//! Two seconds, or `PAGECOW_STRESS_SECONDS`. Where there is libjemalloc it is put behind the
//! library, so that what `malloc` hands out is served, too.

#![allow(unsafe_code, reason = "maps memory, and forks")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/program.rs"]
mod program;

mod child;
mod churn;
mod forker;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forker::Forker;
use program::await_merged;
use writer::{KERNEL, Kind, Writer};

/// Threads that fork, with up to two children each.
const FORKERS: u64 = 2;
const SECONDS: &str = "PAGECOW_STRESS_SECONDS";
const JEMALLOC: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
    "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2",
    "/usr/lib64/libjemalloc.so.2",
];

/// What all threads share. It lives as long as the program.
struct World {
    writers: Vec<Writer>,
    churn: churn::Blocks,
    report: child::Report,
    stop: AtomicBool,
    /// Nobody is to fork, so that what is frozen is merged while threads store.
    quiet: AtomicBool,
    /// How often that was so: after each time the threads look at what they stored themselves.
    merges: AtomicU64,
    /// Threads that fork, of which no child lives.
    resting: AtomicU64,
    forks: AtomicU64,
}

fn seconds() -> u64 {
    std::env::var(SECONDS).map_or(2, |text| text.parse().unwrap())
}

#[test]
fn children_see_exact_prefixes_and_no_store_is_lost() {
    if program::in_program() {
        // A run that hangs fails.
        program::end_after(seconds() as u32 + 180);
        run();
        return;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut preload = common::library().into_os_string();
    if let Some(behind) = JEMALLOC.iter().find(|path| Path::new(path).exists()) {
        preload.push(":");
        preload.push(behind);
    }
    println!("{}", preload.display());
    let name = "children_see_exact_prefixes_and_no_store_is_lost";
    let output = program::again(name, log.path())
        .env("LD_PRELOAD", preload)
        .output()
        .unwrap();
    let log = std::fs::read_to_string(log.path()).unwrap();
    let last: Vec<&str> = log.lines().rev().take(20).collect();
    println!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{}\n{last:#?}", output.status);
    assert!(log.contains("serving from"), "{last:#?}");
    let merged = |line: &&str| line.contains("merged:") && !line.contains(" 0 pages");
    assert!(log.lines().any(|line| merged(&line)), "{last:#?}");
}

fn run() {
    let world: &'static World = Box::leak(Box::new(World {
        writers: vec![
            // Words side by side, of which one in 512 lies on two pages.
            Writer::new(Kind::Words, 1 << 18, 8, 4),
            // One word a page.
            Writer::new(Kind::Words, 1 << 11, 4096, 0),
            // By the kernel, across pages.
            Writer::new(Kind::Kernel, 1 << 10, KERNEL + 100, 7),
        ],
        churn: churn::Blocks::new(),
        report: child::Report::new(),
        stop: AtomicBool::new(false),
        quiet: AtomicBool::new(false),
        merges: AtomicU64::new(0),
        resting: AtomicU64::new(0),
        forks: AtomicU64::new(0),
    }));
    let goes_on = || !world.stop.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for writer in &world.writers {
            threads.push(scope.spawn(move || writer.store_while(goes_on, &world.merges)));
        }
        threads.push(scope.spawn(move || churn::run(world, goes_on)));
        for number in 0..FORKERS {
            threads.push(scope.spawn(move || Forker::new(world, number).fork_while(goes_on)));
        }
        let begin = Instant::now();
        let goes_on = || {
            begin.elapsed() < Duration::from_secs(seconds())
                && threads.iter().all(|thread| !thread.is_finished())
        };
        // Forks and merges in turn. A merge of all takes some ten milliseconds: some are over when
        // the next fork comes, and some are not.
        for number in 0u64.. {
            let of_forks = Duration::from_millis(20 + number * 37 % 100);
            let of_merging = Duration::from_millis(number * 23 % 110);
            std::thread::sleep(of_forks);
            world.quiet.store(true, Ordering::SeqCst);
            while goes_on() && world.resting.load(Ordering::SeqCst) < FORKERS {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(of_merging);
            world.quiet.store(false, Ordering::SeqCst);
            world.merges.fetch_add(1, Ordering::SeqCst);
            if !goes_on() {
                break;
            }
        }
        world.stop.store(true, Ordering::SeqCst);
    });
    // One fork more, with nobody storing, and what is left to merge.
    Forker::new(world, 0).fork_once();
    await_merged();
    for writer in &world.writers {
        if let Err(wrong) = writer.check(false) {
            panic!("in the end: {wrong:?}");
        }
    }
    let counts: Vec<u64> = world.writers.iter().map(Writer::count).collect();
    let forks = world.forks.load(Ordering::SeqCst);
    println!("{forks} forks, {counts:?} stores");
    assert!(forks > 0 && counts.iter().all(|count| *count > 0));
}
