//! Each system call that the library makes is refused once, the first of its kind, the second, and
//! so on, while an arena and its snapshots are compared with a model. A refusal may cost the
//! snapshot that was being taken, which says so. It ends no process and changes no byte.
//!
//! An executable of its own, since the functions in [`calls`] replace those of the C library in all
//! of it.

#![allow(
    unsafe_code,
    reason = "stands in for the C library's system call functions"
)]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod forks;
mod images;
mod overtaken;

use std::io::{Read, Seek};

use Refusal::{AtOnce, HalfWay};
use calls::{Call, Refusal, called, has_refused, refuse, watch};
use common::model::{Kind, Model, Step};
use common::{FAULT, end_of_forked, in_child_on, on, page_size};
use libc::{EAGAIN, EBADF, EINTR, EINVAL, EMFILE, ENOMEM, ENOSPC, ENOSYS, EPERM};
use pagecow::{ArenaBuilder, Engine, Window};

/// The exit codes of a life: the call was refused, and all was well; or it was never made.
const REFUSED: i32 = 0;
const NOT_REACHED: i32 = 44;

const USERFAULTFD: [Engine; 1] = [Engine::Userfaultfd];
const REMAP: [Engine; 1] = [Engine::Remap];
/// Blocks that the userfaultfd engine protects as a whole while none of their pages was touched.
/// One table of page-table entries covers one block.
const BLOCKS: usize = 4;
/// Failures that are told step by step.
const TOLD: usize = 3;

/// Its pages. With pages of 64 KiB, of which a block would be half a GiB, some fewer.
fn block() -> usize {
    (page_size() / size_of::<u64>()).min(2048)
}

/// 250 places are a block. Only the first block is touched before the first snapshot.
fn script() -> Vec<Step> {
    let write = |at, len, value| Step::Write { at, len, value };
    let touched_and_untouched_blocks = [
        write(0, 3 * page_size(), 1),
        Step::Snapshot,
        write(10, 100, 3),
        write(300, 100, 4),
        write(10, 100, 6),
        Step::ReadAt {
            which: 0,
            at: 0,
            len: 5 * page_size(),
        },
        Step::Snapshot,
        // From a touched block into one that is not, and from that into the next.
        Step::WriteGuarded {
            at: 495,
            len: 100_000,
            value: 7,
        },
        Step::ReadFrom {
            at: 748,
            len: 60_000,
            value: 8,
        },
        write(301, 9 * page_size(), 9),
        Step::Page { which: 1, index: 4 },
    ];
    // More copies than stay in memory when the last snapshot goes, and more pages than a commit
    // arms by itself.
    let most = BLOCKS * block() * page_size() * 5 / 8;
    let two_phases = [
        Step::WriteGuarded {
            at: 0,
            len: most,
            value: 10,
        },
        Step::Prepare,
        Step::ArmAhead,
        write(20, 100, 11),
        write(770, 100, 12),
        Step::ArmAhead,
        Step::ArmAhead,
        write(850, 100, 13),
        Step::Commit,
        write(20, 100, 14),
        write(300, 50 * page_size(), 15),
        write(852, 100, 16),
        Step::ChangedSince { which: 2, older: 0 },
        Step::Stream { which: 2, at: 850 },
        Step::Drop { which: 1 },
        Step::Drop { which: 0 },
        Step::Drop { which: 0 },
        // Some is brought back by these where that is done, and the rest before the next snapshot.
        Step::Tend,
        Step::Tend,
    ];
    let no_snapshot_lives = [
        write(100, 20 * page_size(), 17),
        write(500, 100, 18),
        Step::Snapshot,
        Step::Make {
            kind: Kind::View,
            which: 0,
        },
        Step::Make {
            kind: Kind::Branch,
            which: 0,
        },
        Step::StoreBeside {
            kind: Kind::Branch,
            which: 0,
            at: 400,
            len: 9 * page_size(),
            value: 22,
        },
        Step::Stream { which: 0, at: 300 },
        write(500, 100, 19),
        write(900, 10 * page_size(), 20),
        Step::Snapshot,
        Step::WriteGuarded {
            at: 100,
            len: 100,
            value: 21,
        },
    ];
    // One of two; then one alone, again and again, with the same page and others.
    let restores = [
        Step::Restore { which: 0 },
        Step::Drop { which: 1 },
        Step::Drop { which: 0 },
        Step::DropBeside {
            kind: Kind::View,
            which: 0,
        },
        Step::DropBeside {
            kind: Kind::Branch,
            which: 0,
        },
        Step::Snapshot,
        write(120, 100, 23),
        write(700, 3 * page_size(), 24),
        Step::Restore { which: 0 },
        write(700, 100, 25),
        Step::Restore { which: 0 },
        Step::Mark { which: 0 },
        write(800, 2 * page_size(), 26),
        Step::Snapshot,
        Step::ChangedSinceMark { mark: 0, which: 1 },
    ];
    [
        &touched_and_untouched_blocks[..],
        &two_phases,
        &no_snapshot_lives,
        &restores,
    ]
    .concat()
}

/// What is done when a snapshot was refused, before it is asked for again.
fn afterwards() -> [Step; 4] {
    let len = 2 * page_size();
    [
        Step::Write {
            at: 0,
            len,
            value: 101,
        },
        Step::Write {
            at: 301,
            len,
            value: 102,
        },
        Step::Write {
            at: 999,
            len,
            value: 103,
        },
        Step::WriteGuarded {
            at: 10,
            len: 40 * page_size(),
            value: 104,
        },
    ]
}

/// One life of an arena, in which a call may be refused. With `told` it prints what it does.
fn live(engine: Engine, builder: ArenaBuilder, told: bool) {
    let build = || {
        let builder = builder.clone();
        watch(|| Model::new(engine, builder, Window::default(), BLOCKS * block(), false))
    };
    let mut model = build().unwrap_or_else(|error| {
        assert!(has_refused(), "{error}");
        build().unwrap()
    });
    for step in script() {
        if told {
            eprintln!("{step:?}");
        }
        let refused_before = has_refused();
        if let Err(error) = watch(|| model.apply(&step)) {
            assert!(has_refused() && !refused_before, "{error}");
            check(&model);
            for step in afterwards() {
                model.apply(&step).unwrap();
                check(&model);
            }
            watch(|| model.apply(&step)).unwrap();
        }
        // Until then it is as in a life in which a later call is refused.
        if has_refused() {
            check(&model);
        }
    }
    watch(|| model.check_to_the_end());
}

fn check(model: &Model) {
    model.check();
    model.arena().check_invariants().unwrap();
}

/// Lives one life for each call of this kind and each way to refuse it, and refuses that call in
/// it. Fails at the end, with a list of what went wrong.
fn refuse_each(engines: &[Engine], call: Call, refusals: &[Refusal]) {
    let ended = in_child_on(engines, |engine| {
        let mut failures = Vec::new();
        for &refusal in refusals {
            for nth in 1.. {
                let life = |told| {
                    end_of_forked(|| {
                        refuse(call, nth, refusal);
                        live(engine, on(engine).huge_pages(call == Call::Madvise), told);
                        if has_refused() { REFUSED } else { NOT_REACHED }
                    })
                };
                let ended = life(false);
                match ended.code() {
                    Some(REFUSED) => continue,
                    Some(NOT_REACHED) => {
                        assert!(nth > 1, "{call:?} is never called");
                        break;
                    }
                    _ => {}
                }
                let failure = format!("{call:?} number {nth}, {refusal:?}: {ended}");
                if failures.len() < TOLD {
                    eprintln!("once more, step by step: {failure}");
                    let _ = life(true);
                }
                failures.push(failure);
            }
        }
        assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    });
    ended.expect_finished();
}

#[test]
fn calls_of_the_library_come_here() {
    let ended = in_child_on(Engine::ALL, |engine| {
        live(engine, on(engine), false);
        let by_any = [
            Call::Mprotect,
            Call::Madvise,
            Call::Mmap,
            Call::Munmap,
            Call::Open,
            Call::Scan,
        ];
        let by_faults = [Call::Mincore];
        let by_remap = [
            Call::Mremap,
            Call::MemfdCreate,
            Call::Lseek,
            Call::Fstat,
            Call::ProcessMadvise,
        ];
        let by_userfaultfd = [
            Call::Protect,
            Call::Unprotect,
            Call::Api,
            Call::Register,
            Call::Fstat,
            Call::Userfaultfd,
        ];
        let calls = by_any.into_iter().chain(by_faults).chain(by_remap);
        for call in calls.chain(by_userfaultfd) {
            eprintln!("{call:?}: {}", called(call));
            if engine == Engine::Mprotect && call == Call::Fstat {
                // That is what std asks.
                continue;
            }
            let wanted = match engine {
                Engine::Userfaultfd => by_userfaultfd.contains(&call) || by_faults.contains(&call),
                Engine::Remap => by_remap.contains(&call),
                _ => by_faults.contains(&call),
            };
            let wanted = wanted || by_any.contains(&call);
            assert_eq!(called(call) > 0, wanted, "{call:?}: {}", called(call));
        }
    });
    ended.expect_finished();
}

#[test]
fn mprotect() {
    let refusals = [AtOnce(ENOMEM), HalfWay(ENOMEM)];
    refuse_each(Engine::ALL, Call::Mprotect, &refusals);
}

#[test]
fn protecting_pages() {
    let refusals = [AtOnce(ENOMEM), HalfWay(ENOMEM), AtOnce(EAGAIN)];
    refuse_each(&USERFAULTFD, Call::Protect, &refusals);
}

#[test]
fn unprotecting_pages() {
    let refusals = [AtOnce(ENOMEM), HalfWay(ENOMEM), AtOnce(EAGAIN)];
    refuse_each(&USERFAULTFD, Call::Unprotect, &refusals);
}

#[test]
fn userfaultfd() {
    let refusals = [AtOnce(ENOMEM), AtOnce(EPERM)];
    refuse_each(&USERFAULTFD, Call::Userfaultfd, &refusals);
}

#[test]
fn agreeing_on_the_interface() {
    let refusals = [AtOnce(ENOMEM), AtOnce(EINVAL)];
    refuse_each(&USERFAULTFD, Call::Api, &refusals);
}

#[test]
fn registering_memory() {
    let refusals = [AtOnce(ENOMEM), AtOnce(EINVAL)];
    refuse_each(&USERFAULTFD, Call::Register, &refusals);
}

#[test]
fn asking_for_the_descriptor() {
    let refusals = [AtOnce(ENOMEM)];
    refuse_each(&USERFAULTFD, Call::Fstat, &refusals);
    refuse_each(&REMAP, Call::Fstat, &refusals);
}

#[test]
fn mremap() {
    let refusals = [AtOnce(ENOMEM), AtOnce(EINVAL), AtOnce(EAGAIN)];
    refuse_each(&REMAP, Call::Mremap, &refusals);
}

#[test]
fn making_a_file_of_memory() {
    let refusals = [AtOnce(ENOMEM), AtOnce(EMFILE)];
    refuse_each(&REMAP, Call::MemfdCreate, &refusals);
}

#[test]
fn asking_for_holes() {
    let refusals = [AtOnce(EINVAL), AtOnce(EBADF)];
    refuse_each(&REMAP, Call::Lseek, &refusals);
}

#[test]
fn madvise() {
    let refusals = [AtOnce(ENOMEM)];
    refuse_each(Engine::ALL, Call::Madvise, &refusals);
}

#[test]
fn throwing_copies_away() {
    let refusals = [AtOnce(EINVAL), AtOnce(ENOSYS), HalfWay(0)];
    refuse_each(&REMAP, Call::ProcessMadvise, &refusals);
}

#[test]
fn mincore() {
    let refusals = [AtOnce(ENOMEM)];
    refuse_each(FAULT, Call::Mincore, &refusals);
}

#[test]
fn scanning_the_page_map() {
    let refusals = [AtOnce(ENOMEM), AtOnce(EINVAL)];
    refuse_each(Engine::ALL, Call::Scan, &refusals);
}

#[test]
fn mmap() {
    let refusals = [AtOnce(ENOMEM)];
    refuse_each(Engine::ALL, Call::Mmap, &refusals);
}

#[test]
fn munmap() {
    let refusals = [AtOnce(ENOMEM)];
    refuse_each(Engine::ALL, Call::Munmap, &refusals);
}

#[test]
fn open() {
    let refusals = [AtOnce(ENOMEM)];
    refuse_each(Engine::ALL, Call::Open, &refusals);
}

/// A file that refuses a write gets an error, and one that takes less than it was given gets the
/// rest by the next one. (With remapping std writes, which does the same.)
#[test]
fn writing_to_a_file() {
    let ended = in_child_on(FAULT, |engine| {
        let mut arena = on(engine).build(300 * page_size()).unwrap();
        arena.fill(1);
        let snapshot = arena.snapshot().unwrap();
        for page in (0..300).step_by(2) {
            arena[page * page_size()] = 2;
        }
        for refusal in [AtOnce(ENOSPC), AtOnce(EINTR), HalfWay(0)] {
            for nth in 1..=2 {
                let before = called(Call::Pwritev);
                refuse(Call::Pwritev, before + nth, refusal);
                let mut file = tempfile::tempfile().unwrap();
                let copied = watch(|| snapshot.copy_to(&file));
                assert!(has_refused(), "{refusal:?} {nth}");
                if let AtOnce(ENOSPC) = refusal {
                    assert_eq!(copied.unwrap_err().raw_os_error(), Some(ENOSPC));
                    assert_eq!(file.stream_position().unwrap(), 0);
                    continue;
                }
                assert_eq!(copied.unwrap(), arena.len() as u64);
                let mut bytes = Vec::new();
                file.rewind().unwrap();
                file.read_to_end(&mut bytes).unwrap();
                assert!(bytes.len() == arena.len() && bytes.iter().all(|byte| *byte == 1));
            }
        }
    });
    ended.expect_finished();
}
