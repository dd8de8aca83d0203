//! The course of a run. It is the same for every way to freeze memory.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::args::Job;
use crate::base::Base;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::load::Load;
use crate::plan::{Pattern, Plan};
use crate::progress::Progress;
use crate::report::{Row, micros, millis, seconds};
use crate::save::{self, Save, Sum, Target};
use crate::stop::Stop;
use crate::verify::{Checker, Mismatch};

/// How often the usual time the writers run until snapshot B, where the arena stands ready for it.
pub const WARM_UP: u32 = 4;

/// How many of `pages` saved pages must be overwritten before they are read. Otherwise the check
/// proves nothing.
fn needed_overwritten(pattern: Pattern, pages: usize) -> usize {
    match pattern {
        Pattern::Uniform => pages.div_ceil(10),
        // A save may be over before the writers reach many pages.
        Pattern::Hot => 1,
    }
}

/// Memory that writers change, and that can be frozen meanwhile.
pub trait Memory {
    type Freezer: Freezer;

    fn fill(&mut self, base: &Base, setting: &Setting<'_>) -> Result<(), Failure>;
    fn bytes(&self) -> &[u8];
    /// The memory as the writers see it.
    fn words(&mut self) -> &[AtomicU64];
    fn freezer(&self) -> Self::Freezer;
}

/// A way to freeze memory.
pub trait Freezer {
    const NAME: &'static str;
    type Frozen<'a>;

    /// Freezes the memory, and returns how long that took the caller.
    fn freeze<'a>(&self, setting: &Setting<'a>) -> Result<(Self::Frozen<'a>, Duration), Failure>;
    /// Streams the frozen bytes to a file.
    fn save<'a>(
        &self,
        frozen: &mut Self::Frozen<'a>,
        setting: &Setting<'a>,
    ) -> Result<Saved<'a>, Failure>;
    /// Hands all frozen pages to the checker. When this returns the memory is not frozen any more.
    fn read(
        &self,
        frozen: Self::Frozen<'_>,
        checker: &mut Checker<'_>,
        setting: &Setting<'_>,
    ) -> Result<(), Failure>;
    /// The process that holds the frozen bytes, if it is another one.
    fn child(frozen: &Self::Frozen<'_>) -> Option<libc::pid_t>;
    /// The freezer's counts so far, if it has any.
    fn counters(&self) -> Result<Option<Counters>, Failure>;
}

/// A file that was written but has not replaced the target yet.
pub struct Saved<'a> {
    pub file: Save<'a>,
    /// From the first byte read to the last on the disk.
    pub took: Duration,
    /// How many pages had been overwritten when they were read.
    pub overwritten: usize,
}

pub struct Counters {
    pub faults: u64,
    pub pages_saved: u64,
    pub bytes_saved: u64,
    pub store_peak: u64,
}

/// What the parts of a run share.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    pub job: &'a Job,
    pub target: &'a Target,
    pub stop: &'a Stop,
    pub view: &'a Progress,
    pub load: &'a Load,
}

struct Run<'a, F> {
    setting: Setting<'a>,
    freezer: F,
    plan: Plan,
    base: Base,
    /// How many writes each writer had made when memory was last set to the base.
    start: Vec<u64>,
    verified: bool,
}

/// What was measured while the writers ran, from snapshot A on.
struct Seen {
    save: Duration,
    snapshot: Duration,
    worst_stall: Duration,
    overwritten: usize,
    during: f64,
    after: f64,
}

pub fn measure<M: Memory>(
    mut memory: M,
    job: &Job,
    target: &Target,
    stop: &Stop,
    view: &Progress,
) -> Result<Row, Failure> {
    let plan = Plan::new(rand::random(), job.pages(), job.writers, job.load);
    let load = Load::new(plan, job.page_size, job.rate)?;
    let setting = Setting {
        job,
        target,
        stop,
        view,
        load: &load,
    };
    let mut run = Run {
        setting,
        freezer: memory.freezer(),
        plan,
        base: job.base()?,
        start: load.written(),
        verified: true,
    };

    view.phase("filling the memory");
    memory.fill(&run.base, &setting)?;
    view.phase("the writers run, no snapshot yet");
    let before = load.run(memory.words(), || load.watch(job.seconds, stop))?;

    // The writers are at rest: snapshot A must show what memory holds now.
    view.phase("hashing what snapshot A must show");
    let oracle = if job.input.is_some() {
        memory.fill(&run.base, &setting)?;
        run.start = load.written();
        save::sum_of_file(&mut job.open_input()?, stop)?
    } else {
        let copy = memory.bytes().to_vec();
        save::sum_of_bytes(&copy, stop)?
    };
    load.forget_overwritten();
    load.forget_stalls();
    let counted = run.freezer.counters()?;
    let mut cost = Cost::start();
    let (a, _) = cost.work(|| run.freezer.freeze(&setting))?;
    cost.look(M::Freezer::child(&a));
    let seen = load.run(memory.words(), || run.with_writers(a, &mut cost, &oracle))?;
    let counters = run.freezer.counters()?.zip(counted);

    view.phase("checking that no write was lost");
    run.check_memory(memory.bytes())?;
    let count = |field: fn(&Counters) -> u64| {
        counters
            .as_ref()
            .map(|(now, then)| field(now) - field(then))
    };
    let overwritten = seen.overwritten as f64 / job.saved_pages() as f64;
    Ok(Row {
        mode: M::Freezer::NAME.into(),
        load: job.load,
        stand_ready: counters.as_ref().map(|_| job.stand_ready),
        rate_per_writer: job.rate,
        writers: plan.writers(),
        size_mib: job.size as f64 / f64::from(1 << 20),
        snapshot_us: micros(seen.snapshot),
        worst_writer_stall_us: micros(seen.worst_stall),
        extra_memory_bytes: cost.extra_memory(),
        cpu_s: seconds(cost.cpu()),
        faults: count(|counters| counters.faults),
        pages_saved: count(|counters| counters.pages_saved),
        bytes_saved: count(|counters| counters.bytes_saved),
        store_peak_bytes: counters.as_ref().map(|(now, _)| now.store_peak),
        writes_per_s_before: before as u64,
        writes_per_s_during: seen.during as u64,
        writes_per_s_after: seen.after as u64,
        save_ms: millis(seen.save),
        overwritten_fraction: (overwritten * 1e6).round() / 1e6,
        verified: run.verified,
    })
}

impl<'a, F: Freezer> Run<'a, F> {
    /// Saves snapshot A for its `cost`, and takes and checks snapshot B.
    fn with_writers(
        &mut self,
        mut a: F::Frozen<'a>,
        cost: &mut Cost,
        oracle: &Sum,
    ) -> Result<Seen, Failure> {
        let Setting {
            job,
            stop,
            view,
            load,
            ..
        } = self.setting;
        let mark = load.mark();
        view.phase("snapshot A: waiting until the writers have overwritten enough");
        load.await_overwritten(job.saved_pages(), stop)?;
        view.saving(job.saved_len);
        let Saved {
            mut file,
            took: save,
            overwritten,
        } = cost.work(|| self.freezer.save(&mut a, &self.setting))?;
        let during = load.rate_since(&mark);
        // The look stops writers, which is not the snapshot's fault.
        load.unwatched(|| cost.look(F::child(&a)));
        cost.work(|| {
            drop(a);
            Ok(())
        })?;
        if overwritten < needed_overwritten(job.load, job.saved_pages()) {
            self.blame(
                "snapshot A",
                "too few pages were overwritten before they were read",
            );
        }
        view.phase("snapshot A: reading the saved file back");
        if file.sum(stop)? == *oracle {
            file.commit()?;
        } else {
            self.blame("snapshot A", "the saved file is not what memory held");
        }
        self.save_again_if_asked()?;

        if job.stand_ready {
            view.phase("the writers run until the arena stands ready");
            load.watch(job.seconds * WARM_UP, stop)?;
        }
        view.phase("snapshot B, taken under full load");
        let (b, snapshot) = self.freezer.freeze(&self.setting)?;
        let result = self.check(b)?;
        let worst_stall = load.worst_stall();
        if let Err(mismatch) = result {
            self.blame("snapshot B", &mismatch.to_string());
        }
        self.save_again_if_asked()?;

        let after = loop {
            view.phase("the writers run, the snapshot is gone");
            if let Some(rate) = load.watch_unless_asked(job.seconds, stop)? {
                break rate;
            }
            self.save_again_if_asked()?;
        };
        Ok(Seen {
            save,
            snapshot,
            worst_stall,
            overwritten,
            during,
            after,
        })
    }

    /// Reads all of a snapshot that was taken under load, drops the snapshot, and checks what was
    /// read.
    fn check(&self, frozen: F::Frozen<'a>) -> Result<Result<(), Mismatch>, Failure> {
        let mut checker = Checker::new(&self.plan, &self.base, self.setting.job.page_size);
        self.freezer.read(frozen, &mut checker, &self.setting)?;
        let written = self.setting.load.written();
        Ok(checker.finish(&self.start, &written).map(|_| ()))
    }

    /// Does what SIGUSR1 asks for. Not called for a freezer whose snapshots can be read only once.
    fn save_again_if_asked(&mut self) -> Result<(), Failure> {
        let Setting {
            job, stop, view, ..
        } = self.setting;
        if !stop.take_request() {
            return Ok(());
        }
        let asked = Instant::now();
        let (mut frozen, _) = self.freezer.freeze(&self.setting)?;
        view.saving(job.saved_len);
        let saved = self.freezer.save(&mut frozen, &self.setting)?;
        view.phase("checking what was saved again");
        match self.check(frozen)? {
            Ok(()) => {
                saved.file.commit()?;
                view.note(format_args!(
                    "saved again in {} ms, verified",
                    asked.elapsed().as_millis()
                ));
            }
            Err(mismatch) => self.blame("the extra save", &mismatch.to_string()),
        }
        Ok(())
    }

    /// The writers are gone, so memory must hold each of their writes.
    fn check_memory(&mut self, memory: &[u8]) -> Result<(), Failure> {
        let page_size = self.setting.job.page_size;
        let mut checker = Checker::new(&self.plan, &self.base, page_size);
        for page in memory.chunks_exact(page_size) {
            self.setting.stop.check()?;
            checker.page(page)?;
        }
        if let Err(mismatch) = checker.finish_all(&self.start, &self.setting.load.written()) {
            self.blame("memory at the end", &mismatch.to_string());
        }
        Ok(())
    }

    fn blame(&mut self, what: &str, why: &str) {
        self.verified = false;
        self.setting
            .view
            .note(format_args!("not verified: {}: {what}: {why}", F::NAME));
    }
}
