//! Programs with the library in `LD_PRELOAD`: each test starts itself again with it.

#![allow(unsafe_code, reason = "maps memory, and forks")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/program.rs"]
mod program;

mod leaving;

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use program::{
    await_merged, bytes, expect_ended_well, fork, is_served, map, preloaded, started, unmap,
};

const LEN: usize = 64 << 20;

#[test]
fn memory_is_served_as_zeros_and_given_back() {
    let log = preloaded("memory_is_served_as_zeros_and_given_back", || {
        let start = map(LEN);
        assert!(is_served(start));
        assert!(bytes(start, LEN).iter().all(|byte| *byte == 0));
        bytes(start, LEN).fill(7);
        unmap(start, LEN);
        let again = map(LEN);
        assert!(bytes(again, LEN).iter().all(|byte| *byte == 0));
        bytes(again, LEN).fill(8);
        // In part, in the middle.
        unmap(again.wrapping_add(LEN / 4), LEN / 4);
        let other = map(LEN / 8);
        assert!(bytes(other, LEN / 8).iter().all(|byte| *byte == 0));
        assert!(bytes(again, LEN / 4).iter().all(|byte| *byte == 8));
        // SAFETY: served memory.
        let advised = unsafe { libc::madvise(again.cast(), LEN / 4, libc::MADV_DONTNEED) };
        assert_eq!(advised, 0);
        assert!(bytes(again, LEN / 4).iter().all(|byte| *byte == 0));
        // SAFETY: served memory, moved.
        let moved = unsafe { libc::mremap(again.cast(), LEN / 4, LEN, libc::MREMAP_MAYMOVE) };
        assert_ne!(moved, libc::MAP_FAILED);
        assert!(bytes(moved.cast(), LEN).iter().all(|byte| *byte == 0));
    });
    assert!(log.is_none_or(|log| log.contains("serving from")));
}

#[test]
fn neither_side_of_a_fork_sees_the_other() {
    let log = preloaded("neither_side_of_a_fork_sees_the_other", || {
        let start = map(LEN);
        bytes(start, LEN).fill(1);
        let (mut told, tell) = std::io::pipe().unwrap();
        let child = fork(|| {
            use std::io::Read;
            bytes(start, LEN / 2).fill(3);
            told.read_exact(&mut [0]).unwrap();
            assert!(bytes(start, LEN / 2).iter().all(|byte| *byte == 3));
            assert!(bytes(start, LEN)[LEN / 2..].iter().all(|byte| *byte == 1));
            // What the child maps is its own.
            let own = map(LEN);
            assert!(!is_served(own));
            bytes(own, LEN).fill(4);
            unmap(start, LEN);
        });
        bytes(start, LEN)[LEN / 4..].fill(2);
        assert!(bytes(start, LEN / 4).iter().all(|byte| *byte == 1));
        {
            use std::io::Write;
            (&tell).write_all(&[0]).unwrap();
        }
        expect_ended_well(child);
        await_merged();
        assert!(bytes(start, LEN / 4).iter().all(|byte| *byte == 1));
        assert!(bytes(start, LEN)[LEN / 4..].iter().all(|byte| *byte == 2));
    });
    assert!(log.is_none_or(|log| log.contains("merged:")));
}

#[test]
fn memory_that_is_given_back_while_a_child_lives_is_zeros_later() {
    preloaded(
        "memory_that_is_given_back_while_a_child_lives_is_zeros_later",
        || {
            let start = map(LEN);
            bytes(start, LEN).fill(1);
            let (mut told, tell) = std::io::pipe().unwrap();
            let child = fork(|| {
                use std::io::Read;
                told.read_exact(&mut [0]).unwrap();
                assert!(bytes(start, LEN).iter().all(|byte| *byte == 1));
            });
            // SAFETY: served memory.
            let advised = unsafe { libc::madvise(start.cast(), LEN / 2, libc::MADV_DONTNEED) };
            assert_eq!(advised, -1);
            assert!(bytes(start, LEN).iter().all(|byte| *byte == 1));
            unmap(start, LEN);
            let other = map(LEN);
            assert!(bytes(other, LEN).iter().all(|byte| *byte == 0));
            {
                use std::io::Write;
                (&tell).write_all(&[0]).unwrap();
            }
            expect_ended_well(child);
            await_merged();
            let again = map(2 * LEN);
            assert!(bytes(again, 2 * LEN).iter().all(|byte| *byte == 0));
        },
    );
}

/// Threads store in an order that can be replayed, and forks all the while: each child sees a
/// prefix of what each thread has stored.
#[test]
fn children_see_a_prefix_of_what_each_thread_stored() {
    preloaded("children_see_a_prefix_of_what_each_thread_stored", || {
        const THREADS: usize = 3;
        const WORDS: usize = 4 << 20;
        let seconds: u64 = std::env::var("PAGECOW_SECONDS").map_or(4, |text| text.parse().unwrap());
        let start = map(THREADS * WORDS * 8).cast::<AtomicU64>();
        // SAFETY: mapped, zeros, for the whole test.
        let words = unsafe { std::slice::from_raw_parts(start, THREADS * WORDS) };
        let stop = AtomicBool::new(false);
        let place = |thread: usize, number: u64| {
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            thread * WORDS + (mixed as usize % (WORDS / 512)) * 512
        };
        // Each store goes to a page of its own choice; the last ones to be seen name the count.
        let check = |last: &[u64]| {
            for (thread, &last) in last.iter().enumerate() {
                let mut seen = 0;
                let from = last.saturating_sub(20_000);
                for number in from + 1..=last + 2_000_000 {
                    let found = words[place(thread, number)].load(Ordering::Relaxed);
                    if found < number {
                        break;
                    }
                    seen = number;
                }
                assert!(
                    seen >= last,
                    "thread {thread}: store {seen} of {last} is lost"
                );
                // None after the first that is missing.
                for number in seen + 1..seen + 20_000 {
                    let found = words[place(thread, number)].load(Ordering::Relaxed);
                    assert!(
                        found <= seen,
                        "thread {thread}: {found} without {}",
                        seen + 1
                    );
                }
            }
        };
        let counts: [AtomicU64; THREADS] = std::array::from_fn(|_| AtomicU64::new(0));
        let now = || counts.each_ref().map(|count| count.load(Ordering::SeqCst));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (counts, stop) = (&counts, &stop);
                scope.spawn(move || {
                    let mut number = 0;
                    while !stop.load(Ordering::Relaxed) {
                        number += 1;
                        words[place(thread, number)].store(number, Ordering::SeqCst);
                        counts[thread].store(number, Ordering::SeqCst);
                    }
                });
            }
            let begin = Instant::now();
            let mut children: Vec<libc::pid_t> = Vec::new();
            let mut forks = 0;
            while begin.elapsed() < Duration::from_secs(seconds) {
                let last = now();
                let nests = forks % 5 == 0;
                children.push(fork(|| {
                    check(&last);
                    if nests {
                        expect_ended_well(fork(|| check(&last)));
                    }
                }));
                forks += 1;
                let churn = map(1 << 20);
                bytes(churn, 1 << 20).fill(1);
                unmap(churn, 1 << 20);
                if children.len() == 4 {
                    for child in children.drain(..) {
                        expect_ended_well(child);
                    }
                    std::thread::sleep(Duration::from_millis(forks % 60));
                }
            }
            for child in children {
                expect_ended_well(child);
            }
            stop.store(true, Ordering::Relaxed);
            println!("{forks} forks");
        });
        check(&now());
    });
}

/// The C library's own allocator asks the kernel by itself: the log says so, once.
#[test]
fn a_heap_that_is_not_served_is_named() {
    let log = preloaded("a_heap_that_is_not_served_is_named", || {
        let served = map(LEN * 2);
        bytes(served, LEN * 2).fill(1);
        expect_ended_well(fork(|| ()));
        await_merged();
        let small = 100 << 10;
        // Below the size from which on the C library maps, each by itself.
        let held: Vec<_> = (0..800).map(|_| vec![1u8; small]).collect();
        for _ in 0..2 {
            expect_ended_well(fork(|| {
                assert!(held.iter().all(|part| part[small - 1] == 1));
            }));
        }
    });
    assert!(log.is_none_or(|log| log.matches("put libjemalloc").count() == 1));
}

/// A program may close what it does not know, and open a file of its own in its place.
#[test]
fn another_file_in_the_place_of_the_log_is_left_alone() {
    let log = preloaded("another_file_in_the_place_of_the_log_is_left_alone", || {
        use std::io::Read;
        use std::os::fd::AsRawFd;
        let mut file = tempfile::tempfile().unwrap();
        let path = std::env::var("PAGECOW_LOG").unwrap();
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let found = links.filter(|link| {
            std::fs::read_link(link.path()).is_ok_and(|to| to.to_str() == Some(&path))
        });
        let numbers: Vec<i32> = found
            .map(|link| link.file_name().to_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(numbers.len(), 1);
        // SAFETY: the log's descriptor is the file's from here on.
        assert!(unsafe { libc::dup2(file.as_raw_fd(), numbers[0]) } >= 0);
        expect_ended_well(fork(|| ()));
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), file.metadata().unwrap().len()), ("", 0));
    });
    assert!(log.is_none_or(|log| !log.contains("fork:")));
}

/// What is mapped while a fork is under way is the child's, too.
#[test]
fn children_have_what_was_mapped_just_before() {
    preloaded("children_have_what_was_mapped_just_before", || {
        const PAGES: usize = 150_000;
        let latest = AtomicU64::new(map(4096) as u64);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..PAGES {
                    let page = map(4096);
                    // SAFETY: mapped, and nobody else's.
                    unsafe { page.cast::<u64>().write_volatile(number as u64) };
                    latest.store(page as u64, Ordering::SeqCst);
                }
                stop.store(true, Ordering::SeqCst);
            });
            let mut forks = 0;
            while !stop.load(Ordering::SeqCst) || forks < 5 {
                expect_ended_well(fork(|| {
                    let page = latest.load(Ordering::SeqCst) as *const u64;
                    // SAFETY: mapped by the other thread before it said so.
                    let number = unsafe { page.read_volatile() };
                    assert!(number < PAGES as u64);
                }));
                forks += 1;
            }
        });
    });
}

/// What the kernel writes arrives beside merging, too.
#[test]
fn calls_that_write_into_memory_arrive_beside_merging() {
    let log = preloaded("calls_that_write_into_memory_arrive_beside_merging", || {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let start = map(LEN);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![9; 1 << 20]).unwrap();
        for round in 0..20 {
            bytes(start, LEN).fill(round);
            let child = fork(|| ());
            bytes(start, LEN).fill(round + 1);
            expect_ended_well(child);
            for offset in (0..LEN).step_by(1 << 20) {
                let to: *mut c_void = start.wrapping_add(offset).cast();
                let mut got = 0;
                while got < 1 << 20 {
                    let to = to.wrapping_add(got);
                    // SAFETY: inside the mapping.
                    let read =
                        unsafe { libc::pread(file.as_raw_fd(), to, (1 << 20) - got, got as i64) };
                    assert!(read > 0, "{}", std::io::Error::last_os_error());
                    got += read as usize;
                }
            }
            assert!(bytes(start, LEN).iter().all(|byte| *byte == 9));
        }
        await_merged();
    });
    assert!(log.is_none_or(|log| log.contains("merged:")));
}

/// Pages are mapped again ahead of the program, with the bytes that they have.
#[test]
fn pages_are_mapped_ahead_where_that_is_asked_for() {
    let name = "pages_are_mapped_ahead_where_that_is_asked_for";
    let variables = [("PAGECOW_POPULATE", "1")];
    let log = started(
        name,
        &variables,
        || Ok(()),
        || {
            let start = map(LEN);
            bytes(start, LEN).fill(1);
            expect_ended_well(fork(|| {
                assert!(bytes(start, LEN).iter().all(|byte| *byte == 1));
            }));
            bytes(start, LEN / 2).fill(2);
            await_merged();
            assert!(bytes(start, LEN / 2).iter().all(|byte| *byte == 2));
            assert!(bytes(start, LEN)[LEN / 2..].iter().all(|byte| *byte == 1));
        },
    );
    let log = log.unwrap_or_default();
    let mut lines = log.lines();
    assert!(
        log.is_empty() || lines.any(|line| line.contains("mapped: ") && !line.ends_with(" 0 MiB"))
    );
}
