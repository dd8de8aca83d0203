//! Writers, snapshotting threads and readers against each other, all on the same few pages, with
//! each engine and several windows in turn. An executable of its own, since its threads take all
//! processors.
//!
//! A few seconds by default. `PAGECOW_STRESS_SECONDS=60` is the long form, which fails unless it
//! met each kind of race.

mod common;

use std::collections::VecDeque;
use std::io::{Read, Seek};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{by_faults, engines, merge, on, page_size};
use pagecow::{Engine, Snapshot, Snapshotter, Stats, Window};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const PAGES: u64 = 32;
const WRITERS: u64 = 4;
/// Odd, so that a writer visits all pages before it comes back to one.
const STRIDE: u64 = 13;
const LIVE: usize = 6;

/// A word of a page. Each writer has a slot for what it stores, and all writers add to the counter
/// in the last slot. Slots lie far apart.
fn word(page: u64, words_per_page: u64, slot: u64) -> usize {
    (page * words_per_page + slot * 61) as usize
}

fn page_of(op: u64) -> u64 {
    op * STRIDE % PAGES
}

/// The last operation up to `last` that stored to `page`, or 0.
fn expected(last: u64, page: u64) -> u64 {
    (0..PAGES)
        .filter_map(|back| last.checked_sub(back))
        .find(|op| page_of(*op) == page)
        .unwrap_or(0)
}

/// What holds for each snapshot, whenever and however often it is read.
fn check(snapshot: &Snapshot) -> Vec<u8> {
    let mut bytes = vec![0; snapshot.len()];
    snapshot.read_at(0, &mut bytes).unwrap();
    let words: Vec<u64> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_ne_bytes(*word))
        .collect();
    let per_page = snapshot.page_size() as u64 / 8;
    // Each writer's stores are a prefix of its order.
    let mut total = 0;
    for writer in 0..WRITERS {
        let slots: Vec<u64> = (0..PAGES)
            .map(|page| words[word(page, per_page, writer)])
            .collect();
        let last = *slots.iter().max().unwrap();
        for (page, value) in slots.iter().enumerate() {
            assert_eq!(
                *value,
                expected(last, page as u64),
                "writer {writer}, page {page}"
            );
        }
        total += last;
    }
    // Writers add to the common counter after they stored, so it is behind by at most one each.
    let counter = words[word(0, per_page, WRITERS)];
    assert!(
        counter <= total && total <= counter + WRITERS,
        "{counter} of {total}"
    );
    bytes
}

/// The same bytes by way of a file.
fn saved(snapshot: &Snapshot) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    snapshot.copy_to(&file).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn write(words: &[AtomicU64], per_page: u64, writer: u64, stop: &AtomicBool) -> u64 {
    let counter = &words[word(0, per_page, WRITERS)];
    let mut op = 0;
    while !stop.load(Ordering::Relaxed) {
        op += 1;
        words[word(page_of(op), per_page, writer)].store(op, Ordering::Release);
        counter.fetch_add(1, Ordering::AcqRel);
    }
    op
}

fn take(snapshotter: &Snapshotter, live: &Mutex<VecDeque<Snapshot>>, seed: u64, stop: &AtomicBool) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let snapshot = snapshotter.snapshot().unwrap();
        let mut dropped = Vec::new();
        let mut live = live.lock().unwrap();
        live.push_back(snapshot);
        while live.len() > LIVE || (!live.is_empty() && rng.random_ratio(1, 3)) {
            let which = rng.random_range(0..live.len());
            dropped.extend(live.remove(which));
        }
        drop(live);
    }
}

fn read(live: &Mutex<VecDeque<Snapshot>>, seed: u64, stop: &AtomicBool, checked: &AtomicU64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut kept: Option<(Snapshot, Vec<u8>)> = None;
    while !stop.load(Ordering::Relaxed) {
        let picked = {
            let live = live.lock().unwrap();
            (!live.is_empty()).then(|| live[rng.random_range(0..live.len())].clone())
        };
        let Some(snapshot) = picked else {
            std::thread::yield_now();
            continue;
        };
        let bytes = check(&snapshot);
        if rng.random_ratio(1, 4) {
            assert!(saved(&snapshot) == bytes, "a file has other bytes");
        }
        checked.fetch_add(1, Ordering::Relaxed);
        if let Some((other, before)) = &kept {
            assert!(check(other) == *before, "a snapshot changed");
            compare((other, before), (&snapshot, &bytes));
        }
        if rng.random_ratio(1, 4) {
            kept = Some((snapshot, bytes));
        }
    }
}

/// Pages that differ are among those that are said to have changed.
fn compare(a: (&Snapshot, &Vec<u8>), b: (&Snapshot, &Vec<u8>)) {
    let (older, newer) = if a.0.id() <= b.0.id() { (a, b) } else { (b, a) };
    let changed = newer.0.changed_since(older.0).unwrap();
    let page = older.0.page_size();
    for (index, (old, new)) in older.1.chunks(page).zip(newer.1.chunks(page)).enumerate() {
        let named = changed.iter().any(|range| range.contains(&index));
        assert!(named || old == new, "page {index} changed unnoticed");
    }
}

#[test]
fn writers_snapshots_and_readers() {
    let seconds = std::env::var("PAGECOW_STRESS_SECONDS").map(|text| text.parse().unwrap());
    let is_long = seconds.is_ok();
    let windows = [Window::Page, Window::Fixed(16), Window::default()];
    let rounds = engines().len() * windows.len() * 2;
    let duration = Duration::from_secs_f64(seconds.unwrap_or(rounds as f64) / rounds as f64);

    let mut met = [0; 3];
    let mut armed_early = 0;
    for engine in engines() {
        for (window, stand_ready) in windows.into_iter().flat_map(|w| [(w, false), (w, true)]) {
            println!("{engine:?}, {window:?}, stand ready: {stand_ready}:");
            let stats = round(*engine, window, stand_ready, duration);
            for (met, more) in met.iter_mut().zip(races(&stats)) {
                *met += more;
            }
            // Where nothing has to be armed nothing is.
            assert!(stats.pages_armed_early == 0 || stand_ready && by_faults(*engine));
            armed_early += stats.pages_armed_early;
        }
    }
    if is_long {
        let [threads, readers, snapshots] = met;
        assert!(armed_early > 0, "no page was armed between snapshots");
        assert!(threads > 0, "no two threads met on a page");
        assert!(readers > 0, "no reader met a first write");
        assert!(snapshots > 0, "no snapshot met a fault");
    }
}

fn races(stats: &Stats) -> [u64; 3] {
    [stats.spurious_faults, stats.reader_retries, stats.drains]
}

fn round(engine: Engine, window: Window, stand_ready: bool, duration: Duration) -> Stats {
    // The keeper arms pages as soon as it sees that they are open.
    let builder = on(engine).window(window).stand_ready(stand_ready);
    let builder = builder.cold(Duration::ZERO);
    let mut arena = builder.build(PAGES as usize * page_size()).unwrap();
    let per_page = arena.page_size() as u64 / 8;
    let snapshotter = arena.snapshotter();
    let live = Mutex::new(VecDeque::new());
    let stop = AtomicBool::new(false);
    let checked = AtomicU64::new(0);
    let words = arena.atomic_u64();
    let written: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let stop = &stop;
                scope.spawn(move || write(words, per_page, writer, stop))
            })
            .collect();
        for seed in 0..2 {
            let (snapshotter, live, stop) = (&snapshotter, &live, &stop);
            scope.spawn(move || take(snapshotter, live, seed, stop));
        }
        for seed in 0..2 {
            let (live, stop, checked) = (&live, &stop, &checked);
            scope.spawn(move || read(live, 100 + seed, stop, checked));
        }
        let begin = Instant::now();
        while begin.elapsed() < duration && !writers.iter().any(|writer| writer.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum()
    });

    // No store was lost, and none was made twice.
    let counter = arena.atomic_u64()[word(0, per_page, WRITERS)].load(Ordering::Relaxed);
    assert_eq!(counter, written);
    for snapshot in live.lock().unwrap().iter() {
        check(snapshot);
    }
    arena.check_invariants().unwrap();
    live.lock().unwrap().clear();
    merge(&arena);
    arena.check_invariants().unwrap();

    let stats = arena.stats();
    let checked = checked.into_inner();
    let [spurious, retries, drains] = races(&stats);
    println!(
        "{written} writes, {} snapshots, {checked} checked; {} faults, {} saved, {} of them ahead; \
         spurious faults {spurious}, reader retries {retries}, drains {drains}; {} armed early",
        stats.snapshots,
        stats.faults,
        stats.pages_saved,
        stats.pages_saved_ahead,
        stats.pages_armed_early,
    );
    assert_eq!(stats.store_bytes, 0);
    assert!(stats.pages_saved <= PAGES * stats.snapshots);
    // With the other engine the kernel makes most of the copies, unasked.
    if by_faults(engine) {
        assert_eq!(
            stats.faults - stats.spurious_faults - stats.soft_faults,
            stats.pages_saved - stats.pages_saved_ahead
        );
        assert_eq!(stats.pages_saved_ahead > 0, window != Window::Page);
    }
    assert!(stats.snapshots > 0 && checked > 0);
    stats
}
