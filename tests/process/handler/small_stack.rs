//! The handler runs on the smallest alternate stack that has room for a modest handler.

use crate::common::mappings::{Mapping, leave_none};
use crate::common::{
    FAULT, expect_bytes, in_child_on, on, page_by_page, page_size, patterned, signals,
};
use pagecow::Engine;

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
    let filler = leave_none();
    let alone = used_by(|| arena[20 * page] = 0xff);
    drop(filler);
    assert_eq!(arena.stats().wall_exits, 1);
    expect_bytes(&snapshot, &before);

    let first = arena.snapshot().unwrap();
    arena[10 * page] = 0xee;
    let filler = leave_none();
    let beside = used_by(|| arena[20 * page] = 0xee);
    drop(filler);
    assert_eq!(arena.stats().wall_exits, 2);
    assert_eq!(first.page(20).unwrap().bytes()[0], 0xff);
    [alone, beside]
}

extern "C" fn nothing(_: i32) {}

#[test]
fn is_large_enough() {
    let ended = in_child_on(FAULT, |engine| {
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

        // The kernel does not always need all that it may need, so only the handler's part is
        // checked.
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
