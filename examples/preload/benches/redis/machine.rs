//! Memory and processor time of other processes, and what the machine has to spare.
//!
//! What a save takes is counted so that each page counts once, without reading the parent's page
//! tables, which would make its threads wait:
//!
//! - the pages that only the child has (`Private_*` in its `smaps_rollup`): those that the parent
//!   or the child has written since an ordinary fork, and what the child has of its own;
//! - what the parent has more of anonymous memory than at rest (`RssAnon`): with the library, its
//!   copies of the pages that it wrote; without it, only new memory, since a page that is copied
//!   takes the place of the one before;
//! - by how much the files in memory have grown that the library serves from.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

const KIB: u64 = 1 << 10;

/// Bytes that a process has of its own, without those of its children.
pub fn of_parent(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let anonymous = field(&status, "RssAnon").ok_or_else(|| lacks("RssAnon"))?;
    let mut files = 0;
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let path = entry?.path();
        // Descriptors come and go.
        if fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"))
            && let Ok(file) = fs::metadata(&path)
        {
            files += file.blocks() * 512;
        }
    }
    Ok(anonymous + files)
}

/// Bytes that nobody but the child has. `None` when it has ended.
pub fn of_child(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    Some(field(&text, "Private_Clean")? + field(&text, "Private_Dirty")?)
}

/// Neither gone nor a zombie.
pub fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// Processor time of all threads of a process, without its children.
pub fn processor_time(process: u32) -> io::Result<Duration> {
    let mut clock = MaybeUninit::<libc::clockid_t>::uninit();
    // SAFETY: fills in the clock, or fails.
    let refused = unsafe { libc::clock_getcpuclockid(process as libc::pid_t, clock.as_mut_ptr()) };
    if refused != 0 {
        return Err(io::Error::from_raw_os_error(refused));
    }
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the clock was filled in; fills in the time, or fails.
    if unsafe { libc::clock_gettime(clock.assume_init(), time.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in.
    let time = unsafe { time.assume_init() };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Threads that wanted a processor in the last minute, and processors that there are.
pub fn busy() -> Option<(f64, usize)> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let wanted = text.split_whitespace().next()?.parse().ok()?;
    Some((wanted, std::thread::available_parallelism().ok()?.get()))
}

/// Bytes that are free without pushing something else out.
pub fn available() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let machine = field(&text, "MemAvailable").ok_or_else(|| lacks("MemAvailable"))?;
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok()?;
        text.trim().parse().ok()
    };
    // In a container the limit may be lower. Where there is none the file does not have a number.
    let left = number("memory.max")
        .zip(number("memory.current"))
        .map(|(most, used)| most.saturating_sub(used));
    Ok(left.map_or(machine, |left| left.min(machine)))
}

/// Bytes that are free on a disk.
pub fn free_on_disk(dir: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a string that ends in zero; fills in the structure, or fails.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in.
    let found = unsafe { found.assume_init() };
    Ok(found.f_bavail * found.f_frsize)
}

/// A line `NAME:  NUMBER kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let number: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(number * KIB)
}

fn lacks(name: &str) -> io::Error {
    io::Error::other(format!("the system does not say {name}"))
}
