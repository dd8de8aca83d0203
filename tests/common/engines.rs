//! The engines that tests run on.

use std::io::{self, Write};
use std::sync::OnceLock;

use pagecow::{Arena, ArenaBuilder, Engine, Window};

pub const ALL: [Engine; 2] = [Engine::Mprotect, Engine::Userfaultfd];

/// When set, exactly these must be there: `mprotect,userfaultfd`.
const EXPECTED: &str = "PAGECOW_EXPECTED_ENGINES";

pub fn name(engine: Engine) -> &'static str {
    match engine {
        Engine::Mprotect => "mprotect",
        Engine::Userfaultfd => "userfaultfd",
        other => panic!("{other:?} has no name here"),
    }
}

/// The engines that this machine has. Prints once which it lacks, also where the output of tests is
/// captured.
pub fn engines() -> &'static [Engine] {
    static AVAILABLE: OnceLock<Vec<Engine>> = OnceLock::new();
    AVAILABLE.get_or_init(|| {
        let mut available = Vec::new();
        let mut lacking = String::new();
        for engine in ALL {
            match engine.check() {
                Ok(()) => available.push(engine),
                Err(error) => lacking += &format!("skipped: {}: {error}\n", name(engine)),
            }
        }
        let _ = io::stderr().write_all(lacking.as_bytes());
        if let Ok(expected) = std::env::var(EXPECTED) {
            let found: Vec<_> = available.iter().map(|engine| name(*engine)).collect();
            let found = found.join(",");
            assert_eq!(found, expected, "not the engines of {EXPECTED}\n{lacking}");
        }
        available
    })
}

/// Runs a test on each engine; what is printed last before a failure is the engine it failed on.
pub fn for_each_engine(test: impl Fn(Engine)) {
    for engine in engines() {
        println!("engine: {}", name(*engine));
        test(*engine);
    }
}

/// An arena with the default window.
pub fn on(engine: Engine) -> ArenaBuilder {
    Arena::builder().engine(engine)
}

/// An arena that saves what is written and nothing else, for tests that count.
pub fn page_by_page(engine: Engine) -> ArenaBuilder {
    on(engine).window(Window::Page)
}
