//! Calls that would split the mapping of served memory: what they are about becomes the kernel's
//! first, and all goes as without the library.

use std::ffi::c_void;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::LEN;
use crate::program::{
    await_merged, bytes, expect_ended_well, fork, is_served, map, preloaded, unmap,
};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

fn protect(start: *mut u8, len: usize, access: i32) {
    // SAFETY: mapped by the test.
    let protected = unsafe { libc::mprotect(start.cast(), len, access) };
    assert_eq!(protected, 0, "{}", std::io::Error::last_os_error());
}

/// Whether a load from there is refused, as a child finds out.
fn is_refused(at: *mut u8) -> bool {
    // SAFETY: the child loads a byte, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            at.read_volatile();
            libc::_exit(0)
        };
    }
    let mut status = 0;
    // SAFETY: a live variable.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(status == 0 || libc::WTERMSIG(status) == libc::SIGSEGV);
    status != 0
}

/// Protected in the middle, before a fork, while a child lives and after a merge: bytes stay, and
/// later forks have all of it.
#[test]
fn protected_memory_keeps_its_bytes() {
    let log = preloaded("leaving::protected_memory_keeps_its_bytes", || {
        let start = map(LEN);
        for (page, part) in bytes(start, LEN).chunks_mut(PAGE).enumerate() {
            part.fill(page as u8);
        }
        let holds = |from: usize, to: usize| {
            let parts = bytes(start, LEN).chunks(PAGE).enumerate();
            for (page, part) in parts.skip(from / PAGE).take((to - from) / PAGE) {
                assert!(part.iter().all(|byte| *byte == page as u8), "page {page}");
            }
        };
        protect(start.wrapping_add(4 * MIB), MIB, libc::PROT_READ);
        assert!(!is_served(start.wrapping_add(4 * MIB)) && is_served(start));
        holds(0, LEN);
        let (mut told, tell) = std::io::pipe().unwrap();
        let child = fork(|| {
            told.read_exact(&mut [0]).unwrap();
            holds(0, LEN);
        });
        bytes(start, MIB).fill(1);
        // While the child looks at the rest.
        protect(start.wrapping_add(9 * MIB), MIB, libc::PROT_NONE);
        protect(start.wrapping_add(MIB / 2), MIB / 2, libc::PROT_READ);
        assert!(is_refused(start.wrapping_add(9 * MIB)));
        assert!(bytes(start, MIB).iter().all(|byte| *byte == 1));
        (&tell).write_all(&[0]).unwrap();
        expect_ended_well(child);
        await_merged();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        protect(start, 16 * MIB, access);
        assert!(bytes(start, MIB).iter().all(|byte| *byte == 1));
        holds(MIB, LEN);
        bytes(start, LEN).fill(5);
        expect_ended_well(fork(|| {
            assert!(bytes(start, LEN).iter().all(|byte| *byte == 5))
        }));
        unmap(start, LEN);
        // All of it comes back once nobody looks at it.
        await_merged();
        for _ in 0..3 {
            let again = map(LEN);
            assert!(bytes(again, LEN).iter().all(|byte| *byte == 0));
            bytes(again, LEN).fill(6);
            expect_ended_well(fork(|| {
                assert!(bytes(again, LEN).iter().all(|byte| *byte == 6));
            }));
            unmap(again, LEN);
        }
    });
    assert!(log.is_none_or(|log| !log.contains("refused")));
}

/// A thread adds to a page without a pause while that leaves with many others, and is copied first:
/// its stores wait or go through, and none is lost. (What leaves stays writable.)
#[test]
fn no_store_is_lost_while_pages_leave() {
    preloaded("leaving::no_store_is_lost_while_pages_leave", || {
        const PIECES: usize = 32;
        let start = map(LEN);
        // SAFETY: mapped, for the whole test.
        let words = unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), LEN / 8) };
        let word = |piece: usize| &words[piece * LEN / PIECES / 8];
        let piece = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let adder = scope.spawn(|| {
                let mut added = [0; PIECES];
                loop {
                    let piece = piece.load(Ordering::SeqCst);
                    if piece == PIECES {
                        return added;
                    }
                    word(piece).fetch_add(1, Ordering::Relaxed);
                    added[piece] += 1;
                }
            });
            let mut children = Vec::new();
            for leaving in 0..PIECES {
                piece.store(leaving, Ordering::SeqCst);
                let start = start.wrapping_add(leaving * LEN / PIECES);
                bytes(start, LEN / PIECES)[PAGE..].fill(1);
                if leaving % 8 == 3 {
                    children.push(fork(|| ()));
                }
                while word(leaving).load(Ordering::Relaxed) < 1000 {
                    std::thread::yield_now();
                }
                let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
                protect(start, LEN / PIECES, access);
                assert!(!is_served(start));
            }
            piece.store(PIECES, Ordering::SeqCst);
            for (piece, added) in adder.join().unwrap().into_iter().enumerate() {
                assert_eq!(word(piece).load(Ordering::Relaxed), added, "{piece}");
            }
            children.into_iter().for_each(expect_ended_well);
        });
    });
}

/// A mapping of another kind over a part, and that one moved away.
#[test]
fn other_mappings_over_served_memory() {
    preloaded("leaving::other_mappings_over_served_memory", || {
        let start = map(LEN);
        bytes(start, LEN).fill(3);
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(&[7; 4 * PAGE]).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let over = start.wrapping_add(8 * MIB);
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: in the place of the test's own memory.
        let mapped = unsafe { libc::mmap(over.cast(), 4 * PAGE, access, flags, number, 0) };
        assert_eq!(mapped, over.cast());
        assert!(bytes(over, 4 * PAGE).iter().all(|byte| *byte == 7));
        expect_ended_well(fork(|| bytes(over, PAGE).fill(8)));
        assert!(
            bytes(over, PAGE).iter().all(|byte| *byte == 8),
            "it is shared"
        );
        assert!(bytes(start, 8 * MIB).iter().all(|byte| *byte == 3));
        let flags = libc::MREMAP_MAYMOVE;
        // SAFETY: as above.
        let moved = unsafe { libc::mremap(over.cast(), 4 * PAGE, 64 * PAGE, flags) };
        assert_ne!(moved, libc::MAP_FAILED);
        assert_ne!(moved, over.cast::<c_void>());
        assert_eq!(bytes(moved.cast(), PAGE)[0], 8);
        // One from elsewhere, moved to served memory.
        // SAFETY: a new mapping.
        let elsewhere = unsafe {
            let flags = libc::MAP_SHARED;
            libc::mmap(std::ptr::null_mut(), 4 * PAGE, access, flags, number, 0)
        };
        assert_ne!(elsewhere, libc::MAP_FAILED);
        let to: *mut c_void = start.wrapping_add(20 * MIB).cast();
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: in the place of the test's own memory.
        let moved = unsafe { libc::mremap(elsewhere, 4 * PAGE, 4 * PAGE, flags, to) };
        assert_eq!(moved, to);
        assert_eq!(bytes(to.cast(), PAGE)[0], 8);
        // Plain memory in a place around it.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let around = start.wrapping_add(4 * MIB);
        // SAFETY: as above.
        let mapped = unsafe { libc::mmap(around.cast(), 8 * MIB, access, flags, -1, 0) };
        assert_eq!(mapped, around.cast());
        assert!(bytes(around, 8 * MIB).iter().all(|byte| *byte == 0));
        bytes(start, LEN).fill(4);
        expect_ended_well(fork(|| {
            assert!(bytes(start, LEN).iter().all(|byte| *byte == 4))
        }));
    });
}

/// What was unmapped, and mapped again where it was, nobody else gets.
#[test]
fn mappings_in_the_place_of_what_was_unmapped() {
    preloaded(
        "leaving::mappings_in_the_place_of_what_was_unmapped",
        || {
            let start = map(LEN);
            bytes(start, LEN).fill(1);
            unmap(start, LEN);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let half = start.wrapping_add(LEN / 2);
            for (place, access) in [
                (start, libc::PROT_READ | libc::PROT_WRITE),
                (half, libc::PROT_READ),
            ] {
                // SAFETY: where the test's own memory was.
                let mapped = unsafe { libc::mmap(place.cast(), LEN / 2, access, flags, -1, 0) };
                assert_eq!(mapped, place.cast());
            }
            let other = map(LEN);
            bytes(other, LEN).fill(2);
            assert!(bytes(start, LEN).iter().all(|byte| *byte == 0));
            unmap(start, LEN);
            assert_eq!(map(LEN), start);
            assert!(bytes(start, LEN).iter().all(|byte| *byte == 0));
            assert!(is_served(half));
        },
    );
}

/// What is locked, or kept out of children, is so.
#[test]
fn locks_and_advice_hold() {
    preloaded("leaving::locks_and_advice_hold", || {
        let start = map(LEN);
        bytes(start, LEN).fill(1);
        // SAFETY: the test's own memory.
        let locked = unsafe { libc::mlock(start.wrapping_add(5).cast(), PAGE) };
        assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
        let kept = start.wrapping_add(MIB);
        // SAFETY: as above.
        let advised = unsafe { libc::madvise(kept.cast(), PAGE, libc::MADV_WIPEONFORK) };
        assert_eq!(advised, 0);
        expect_ended_well(fork(|| {
            assert!(bytes(kept, PAGE).iter().all(|byte| *byte == 0));
            assert!(bytes(start, MIB).iter().all(|byte| *byte == 1));
        }));
        assert!(bytes(kept, PAGE).iter().all(|byte| *byte == 1));
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmLck:"));
        assert!(!line.unwrap().contains(" 0 kB"), "{line:?}");
        // SAFETY: as above; both are ordinary memory by now, and give it back at once.
        let advised = unsafe { libc::madvise(kept.cast(), PAGE, libc::MADV_DONTNEED) };
        assert_eq!(advised, 0);
        assert!(bytes(kept, PAGE).iter().all(|byte| *byte == 0));
        await_merged();
        let served = start.wrapping_add(2 * MIB);
        // SAFETY: as above.
        let advised = unsafe { libc::madvise(served.cast(), PAGE, libc::MADV_DONTNEED_LOCKED) };
        assert_eq!(advised, 0);
        assert!(bytes(served, PAGE).iter().all(|byte| *byte == 0));
    });
}

/// A handler of the program's own, as a garbage collector has it: it opens the page.
#[test]
fn the_programs_handler_gets_its_faults() {
    preloaded("leaving::the_programs_handler_gets_its_faults", || {
        static FAULTS: AtomicU64 = AtomicU64::new(0);
        extern "C" fn open(_: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
            FAULTS.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the kernel's, for this call; the page is the test's.
            unsafe {
                let page = (*info).si_addr() as usize / PAGE * PAGE;
                let access = libc::PROT_READ | libc::PROT_WRITE;
                libc::mprotect(page as *mut c_void, PAGE, access);
            }
        }
        // SAFETY: zeros are a valid structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = open as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: a handler that is async-signal-safe enough.
        let installed =
            unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()) };
        assert_eq!(installed, 0);
        let start = map(LEN);
        bytes(start, LEN).fill(1);
        protect(start, MIB, libc::PROT_READ);
        bytes(start, MIB).fill(2);
        assert_eq!(FAULTS.load(Ordering::Relaxed), (MIB / PAGE) as u64);
        assert!(bytes(start, MIB).iter().all(|byte| *byte == 2));
    });
}

/// A signal that was sent is ignored where the program wants that, and the library's handler stays.
#[test]
fn a_signal_that_is_ignored_changes_nothing() {
    preloaded("leaving::a_signal_that_is_ignored_changes_nothing", || {
        // SAFETY: plain calls.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_IGN);
            libc::raise(libc::SIGSEGV);
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        assert_ne!(caught & 1 << (libc::SIGSEGV - 1), 0, "{caught:x}");
    });
}
