//! pagecow: one thread of the process takes and saves the snapshot, while its other threads write.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use pagecow::image::{Cancel, Saver};
use pagecow::{Arena, Snapshot, Snapshotter};

use crate::base::Base;
use crate::failure::Failure;
use crate::load::count_marked;
use crate::save::CHUNK;
use crate::scenario::{Counters, Freezer, Memory, Saved, Setting};
use crate::verify::Checker;

/// How many bytes are read from the input between two checks for signals.
const FILL: usize = 16 << 20;

impl Memory for Arena {
    type Freezer = Snapshotter;

    fn fill(&mut self, base: &Base, setting: &Setting<'_>) -> Result<(), Failure> {
        match base {
            Base::Pattern => base.fill(self, setting.job.page_size, setting.stop),
            Base::File(_) => {
                let mut file = setting.job.open_input()?;
                for start in (0..self.len()).step_by(FILL) {
                    setting.stop.check()?;
                    let end = self.len().min(start + FILL);
                    let filled = self.read_from(start..end, &mut file)?;
                    self[start + filled..end].fill(0);
                }
                Ok(())
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        self
    }

    fn words(&mut self) -> &[AtomicU64] {
        self.atomic_u64()
    }

    fn freezer(&self) -> Snapshotter {
        self.snapshotter()
    }
}

impl Freezer for Snapshotter {
    const NAME: &'static str = "pagecow";
    type Frozen<'a> = Snapshot;

    fn freeze(&self, _: &Setting<'_>) -> Result<(Snapshot, Duration), Failure> {
        let called = Instant::now();
        let snapshot = self.snapshot()?;
        Ok((snapshot, called.elapsed()))
    }

    fn save<'a>(&self, frozen: &mut Snapshot, setting: &Setting<'a>) -> Result<Saved<'a>, Failure> {
        if setting.job.image {
            return save_image(frozen, setting);
        }
        let mut file = setting.target.begin()?;
        let page_size = setting.job.page_size as u64;
        let mut overwritten = 0;
        let put = |bytes: Range<u64>, file: &File| {
            setting.view.at(bytes.start);
            let pages = bytes.start / page_size..bytes.end.div_ceil(page_size);
            overwritten += count_marked(
                setting.load.overwritten(),
                pages.start as usize..pages.end as usize,
            );
            frozen.copy_range_to(bytes.start as usize..bytes.end as usize, file)?;
            Ok(())
        };
        let took = file.write(setting.job.saved_len, put, setting.stop)?;
        Ok(Saved {
            file,
            took,
            overwritten,
        })
    }

    fn read(
        &self,
        frozen: Snapshot,
        checker: &mut Checker<'_>,
        setting: &Setting<'_>,
    ) -> Result<(), Failure> {
        for page in frozen.pages() {
            setting.stop.check()?;
            checker.page(page?.bytes())?;
        }
        Ok(())
    }

    fn child(_: &Snapshot) -> Option<libc::pid_t> {
        None
    }

    fn counters(&self) -> Result<Option<Counters>, Failure> {
        let stats = self.stats()?;
        Ok(Some(Counters {
            faults: stats.faults,
            pages_saved: stats.pages_saved,
            bytes_saved: stats.bytes_saved,
            store_peak: stats.store_bytes_peak,
        }))
    }
}

/// Saves as an image.
fn save_image<'a>(frozen: &Snapshot, setting: &Setting<'a>) -> Result<Saved<'a>, Failure> {
    let mut file = setting.target.begin()?;
    let (page_size, pages) = (setting.job.page_size, setting.job.saved_pages());
    let part = CHUNK / page_size;
    // It is told after each part; the next one is looked at before it is read.
    let (mut looked_at, mut overwritten) = (0, 0);
    let mut look = |done: usize| {
        let end = (done + part).min(pages);
        overwritten += count_marked(setting.load.overwritten(), looked_at..end);
        looked_at = end;
    };
    look(0);
    let cancel = Cancel::new();
    let mut saver = Saver::new().cancel(&cancel).progress(|progress| {
        let done = progress.pages_done as usize;
        setting.view.at((done * page_size) as u64);
        look(done);
        if setting.stop.check().is_err() {
            cancel.cancel();
        }
    });
    let put = |file: &File| saver.write_to(frozen, file);
    let took = file.write_image(setting.job.saved_len, put, setting.stop)?;
    drop(saver);
    Ok(Saved {
        file,
        took,
        overwritten,
    })
}
