//! Random operations on an arena and its snapshots against plain vectors that are cloned at each
//! snapshot. After each step everything that must hold is checked.

use std::time::Duration;

use crate::common::model::{Model, Step, config, engine, steps, window};
use crate::common::{on, page_size};
use pagecow::{Engine, Window};
use proptest::prelude::*;

/// More than two of the blocks that windows look at.
const PAGES: usize = 150;

/// Two of the slices by which is merged what was stored beside a snapshot, and a part of one.
const SLICES: usize = 1100;

fn run(
    engine: Engine,
    window: Window,
    stand_ready: bool,
    limit_pages: Option<usize>,
    steps: &[Step],
) {
    let builder = on(engine).keeper(false);
    let mut builder = builder.stand_ready(stand_ready).cold(Duration::ZERO);
    if let Some(pages) = limit_pages {
        builder = builder.store_limit(pages * page_size());
    }
    let may_fail = limit_pages.is_some();
    run_steps(
        Model::new(engine, builder, window, PAGES, may_fail).unwrap(),
        steps,
    );
}

fn run_steps(mut model: Model, steps: &[Step]) {
    for step in steps {
        model.apply(step).unwrap();
        model.check();
        model.arena().check_invariants().unwrap();
    }
    model.check_to_the_end();
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn every_snapshot_reads_what_was(
        engine in engine(),
        window in window(),
        stand_ready in any::<bool>(),
        steps in steps(120),
    ) {
        run(engine, window, stand_ready, None, &steps);
    }

    /// With a store of a few frames a read is exact or says that it cannot be.
    #[test]
    fn with_a_small_store_reads_are_exact_or_refused(
        engine in engine(),
        window in window(),
        stand_ready in any::<bool>(),
        limit in 0..2 * PAGES,
        steps in steps(120),
    ) {
        run(engine, window, stand_ready, Some(limit), &steps);
    }

    /// In the background only what the steps say is done.
    #[test]
    fn with_merges_half_done(
        engine in engine(),
        window in window(),
        keeper in any::<bool>(),
        steps in steps(80),
    ) {
        let builder = on(engine).keeper(keeper);
        run_steps(Model::new(engine, builder, window, SLICES, false).unwrap(), &steps);
    }
}
