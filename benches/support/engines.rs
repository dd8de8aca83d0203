//! The engines that are compared, and arenas made with them.

use pagecow::{Arena, Window};
use serde::{Deserialize, Serialize};

use super::{Report, mapping};

/// An engine, in rows under its name.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Engine(pagecow::Engine);

impl TryFrom<String> for Engine {
    type Error = pagecow::ParseEngineError;

    fn try_from(name: String) -> Result<Self, pagecow::ParseEngineError> {
        name.parse().map(Self)
    }
}

impl From<Engine> for String {
    fn from(engine: Engine) -> Self {
        engine.name().to_owned()
    }
}

impl Engine {
    /// The engines that work here. The others are reported as skipped.
    pub fn available(report: &mut Report) -> Vec<Self> {
        let checked = |engine: &Self| match engine.0.check() {
            Ok(()) => true,
            Err(error) => {
                report.skipped(&[engine.name().to_owned()], &error.to_string());
                false
            }
        };
        let all = pagecow::Engine::ALL.iter().copied();
        all.map(Self).filter(checked).collect()
    }

    /// Whether a first write may save its neighbours, too.
    pub fn has_windows(self) -> bool {
        self.0 != pagecow::Engine::Remap
    }

    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// An arena, every page of which was written.
    pub fn arena(self, len: usize, huge: bool, window: Window) -> Result<Arena, String> {
        let mut arena = Arena::builder()
            .engine(self.0)
            .window(window)
            .huge_pages(huge)
            .build(len)
            .map_err(|error| error.to_string())?;
        if !huge {
            mapping::advise(&mut arena, huge);
        }
        mapping::fill(&mut arena);
        Ok(arena)
    }

    /// The same of small pages, which stands ready for snapshots if asked to.
    pub fn ready_arena(self, len: usize, stand_ready: bool) -> Result<Arena, String> {
        let mut arena = Arena::builder()
            .engine(self.0)
            .stand_ready(stand_ready)
            .build(len)
            .map_err(|error| error.to_string())?;
        mapping::advise(&mut arena, false);
        mapping::fill(&mut arena);
        Ok(arena)
    }

    /// The same of small pages, with the default window.
    pub fn plain_arena(self, len: usize) -> Result<Arena, String> {
        self.arena(len, false, Window::default())
    }

    /// An arena with the default options, of which nothing was written.
    pub fn untouched_arena(self, len: usize) -> Result<Arena, String> {
        Arena::builder()
            .engine(self.0)
            .build(len)
            .map_err(|error| error.to_string())
    }
}

/// What a fresh process is to measure: an engine, or what it is compared with.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    Engine(Engine),
    Fork,
}

impl Side {
    /// Fork, then these engines.
    pub fn of(engines: &[Engine]) -> Vec<Self> {
        let ours = engines.iter().copied().map(Self::Engine);
        std::iter::once(Self::Fork).chain(ours).collect()
    }
}
