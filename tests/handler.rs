//! What code that faults must not notice of the fault handler.

#![allow(
    unsafe_code,
    reason = "signal handlers, alternate stacks, several threads"
)]

mod common;

use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::thread;

use common::mappings::Mapping;
use common::signals;
use common::{
    Trail, bytes_of, expect_bytes, in_child, on, page_by_page, page_size, pattern, patterned,
};
use pagecow::{Engine, Snapshotter};

/// Takes snapshots until told to stop, and keeps a few.
fn keep_taking(snapshotter: &Snapshotter, stop: &AtomicBool, mut look: impl FnMut(&[u8])) -> u64 {
    let mut kept = Vec::new();
    let mut taken = 0;
    while !stop.load(Relaxed) {
        let snapshot = snapshotter.snapshot().unwrap();
        let bytes = bytes_of(&snapshot);
        look(&bytes);
        kept.push((snapshot, bytes));
        taken += 1;
        if kept.len() > 3 {
            let (snapshot, bytes) = kept.swap_remove(taken as usize % 4);
            expect_bytes(&snapshot, &bytes);
        }
    }
    taken
}

/// Threads that fault on the same pages, and so wait for each other, and for snapshots.
#[test]
fn errno_is_kept() {
    let ended = in_child(|engine| {
        const ROUNDS: usize = 200;
        let (mut arena, _) = patterned(on(engine), 16);
        let snapshotter = arena.snapshotter();
        let words = arena.atomic_u64();
        let words_per_page = page_size() / 8;
        let stop = AtomicBool::new(false);
        let started = AtomicUsize::new(0);
        thread::scope(|scope| {
            let taker = scope.spawn(|| keep_taking(&snapshotter, &stop, |_| ()));
            let writers = [1, 2, 3].map(|number| {
                let (started, snapshotter) = (&started, &snapshotter);
                scope.spawn(move || {
                    started.fetch_add(1, SeqCst);
                    let mut round = 0;
                    while round < ROUNDS || snapshotter.stats().unwrap().faults < 2000 {
                        round += 1;
                        for page in words.chunks_exact(words_per_page) {
                            signals::set_errno(number * 1000);
                            page[number as usize].store(round as u64, Relaxed);
                            assert_eq!(signals::errno(), number * 1000);
                        }
                    }
                })
            });
            for writer in writers {
                writer.join().unwrap();
            }
            stop.store(true, Relaxed);
            assert!(taker.join().unwrap() > 0);
        });
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}

/// An alternate stack as small as one may be that has room for a modest handler.
mod small_stack {
    use super::*;

    const PAINT: u8 = 0xa5;
    /// What the handler may use on top of what the kernel needs.
    const ROOM: usize = 4096;

    fn least() -> usize {
        // SAFETY: asks for a number.
        unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) as usize }.max(libc::MINSIGSTKSZ)
    }

    fn set(start: *mut u8, size: usize, flags: i32) -> libc::stack_t {
        let stack = libc::stack_t {
            ss_sp: start.cast(),
            ss_flags: flags,
            ss_size: size,
        };
        let mut before = stack;
        // SAFETY: memory of the caller's that outlives its being the alternate stack.
        let result = unsafe { libc::sigaltstack(&raw const stack, &raw mut before) };
        assert_eq!(result, 0);
        before
    }

    /// Bytes of an alternate stack that `fault` uses, the kernel's own frame included.
    fn used_by(fault: impl FnOnce()) -> usize {
        const BELOW: usize = 64 << 10;
        let size = least() + ROOM;
        let pages = (BELOW + size).div_ceil(page_size());
        let memory = Mapping::new(pages, libc::PROT_READ | libc::PROT_WRITE);
        let whole = pages * page_size();
        // SAFETY: writable, and nobody else's.
        unsafe { memory.as_mut_ptr().write_bytes(PAINT, whole) };
        let before = set(memory.as_mut_ptr().wrapping_add(whole - size), size, 0);
        fault();
        set(before.ss_sp.cast(), before.ss_size, before.ss_flags);
        // SAFETY: initialised above; no handler runs there any more.
        let painted = unsafe { std::slice::from_raw_parts(memory.as_mut_ptr(), whole) };
        let untouched = painted.iter().take_while(|byte| **byte == PAINT).count();
        whole - untouched
    }

    /// The same of faults that find no mapping left: with no page open, and beside one.
    fn at_the_wall() -> [usize; 2] {
        let page = page_size();
        let (mut arena, before) = patterned(page_by_page(Engine::Mprotect), 64);
        let snapshot = arena.snapshot().unwrap();
        let filler = common::mappings::leave_none();
        let alone = used_by(|| arena[20 * page] = 0xff);
        drop(filler);
        assert_eq!(arena.stats().wall_exits, 1);
        expect_bytes(&snapshot, &before);

        let first = arena.snapshot().unwrap();
        arena[10 * page] = 0xee;
        let filler = common::mappings::leave_none();
        let beside = used_by(|| arena[20 * page] = 0xee);
        drop(filler);
        assert_eq!(arena.stats().wall_exits, 2);
        assert_eq!(first.page(20).unwrap().bytes()[0], 0xff);
        [alone, beside]
    }

    extern "C" fn nothing(_: i32) {}

    #[test]
    fn is_large_enough() {
        let ended = in_child(|engine| {
            let (mut arena, before) = patterned(on(engine), 64);
            let page = page_size();
            let snapshot = arena.snapshot().unwrap();
            let saved = used_by(|| arena[0] = 0xff);
            assert_eq!(arena.stats().save_latency.count(), 1);
            expect_bytes(&snapshot, &before);

            arena[page] = 0xff;
            arena[2 * page] = 0xff;
            let ahead = used_by(|| arena[4 * page] = 0xff);
            assert!(arena.stats().pages_saved_ahead >= 3);
            expect_bytes(&snapshot, &before);

            drop(snapshot);
            let soft = used_by(|| arena[60 * page] = 0xff);
            assert_eq!(arena.stats().soft_faults, 1);
            let mut all = vec![saved, ahead, soft];
            if engine == Engine::Mprotect {
                all.extend(at_the_wall());
            }

            // Much of what the kernel may need it does not always need: the handler's part is looked at.
            let handler = nothing as *const () as usize;
            signals::install(
                libc::SIGUSR1,
                &signals::action(handler, libc::SA_ONSTACK, &[]),
            );
            let kernel = used_by(|| signals::raise(libc::SIGUSR1));
            let ours = all.into_iter().map(|used| used.saturating_sub(kernel));
            let ours: Vec<usize> = ours.collect();
            let text = format!("kernel {kernel} of {}, handler {ours:?} of {ROOM}", least());
            eprintln!("bytes of stack: {text}");
            assert!(
                ours.iter().all(|used| (100..=ROOM).contains(used)),
                "{text}"
            );
        });
        ended.expect_finished();
    }
}

/// A handler that stores to the arena that the code it interrupts stores to.
mod nested {
    use super::*;

    static WORDS: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
    static NEXT: AtomicU64 = AtomicU64::new(1);
    const PAGES: u64 = 24;
    const BY_CODE: usize = 1;
    const BY_HANDLER: usize = 2;

    /// One step of a [`Trail`] of its own.
    extern "C" fn store(_: i32) {
        let next = NEXT.load(Relaxed);
        let word = (next % PAGES) as usize * (page_size() / 8) + BY_HANDLER;
        // SAFETY: inside the arena, which lives as long as signals come.
        unsafe { &*WORDS.load(Relaxed).wrapping_add(word) }.store(next, Relaxed);
        NEXT.store(next + 1, Relaxed);
    }

    /// Has `handler` store to these words at each SIGUSR1.
    fn on_signals(handler: extern "C" fn(i32), words: *mut AtomicU64) {
        WORDS.store(words, Relaxed);
        let handler = handler as *const () as usize;
        signals::install(
            libc::SIGUSR1,
            &signals::action(handler, libc::SA_RESTART, &[]),
        );
    }

    /// The thread has to wait for the caller's to end.
    fn keep_signalling(whom: libc::pthread_t, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            // SAFETY: the thread is there (this function's contract).
            unsafe { libc::pthread_kill(whom, libc::SIGUSR1) };
            thread::yield_now();
        }
    }

    #[test]
    fn stores_in_handler_and_code() {
        let ended = in_child(|engine| {
            const SIGNALS: u64 = 300;
            const SNAPSHOTS: u64 = 200;
            let mut arena = on(engine).build(PAGES as usize * page_size()).unwrap();
            let snapshotter = arena.snapshotter();
            let words = arena.atomic_u64();
            on_signals(store, words.as_ptr().cast_mut());
            let stop = AtomicBool::new(false);
            let taken = AtomicU64::new(0);
            // SAFETY: no arguments.
            let main = unsafe { libc::pthread_self() };
            let mut steps = 0;
            thread::scope(|scope| {
                scope.spawn(|| {
                    keep_taking(&snapshotter, &stop, |bytes| {
                        Trail::steps_in(bytes, BY_CODE);
                        Trail::steps_in(bytes, BY_HANDLER);
                        taken.fetch_add(1, Relaxed);
                    });
                });
                scope.spawn(|| keep_signalling(main, &stop));
                let mut trail = Trail::new(words, BY_CODE);
                while NEXT.load(Relaxed) < SIGNALS || taken.load(Relaxed) < SNAPSHOTS {
                    trail.step();
                    steps += 1;
                }
                stop.store(true, Relaxed);
            });
            let handled = NEXT.load(Relaxed) - 1;
            assert_eq!(Trail::steps_in(&arena, BY_CODE), steps);
            assert_eq!(Trail::steps_in(&arena, BY_HANDLER), handled);
            arena.check_invariants().unwrap();
        });
        ended.expect_finished();
    }

    /// The same with guards, which hold pages outside the handler.
    #[test]
    fn stores_in_a_handler_and_guards_in_the_code() {
        let ended = in_child(|engine| {
            const ROUNDS: usize = 500;
            let mut arena = on(engine).build(PAGES as usize * page_size()).unwrap();
            let snapshotter = arena.snapshotter();
            on_signals(store, arena.as_mut_ptr().cast());
            let stop = AtomicBool::new(false);
            let taken = AtomicU64::new(0);
            // SAFETY: no arguments.
            let main = unsafe { libc::pthread_self() };
            thread::scope(|scope| {
                scope.spawn(|| {
                    keep_taking(&snapshotter, &stop, |bytes| {
                        Trail::steps_in(bytes, BY_HANDLER);
                        taken.fetch_add(1, Relaxed);
                    });
                });
                scope.spawn(|| keep_signalling(main, &stop));
                let mut round = 0;
                while round < ROUNDS || taken.load(Relaxed) < 100 || NEXT.load(Relaxed) < 100 {
                    round += 1;
                    drop(arena.writable(..).unwrap());
                    drop(snapshotter.snapshot().unwrap());
                }
                stop.store(true, Relaxed);
            });
            assert_eq!(Trail::steps_in(&arena, BY_HANDLER), NEXT.load(Relaxed) - 1);
            arena.check_invariants().unwrap();
        });
        ended.expect_finished();
    }

    const COUNTER: usize = 3;
    static COUNTED: AtomicU64 = AtomicU64::new(0);

    /// May run on several threads at once.
    extern "C" fn count(_: i32) {
        let page = COUNTED.fetch_add(1, Relaxed) % PAGES;
        let word = page as usize * (page_size() / 8) + COUNTER;
        // SAFETY: inside the arena, which lives as long as signals come.
        unsafe { &*WORDS.load(Relaxed).wrapping_add(word) }.fetch_add(1, Relaxed);
    }

    /// The same in a process that forks, in the thread that does and in one that reads a snapshot.
    #[test]
    fn stores_in_a_handler_around_forks() {
        let ended = in_child(|engine| {
            const FORKS: usize = 300;
            let mut arena = on(engine).build(PAGES as usize * page_size()).unwrap();
            let snapshotter = arena.snapshotter();
            on_signals(count, arena.as_mut_ptr().cast());
            let stop = AtomicBool::new(false);
            let quiet = AtomicBool::new(false);
            // SAFETY: no arguments.
            let main = unsafe { libc::pthread_self() };
            let reader = AtomicU64::new(main);
            thread::scope(|scope| {
                scope.spawn(|| {
                    // SAFETY: no arguments.
                    reader.store(unsafe { libc::pthread_self() }, Relaxed);
                    let snapshot = snapshotter.snapshot().unwrap();
                    let mut byte = [0];
                    while !quiet.load(Relaxed) {
                        snapshot.read_at(0, &mut byte).unwrap();
                    }
                });
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        for thread in [main, reader.load(Relaxed)] {
                            // SAFETY: both threads wait for this one.
                            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                        }
                        thread::sleep(std::time::Duration::from_micros(50));
                    }
                    quiet.store(true, Relaxed);
                });
                for _ in 0..FORKS {
                    drop(snapshotter.snapshot().unwrap());
                    match common::fork() {
                        common::Forked::Child => common::end_of_fork(|| ()),
                        common::Forked::Parent(child) => common::expect_child_ended_well(child),
                    }
                }
                stop.store(true, Relaxed);
            });
            let stored: u64 = arena
                .atomic_u64()
                .chunks(page_size() / 8)
                .map(|page| page[COUNTER].load(Relaxed))
                .sum();
            assert_eq!(stored, COUNTED.load(Relaxed));
            arena.check_invariants().unwrap();
        });
        ended.expect_finished();
    }
}

/// More arenas than the handler's first table holds, that come and go while others are written.
#[test]
fn arenas_come_and_go_while_others_fault() {
    let ended = in_child(|engine| {
        const ROUNDS: u8 = 20;
        const AT_ONCE: usize = 32;
        let (mut steady, _) = patterned(on(engine), 32);
        let snapshotter = steady.snapshotter();
        let words = steady.atomic_u64();
        for page in words.chunks_exact(page_size() / 8) {
            page[0].store(0, Relaxed);
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let makers = [1, 2, 3]
                .map(|byte| scope.spawn(move || make_and_drop(engine, byte, ROUNDS, AT_ONCE)));
            let taker = scope.spawn(|| {
                keep_taking(&snapshotter, &stop, |bytes| {
                    Trail::steps_in(bytes, 0);
                })
            });
            let writer = scope.spawn(|| {
                let mut trail = Trail::new(words, 0);
                while !stop.load(Relaxed) {
                    trail.step();
                }
            });
            for maker in makers {
                maker.join().unwrap();
            }
            stop.store(true, Relaxed);
            writer.join().unwrap();
            assert!(taker.join().unwrap() > 0);
        });
        steady.check_invariants().unwrap();
    });
    ended.expect_finished();
}

fn make_and_drop(engine: Engine, number: u8, rounds: u8, at_once: usize) {
    for round in 0..rounds {
        let mut arenas: Vec<_> = (0..at_once).map(|_| patterned(on(engine), 2)).collect();
        let snapshots: Vec<_> = arenas
            .iter()
            .map(|(arena, _)| arena.snapshot().unwrap())
            .collect();
        for (arena, _) in &mut arenas {
            arena.fill(number ^ round);
        }
        // Some snapshots outlive their arenas, and end in another thread.
        let before = pattern(2);
        let (first, second) = snapshots.split_at(at_once / 2);
        for snapshot in first {
            expect_bytes(snapshot, &before);
        }
        for (arena, _) in arenas {
            assert!(arena.iter().all(|byte| *byte == number ^ round));
        }
        let second = second.to_vec();
        drop(snapshots);
        let reader = thread::spawn(move || {
            for snapshot in second {
                expect_bytes(&snapshot, &pattern(2));
            }
        });
        reader.join().unwrap();
    }
}

/// Pagecow's handler, beneath [`twice`].
static OURS: AtomicUsize = AtomicUsize::new(0);

/// The second call finds the page open, as if another thread had been faster.
extern "C" fn twice(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the address of such a function.
    let ours = unsafe { std::mem::transmute::<usize, signals::Handler>(OURS.load(Relaxed)) };
    ours(signal, info, context);
    ours(signal, info, context);
}

/// While a snapshot is on its way for long, pages are armed again and again without a new epoch. A thread
/// that finds its page opened by another one each time makes progress all the same.
#[test]
fn a_page_that_others_open_first_every_time() {
    let ended = in_child(|engine| {
        /// More often than the handler takes for a store that fails for ever.
        const OFTEN: u64 = 1000;
        let (mut arena, before) = patterned(page_by_page(engine), 600);
        let snapshot = arena.snapshot().unwrap();
        let mut pending = arena.prepare().unwrap();
        for signal in signals::of_engine(engine) {
            let mut action = signals::current(*signal);
            OURS.store(action.sa_sigaction, Relaxed);
            action.sa_sigaction = twice as *const () as usize;
            signals::install(*signal, &action);
        }
        let mut met = 0;
        let mut value = 0u8;
        while met < OFTEN {
            // So much is open that a step arms some of it: the first page, if its slices get that far.
            drop(arena.writable(..).unwrap());
            pending.step(std::time::Duration::MAX).unwrap();
            value = value.wrapping_add(1);
            arena[0] = value;
            let stats = arena.stats();
            met += u64::from(stats.spurious_faults > met);
            assert_eq!((stats.faults, stats.spurious_faults), (2 * met, met));
        }
        expect_bytes(&snapshot, &before);
        arena.check_invariants().unwrap();
    });
    ended.expect_finished();
}
