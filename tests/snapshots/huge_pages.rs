//! Arenas in huge pages, which the kernel splits where pages of them are opened. Where the system
//! has no huge pages the tests run with small ones.

use std::io::{self, Read};

use crate::common::mappings::in_huge_pages;
use crate::common::model::{Model, Step, config, engine, steps, window};
use crate::common::{
    expect_bytes, for_each_engine, for_each_fault_engine, on, page_by_page, page_size, patterned,
};
use memmap2::{Advice, MmapMut};
use proptest::prelude::*;

/// Several huge pages of 2 MiB, wherever the arena begins.
const LEN: usize = 8 << 20;
const HUGE: usize = 2 << 20;

fn pages() -> usize {
    LEN / page_size()
}

/// Whether a program that asks for huge pages gets them now.
fn system_gives_huge_pages() -> bool {
    let mut plain = MmapMut::map_anon(LEN).unwrap();
    let known = plain.advise(Advice::HugePage).is_ok();
    plain.fill(1);
    let given = known && in_huge_pages(&plain) > 0;
    if !given {
        println!("this system gives no huge pages");
    }
    given
}

#[test]
fn an_arena_that_asks_for_huge_pages_gets_them() {
    for_each_fault_engine(|engine| {
        let given = system_gives_huge_pages();
        let (arena, _) = patterned(on(engine).huge_pages(true), pages());
        assert!(in_huge_pages(&arena) > 0 || !given);
    });
}

#[test]
fn a_snapshot_splits_no_huge_page() {
    for_each_engine(|engine| {
        let (arena, bytes) = patterned(on(engine).huge_pages(true), pages());
        let huge = in_huge_pages(&arena);
        let snapshot = arena.snapshot().unwrap();
        expect_bytes(&snapshot, &bytes);
        let left = in_huge_pages(&arena);
        assert!(left >= huge, "{left} bytes in huge pages, not {huge}");
    });
}

#[test]
fn pages_of_huge_pages_are_saved_one_by_one() {
    for_each_engine(|engine| {
        let page = page_size();
        let (mut arena, first) = patterned(page_by_page(engine).huge_pages(true), pages());
        let older = arena.snapshot().unwrap();
        let written: Vec<usize> = (0..LEN / HUGE)
            .map(|huge| (huge * HUGE) / page + 7)
            .collect();
        for index in &written {
            arena[index * page] ^= 0xff;
        }
        let mut second = first.clone();
        for index in &written {
            second[index * page] ^= 0xff;
        }
        arena.check_invariants().unwrap();
        assert_eq!(arena.stats().pages_saved, written.len() as u64);

        // Over the border of two huge pages.
        let newer = arena.snapshot().unwrap();
        let border = HUGE - arena.as_ptr() as usize % HUGE;
        let source = io::repeat(9).take(3 * page as u64);
        arena
            .read_from(border - page..border + 2 * page, source)
            .unwrap();
        arena.writable(..HUGE).unwrap().fill(8);
        arena.check_invariants().unwrap();

        expect_bytes(&older, &first);
        expect_bytes(&newer, &second);
        let changed: Vec<usize> = newer
            .changed_since(&older)
            .unwrap()
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(changed, written);
        drop(newer);
        expect_bytes(&older, &first);
        arena.check_invariants().unwrap();
    });
}

proptest! {
    #![proptest_config(config(20))]

    #[test]
    fn every_snapshot_reads_what_was(
        engine in engine(),
        window in window(),
        // In 1/1000.
        touched in 0usize..=1000,
        steps in steps(60),
    ) {
        let builder = on(engine).huge_pages(true);
        let mut model = Model::new(engine, builder, window, pages(), false).unwrap();
        let len = (touched * LEN / 1000).max(1);
        let touch = Step::Write { at: 0, len, value: 1 };
        for step in [touch].iter().chain(&steps) {
            model.apply(step).unwrap();
            model.check();
            model.arena().check_invariants().unwrap();
        }
        model.check_to_the_end();
    }
}
