//! What children do. The program has other threads, so a child allocates nothing, takes no lock
//! and does not panic: it says what it found in memory that it shares with its parent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::World;
use crate::writer::Wrong;

/// What is wrong, from the first process that found anything.
pub struct Report(&'static Shared);

struct Shared {
    any: AtomicBool,
    /// Which memory, and numbers that say what is wrong.
    what: AtomicU64,
    numbers: [AtomicU64; 5],
}

/// What a child's exit status says.
pub const WRONG: i32 = 11;
pub const NO_CHILD: i32 = 12;
pub const NO_EXEC: i32 = 13;

#[derive(Clone, Copy, PartialEq)]
pub enum Act {
    Ends,
    /// Has a child of its own, which checks, too.
    Forks,
    Executes,
    /// Until the parent closes this pipe.
    Stays {
        told: i32,
        tell: i32,
    },
}

impl Report {
    pub fn new() -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0) };
        assert_ne!(mapped, libc::MAP_FAILED);
        // SAFETY: zeros, aligned, for ever.
        Self(unsafe { &*mapped.cast::<Shared>() })
    }

    fn set(&self, what: u64, numbers: [u64; 5]) {
        if self.0.any.swap(true, Ordering::SeqCst) {
            return;
        }
        self.0.what.store(what, Ordering::SeqCst);
        for (place, number) in self.0.numbers.iter().zip(numbers) {
            place.store(number, Ordering::SeqCst);
        }
    }

    pub fn text(&self) -> String {
        let numbers = self.0.numbers.each_ref();
        let numbers = numbers.map(|number| number.load(Ordering::SeqCst));
        match self.0.what.load(Ordering::SeqCst) {
            what if what < CHURN => format!(
                "writer {what}: offset {}, found {}, expected {}, {} stores, of which {} is the \
                 last to this place",
                numbers[0], numbers[1], numbers[2], numbers[3], numbers[4] as i64
            ),
            _ => format!(
                "block {}: offset {}, found {}, expected {}",
                numbers[0], numbers[1], numbers[2], numbers[3]
            ),
        }
    }
}

const CHURN: u64 = 100;

/// Compares all memory with what the counts say.
fn is_right(world: &World) -> bool {
    for (number, writer) in world.writers.iter().enumerate() {
        if let Err(wrong) = writer.check(true) {
            let Wrong {
                offset,
                found,
                expected,
                count,
                store,
            } = wrong;
            let numbers = [offset as u64, found.into(), expected.into(), count, store];
            world.report.set(number as u64, numbers);
            return false;
        }
    }
    if let Err((block, offset, found, expected)) = world.churn.check() {
        let numbers = [block as u64, offset as u64, found, expected, 0];
        world.report.set(CHURN, numbers);
        return false;
    }
    true
}

fn exit(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

fn guard() {
    // It ends with its parent, and by itself.
    // SAFETY: plain calls.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::alarm(300);
    }
}

pub fn live(world: &World, act: Act) -> ! {
    guard();
    if !is_right(world) {
        exit(WRONG);
    }
    match act {
        Act::Ends => {}
        Act::Forks => {
            // SAFETY: the child checks and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                guard();
                exit(if is_right(world) { 0 } else { WRONG });
            }
            // Its child must not see this.
            scribble(world);
            let mut status = 0;
            // SAFETY: a live variable.
            if child < 0 || unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
                exit(NO_CHILD);
            }
            exit(if status == 0 { 0 } else { WRONG });
        }
        Act::Executes => {
            let path = c"/bin/true".as_ptr();
            // SAFETY: strings that end in zero, and lists of them that end in null.
            unsafe { libc::execv(path, [path, std::ptr::null()].as_ptr()) };
            exit(NO_EXEC);
        }
        Act::Stays { told, tell } => {
            let mut byte = 0u8;
            // SAFETY: a live byte; the pipe's other end, which is the parent's.
            unsafe {
                libc::close(tell);
                libc::read(told, (&raw mut byte).cast(), 1);
            }
            if !is_right(world) {
                exit(WRONG);
            }
        }
    }
    // The parent, and the children of others, must not see this.
    scribble(world);
    exit(0)
}

fn scribble(world: &World) {
    for writer in &world.writers {
        writer.scribble();
    }
}
