//! `fork()`: the snapshot is a child process, which saves the memory that it has inherited.
#![allow(
    unsafe_code,
    reason = "fork, and what the child of a threaded process may do: system calls"
)]

use std::io::{self, BufReader, PipeWriter, Read, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use crate::base::Base;
use crate::failure::Failure;
use crate::load::count_marked;
use crate::save::{CHUNK, Save};
use crate::scenario::{Counters, Freezer, Memory, Saved, Setting};
use crate::shared::Shared;
use crate::verify::Checker;

/// An ordinary private mapping.
pub struct Mapping {
    map: MmapMut,
    page_size: usize,
}

impl Mapping {
    pub fn new(len: usize, page_size: usize) -> Result<Mapping, Failure> {
        let map =
            MmapMut::map_anon(len).map_err(|error| Failure::failed("cannot map memory", error))?;
        Ok(Mapping { map, page_size })
    }
}

impl Memory for Mapping {
    type Freezer = Forker;

    fn fill(&mut self, base: &Base, setting: &Setting<'_>) -> Result<(), Failure> {
        base.fill(&mut self.map, self.page_size, setting.stop)
    }

    fn bytes(&self) -> &[u8] {
        &self.map
    }

    fn words(&mut self) -> &[AtomicU64] {
        let words = self.map.as_mut_ptr().cast();
        // SAFETY: whole pages, so aligned and a multiple of 8 long, borrowed exclusively for as
        // long as the atomics.
        unsafe { slice::from_raw_parts(words, self.map.len() / 8) }
    }

    fn freezer(&self) -> Forker {
        Forker {
            start: self.map.as_ptr(),
            len: self.map.len(),
            page_size: self.page_size,
        }
    }
}

/// Forks children that save the mapping.
pub struct Forker {
    start: *const u8,
    len: usize,
    page_size: usize,
}

impl Freezer for Forker {
    const NAME: &'static str = "fork";
    type Frozen<'a> = Frozen<'a>;

    fn freeze<'a>(&self, setting: &Setting<'a>) -> Result<(Frozen<'a>, Duration), Failure> {
        let file = setting.target.begin()?;
        let report = Shared::new(REPORT_WORDS * 8)?;
        let (hears, go) = io::pipe()?;
        let orders = Orders {
            image: self.start,
            page_size: self.page_size,
            hears: hears.as_raw_fd(),
            go: go.as_raw_fd(),
            out: file.file().as_raw_fd(),
            marks: setting.load.overwritten(),
            report: report.words(),
        };
        let called = Instant::now();
        // SAFETY: the child runs `Orders::obey` and nothing else: it takes no lock, does not
        // allocate, and never returns.
        let pid = unsafe { libc::fork() };
        let took = called.elapsed();
        match pid {
            -1 => Err(Failure::failed("cannot fork", io::Error::last_os_error())),
            0 => orders.obey(),
            pid => {
                let child = Child { pid, status: None };
                Ok((
                    Frozen {
                        child,
                        file: Some(file),
                        go,
                        report,
                    },
                    took,
                ))
            }
        }
    }

    fn save<'a>(
        &self,
        frozen: &mut Frozen<'a>,
        setting: &Setting<'a>,
    ) -> Result<Saved<'a>, Failure> {
        let file = frozen.obtain(setting.job.saved_len, setting)?;
        let report = frozen.report.words();
        Ok(Saved {
            took: Duration::from_nanos(report[NANOS].load(Ordering::Acquire)),
            overwritten: report[OVERWRITTEN].load(Ordering::Acquire) as usize,
            file,
        })
    }

    fn read(
        &self,
        mut frozen: Frozen<'_>,
        checker: &mut Checker<'_>,
        setting: &Setting<'_>,
    ) -> Result<(), Failure> {
        let saved = frozen.obtain(self.len as u64, setting)?;
        drop(frozen);
        let mut file = saved.file();
        file.rewind()?;
        let mut file = BufReader::with_capacity(CHUNK, file);
        let mut page = vec![0; self.page_size];
        for _ in 0..self.len / self.page_size {
            setting.stop.check()?;
            file.read_exact(&mut page)?;
            checker.page(&page)?;
        }
        Ok(())
    }

    fn child(frozen: &Frozen<'_>) -> Option<libc::pid_t> {
        Some(frozen.child.pid)
    }

    fn counters(&self) -> Result<Option<Counters>, Failure> {
        Ok(None)
    }
}

/// A child that waits until it is told how many bytes to save. It saves once, and ends when this is
/// dropped.
pub struct Frozen<'a> {
    child: Child,
    file: Option<Save<'a>>,
    go: PipeWriter,
    report: Shared,
}

impl<'a> Frozen<'a> {
    /// Tells the child to save the first `len` bytes, and waits until it has.
    fn obtain(&mut self, len: u64, setting: &Setting<'_>) -> Result<Save<'a>, Failure> {
        let file = self.file.take().expect("a child is asked once");
        self.go.write_all(&len.to_ne_bytes())?;
        let report = self.report.words();
        let status = loop {
            if report[SAVED].load(Ordering::Acquire) != 0 {
                return Ok(file);
            }
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            setting.view.at(report[WRITTEN].load(Ordering::Relaxed));
            setting.stop.sleep(Duration::from_millis(2))?;
        };
        match report[ERRNO].load(Ordering::Acquire) as i32 {
            0 => Err(Failure::Failed(format!(
                "the forked child ended with wait status {status}"
            ))),
            errno => Err(Failure::failed(
                "the forked child cannot save",
                io::Error::from_raw_os_error(errno),
            )),
        }
    }
}

/// A child process. Dropping this ends it, if it has not ended before.
struct Child {
    pid: libc::pid_t,
    status: Option<i32>,
}

impl Child {
    fn try_wait(&mut self) -> io::Result<Option<i32>> {
        let mut status = 0;
        // SAFETY: `status` may be written to.
        match unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) } {
            0 => Ok(None),
            -1 => Err(io::Error::last_os_error()),
            _ => {
                self.status = Some(status);
                Ok(self.status)
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            // SAFETY: our own child, not waited for yet, so the number is still its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            // SAFETY: a null status is allowed.
            unsafe { libc::waitpid(self.pid, ptr::null_mut(), 0) };
        }
    }
}

// What the child tells its parent, word by word.
const WRITTEN: usize = 0;
const OVERWRITTEN: usize = 1;
const NANOS: usize = 2;
const ERRNO: usize = 3;
const SAVED: usize = 4;
const REPORT_WORDS: usize = 5;

/// Everything that the child needs, made before the fork.
struct Orders<'a> {
    image: *const u8,
    page_size: usize,
    hears: RawFd,
    go: RawFd,
    out: RawFd,
    marks: &'a [AtomicU8],
    report: &'a [AtomicU64],
}

impl Orders<'_> {
    /// The whole life of the child. Other threads of the parent may have held any lock at the fork.
    /// So this calls nothing that takes a lock: it neither allocates nor panics.
    fn obey(&self) -> ! {
        #[cfg(target_os = "linux")]
        // SAFETY: only asks the kernel to end this process when its parent ends.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)
        };
        let code = match self.save() {
            Ok(()) => {
                self.report[SAVED].store(1, Ordering::Release);
                // The parent first looks at the memory of this process, and then ends it. No second
                // order comes; this waits until the parent closes the pipe or kills the process.
                let _ = self.order();
                0
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                self.report[ERRNO].store(errno as u64, Ordering::Release);
                1
            }
        };
        // SAFETY: ends the process without running any of the parent's clean-up.
        unsafe { libc::_exit(code) }
    }

    /// Waits until the parent says how many bytes to save.
    fn order(&self) -> io::Result<usize> {
        let mut len = [0u8; 8];
        // SAFETY: the bytes of `len` may be written to.
        let got = retry(|| unsafe { libc::read(self.hears, len.as_mut_ptr().cast(), len.len()) })?;
        if got != len.len() {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        Ok(u64::from_ne_bytes(len) as usize)
    }

    fn save(&self) -> io::Result<()> {
        // SAFETY: no code in this process uses the parent's end of the pipe. With our copy of it
        // closed, waiting for an order ends when the parent does.
        unsafe { libc::close(self.go) };
        let len = self.order()?;

        let started = Instant::now();
        let (mut at, mut overwritten) = (0, 0);
        while at < len {
            let end = len.min(at + CHUNK);
            overwritten += count_marked(
                self.marks,
                at / self.page_size..end.div_ceil(self.page_size),
            );
            while at < end {
                // SAFETY: `at` is inside the mapping.
                let from = unsafe { self.image.add(at) };
                // SAFETY: `end - at` bytes from there are inside the mapping. This process has its
                // own copy of it, to which nothing writes.
                at += retry(|| unsafe { libc::write(self.out, from.cast(), end - at) })?;
            }
            self.report[WRITTEN].store(at as u64, Ordering::Relaxed);
        }
        // SAFETY: no memory is involved.
        retry(|| unsafe { libc::fsync(self.out) as isize })?;
        self.report[OVERWRITTEN].store(overwritten as u64, Ordering::Release);
        let nanos = started.elapsed().as_nanos() as u64;
        self.report[NANOS].store(nanos, Ordering::Release);
        Ok(())
    }
}

/// Repeats a system call until no signal interrupts it.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(done) => return Ok(done),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::EINTR) {
                    return Err(error);
                }
            }
        }
    }
}
