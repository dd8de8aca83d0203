//! Calls that are refused around a fork: the parent loses nothing, and the child has what was, or
//! crashes when it uses memory that it could not be given.

use std::os::unix::process::ExitStatusExt;

use libc::{EAGAIN, EINVAL, ENOMEM};
use pagecow::{Arena, Engine};

use crate::calls::{Call, Refusal::AtOnce, has_refused, refuse, watch};
use crate::common::{end_of_forked, expect_bytes, in_child_on, merge, on, page_size, patterned};
use crate::{NOT_REACHED, REFUSED};

/// What is forked finds what was, stores to it, and ends.
fn child(arena: &mut Arena, before: &[u8]) -> i32 {
    assert!(arena[..] == *before);
    arena.fill(9);
    assert!(arena.iter().all(|byte| *byte == 9));
    0
}

/// One life with two forks: of an arena all of which is shared, and of one that is partly merged.
/// The call's number is counted over both.
fn live(may_crash: bool) {
    let pages = 3 * page_size() / size_of::<u64>();
    let (mut arena, mut live) = patterned(on(Engine::Remap).keeper(false), pages);
    let frozen = live.clone();
    let snapshot = arena.snapshot().unwrap();
    let fork = |arena: &mut Arena, live: &mut Vec<u8>, value: u8| {
        let refused_before = has_refused();
        let ended = watch(|| end_of_forked(|| child(arena, live)));
        let crashed = may_crash && has_refused() && !refused_before && ended.signal().is_some();
        assert!(ended.success() || crashed, "{ended}");
        assert!(arena[..] == live[..]);
        arena.check_invariants().unwrap();
        for at in (0..arena.len()).step_by(7 * page_size()) {
            arena[at] = value;
            live[at] = value;
        }
        assert!(arena[..] == live[..]);
        expect_bytes(&snapshot, &frozen);
    };
    fork(&mut arena, &mut live, 1);
    fork(&mut arena, &mut live, 2);
    drop(snapshot);
    let fork = |arena: &mut Arena, live: &mut Vec<u8>, value: u8| {
        watch(|| arena.tend(std::time::Duration::ZERO));
        arena.check_invariants().unwrap();
        let refused_before = has_refused();
        let ended = watch(|| end_of_forked(|| child(arena, live)));
        let crashed = may_crash && has_refused() && !refused_before && ended.signal().is_some();
        assert!(ended.success() || crashed, "{ended}");
        watch(|| merge(arena));
        arena.check_invariants().unwrap();
        assert!(arena[..] == live[..]);
        arena.fill(value);
        live.fill(value);
    };
    fork(&mut arena, &mut live, 3);
    fork(&mut arena, &mut live, 4);
    // Whatever was refused, a snapshot can be taken, in one way or the other.
    let snapshot = arena.snapshot().unwrap();
    arena.fill(5);
    expect_bytes(&snapshot, &live);
    arena.check_invariants().unwrap();
}

fn refuse_each(call: Call, errors: &[i32], may_crash: bool) {
    let ended = in_child_on(&[Engine::Remap], |_| {
        for error in errors {
            for nth in 1.. {
                let ended = end_of_forked(|| {
                    refuse(call, nth, AtOnce(*error));
                    live(may_crash);
                    if has_refused() { REFUSED } else { NOT_REACHED }
                });
                match ended.code() {
                    Some(REFUSED) => {}
                    Some(NOT_REACHED) if nth > 1 => break,
                    _ => panic!("{call:?} number {nth}, {error}: {ended}"),
                }
            }
        }
    });
    ended.expect_finished();
}

#[test]
fn making_a_mark() {
    refuse_each(Call::MemfdCreate, &[ENOMEM], false);
}

#[test]
fn looking_at_a_mark() {
    refuse_each(Call::Fcntl, &[EINVAL, EAGAIN], false);
}

#[test]
fn mapping_a_mark() {
    refuse_each(Call::Mmap, &[ENOMEM], true);
}

#[test]
fn unmapping_a_mark() {
    refuse_each(Call::Munmap, &[EINVAL], false);
}

#[test]
fn freezing() {
    refuse_each(Call::Mremap, &[ENOMEM, EINVAL], true);
}

#[test]
fn having_the_child_get_the_memory() {
    refuse_each(Call::Madvise, &[ENOMEM, EAGAIN], true);
}

#[test]
fn protecting() {
    refuse_each(Call::Mprotect, &[ENOMEM], true);
}

#[test]
fn opening_the_page_map() {
    refuse_each(Call::Open, &[ENOMEM], false);
    refuse_each(Call::Scan, &[EINVAL], false);
}
