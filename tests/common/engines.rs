//! The engines that tests run on.

use std::io::{self, Write};
use std::sync::OnceLock;

use pagecow::{Arena, ArenaBuilder, Engine, Window};

/// When set, exactly these must be there: `mprotect,userfaultfd,remap`.
const EXPECTED: &str = "PAGECOW_EXPECTED_ENGINES";

/// The engines that this machine has. Prints once which it lacks, also where the output of tests is
/// captured.
pub fn engines() -> &'static [Engine] {
    static AVAILABLE: OnceLock<Vec<Engine>> = OnceLock::new();
    AVAILABLE.get_or_init(|| {
        let mut available = Vec::new();
        let mut lacking = String::new();
        for engine in Engine::ALL.iter().copied() {
            match engine.check() {
                Ok(()) => available.push(engine),
                Err(error) => lacking += &format!("skipped: {engine}: {error}\n"),
            }
        }
        let _ = io::stderr().write_all(lacking.as_bytes());
        if let Ok(expected) = std::env::var(EXPECTED) {
            let found: Vec<_> = available.iter().map(Engine::to_string).collect();
            let found = found.join(",");
            assert_eq!(found, expected, "not the engines of {EXPECTED}\n{lacking}");
        }
        available
    })
}

/// The engines that arm pages, and save a page at its first write: for tests of arming, of faults
/// and of what is saved. docs/testing.md says which tests these are, and why.
pub const FAULT: &[Engine] = &[Engine::Mprotect, Engine::Userfaultfd];

/// Whether it is one of [`FAULT`].
pub fn by_faults(engine: Engine) -> bool {
    FAULT.contains(&engine)
}

/// Runs a test on each engine; what is printed last before a failure is the engine it failed on.
pub fn for_each_engine(test: impl Fn(Engine)) {
    for_each(|_| true, test);
}

/// The same on those of [`FAULT`].
pub fn for_each_fault_engine(test: impl Fn(Engine)) {
    for_each(by_faults, test);
}

fn for_each(wanted: impl Fn(Engine) -> bool, test: impl Fn(Engine)) {
    for engine in engines().iter().filter(|engine| wanted(**engine)) {
        println!("engine: {engine}");
        test(*engine);
    }
}

/// An arena with the default window.
pub fn on(engine: Engine) -> ArenaBuilder {
    Arena::builder().engine(engine)
}

/// An arena of the engine that remaps, which every Linux that pagecow runs on has.
pub fn remap() -> ArenaBuilder {
    on(Engine::Remap)
}

/// An arena that saves what is written and nothing else, for tests that count.
pub fn page_by_page(engine: Engine) -> ArenaBuilder {
    on(engine).window(Window::Page)
}
