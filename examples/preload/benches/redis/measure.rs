//! One save of a server under load: at rest, while it saves, while it merges.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::args::{Load, Times};
use crate::machine;
use crate::open_loop::{OpenLoop, Sample};
use crate::resp::PATIENCE;
use crate::row::{Row, Span};
use crate::server::{Mode, Server};

const MIB: f64 = (1 << 20) as f64;
/// What counts as being at the fork.
const BEFORE_FORK: Duration = Duration::from_millis(5);
const AFTER_FORK: Duration = Duration::from_millis(50);
/// How often to look for the child's end, and for the merge's.
const LOOK: Duration = Duration::from_millis(2);
/// How often to look at memory, unless that takes long itself: it reads the child's page tables.
const MEMORY_LOOK: Duration = Duration::from_millis(50);
const MEMORY_SHARE: u32 = 20;

/// What a save is made of, for rows and for the plot.
pub struct Save {
    pub row: Row,
    pub samples: Vec<Sample>,
    /// From the call until the child's end.
    pub saving: Span,
    /// From there until the library had nothing left to merge.
    pub merging: Span,
}

pub struct What<'a> {
    pub mode: Mode,
    pub version: &'a str,
    pub data_mib: u64,
    pub load: Load,
    pub times: &'a Times,
}

pub fn save(server: &mut Server, client: &mut OpenLoop, what: &What) -> io::Result<Save> {
    let process = server.process();
    let times = what.times;
    thread::sleep(times.settle);
    client.take()?;

    let cpu = || machine::processor_time(process);
    let (from, at_begin) = (Instant::now(), cpu()?);
    thread::sleep(times.rest);
    let resting = Span {
        from,
        to: Instant::now(),
    };
    let rest_cpu = cpu()? - at_begin;
    let rest_memory = machine::of_parent(process)?;
    let merges = server.merges()?;

    let at_save = cpu()?;
    let from = client.save()?;
    let child = find_child(server)?;
    let ended = AtomicBool::new(false);
    let (saving, merging, save_cpu, peak) = thread::scope(|scope| {
        let peak = scope.spawn(|| peak_memory(process, child, &ended));
        let ended_here = Ended(&ended);
        await_end(child)?;
        let to = Instant::now();
        let save_cpu = cpu()? - at_save;
        let saving = Span { from, to };
        await_merge(server, merges, times.after)?;
        let merging = Span {
            from: to,
            to: Instant::now(),
        };
        if server.has_library() {
            // As long as a plain server had nothing to do.
            thread::sleep(times.after);
        }
        drop(ended_here);
        let peak = peak
            .join()
            .map_err(|_| io::Error::other("no memory read"))??;
        Ok::<_, io::Error>((saving, merging, save_cpu, peak))
    })?;

    await_known_end(server)?;
    let samples = client.take()?;
    let at_fork = Span {
        from: saving.from.checked_sub(BEFORE_FORK).unwrap_or(saving.from),
        to: saving.from + AFTER_FORK,
    };
    let [rest, save, merge] = [resting, saving, merging].map(|span| span.latency(&samples));
    let row = Row {
        bench: "redis",
        mode: what.mode,
        server: what.version.to_owned(),
        data_mib: what.data_mib,
        load: what.load,
        fork_us: server.info_number("latest_fork_usec")?,
        worst_at_fork_us: at_fork.latency(&samples).worst(),
        save_p99_us: save.share(0.99),
        save_p999_us: save.share(0.999),
        save_worst_us: save.worst(),
        merge_p99_us: merge.share(0.99),
        merge_p999_us: merge.share(0.999),
        merge_worst_us: merge.worst(),
        rest_p99_us: rest.share(0.99),
        rest_p999_us: rest.share(0.999),
        rest_worst_us: rest.worst(),
        save_ms: (saving.to - saving.from).as_secs_f64() * 1e3,
        extra_mib: (peak as f64 - rest_memory as f64) / MIB,
        ops_per_s_rest: resting.per_second(&samples),
        ops_per_s_save: saving.per_second(&samples),
        cpu_us_per_op_rest: resting.cpu_us_per_op(rest_cpu, &samples),
        cpu_us_per_op_save: saving.cpu_us_per_op(save_cpu, &samples),
    };
    Ok(Save {
        row,
        samples,
        saving,
        merging,
    })
}

/// Says that the measurement is over, also when it fails.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn find_child(server: &Server) -> io::Result<u32> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if let Some(child) = server.child()? {
            return Ok(child);
        }
        thread::sleep(Duration::from_micros(200));
    }
    Err(io::Error::other("BGSAVE made no child"))
}

fn await_end(child: u32) -> io::Result<()> {
    let begin = Instant::now();
    while machine::is_alive(child) {
        if begin.elapsed() > 10 * PATIENCE {
            return Err(io::Error::other("the save does not end"));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Until the library has said that it merged what was frozen. A plain server has nothing to merge:
/// as long as was asked for.
fn await_merge(server: &Server, merges: usize, after: Duration) -> io::Result<()> {
    if !server.has_library() {
        thread::sleep(after);
        return Ok(());
    }
    let begin = Instant::now();
    while server.merges()? == merges {
        if begin.elapsed() > PATIENCE {
            let last = server.last_of_log();
            let why = format!("the merge does not end; the library's last line: {last}");
            return Err(io::Error::other(why));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// The most that both had at once, until the measurement is over.
fn peak_memory(process: u32, child: u32, ended: &AtomicBool) -> io::Result<u64> {
    let mut peak = 0;
    while !ended.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let both = machine::of_parent(process)? + machine::of_child(child).unwrap_or(0);
        peak = peak.max(both);
        let pause = MEMORY_LOOK.max(begin.elapsed() * MEMORY_SHARE);
        let look = Instant::now();
        while look.elapsed() < pause && !ended.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
        }
    }
    Ok(peak)
}

/// Until the server itself knows that the save is over, and says that it went well.
fn await_known_end(server: &mut Server) -> io::Result<()> {
    let begin = Instant::now();
    while server.info("rdb_bgsave_in_progress")? != "0" {
        if begin.elapsed() > PATIENCE {
            return Err(io::Error::other("the server does not see the save's end"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    match server.info("rdb_last_bgsave_status")?.as_str() {
        "ok" => Ok(()),
        status => Err(io::Error::other(format!("the save ended: {status}"))),
    }
}
