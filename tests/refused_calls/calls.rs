//! The C library's system calls, replaced in this executable by ones that count, and refuse when
//! asked to.
//!
//! The linker takes a function of the executable before one of a shared library. So the library
//! under test, memmap2 and std call these definitions. The C library itself has names of its own
//! for what it calls. Async-signal-safe, as the fault handler comes here too; it does not write to
//! files. Reading, writing and renaming count on the thread that [`watch`]es alone: the test
//! harness has others.

use std::arch::asm;
use std::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};

use crate::common::signals::set_errno;

/// The calls that `src/sys/linux` makes of its own and through memmap2 and std.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Mprotect,
    /// `UFFDIO_WRITEPROTECT` that takes write permission away.
    Protect,
    /// `UFFDIO_WRITEPROTECT` that gives it back.
    Unprotect,
    /// `UFFDIO_API`
    Api,
    /// `UFFDIO_REGISTER`
    Register,
    /// With it the library asks whether the descriptor is still there.
    Fstat,
    Userfaultfd,
    /// `PAGEMAP_SCAN`
    Scan,
    /// Of entries of the page map, where it cannot be scanned.
    Pread,
    /// Writing to files.
    Pwritev,
    Madvise,
    Mincore,
    Mmap,
    Munmap,
    Open,
    Mremap,
    MemfdCreate,
    /// With it the library asks whether a forked process is gone.
    Fcntl,
    /// With it the library asks for a file's holes.
    Lseek,
    /// Throwing many ranges away at once.
    ProcessMadvise,
    /// Of random bits.
    Getrandom,
    Read,
    Write,
    Writev,
    Fsync,
    Rename,
}

const KINDS: usize = 26;

/// How often each was called during [`watch`].
static CALLED: [AtomicUsize; KINDS] = [const { AtomicUsize::new(0) }; KINDS];
static WATCHING: AtomicBool = AtomicBool::new(false);
/// Which call of which kind to refuse, counted from 1, 0 for none; and how.
static KIND: AtomicUsize = AtomicUsize::new(0);
static NTH: AtomicUsize = AtomicUsize::new(0);
static ERROR: AtomicI32 = AtomicI32::new(0);
static HALF_WAY: AtomicBool = AtomicBool::new(false);

/// How the kernel refuses a call.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// At once, with this error.
    AtOnce(i32),
    /// After half of the pages were dealt with: calls that change protection. Reading and writing
    /// files is not refused then, but moves less than was asked for.
    HalfWay(i32),
}

/// From now on the `nth` call of this kind that is made during [`watch`] is refused, once.
pub fn refuse(call: Call, nth: usize, refusal: Refusal) {
    let (error, half_way) = match refusal {
        Refusal::AtOnce(error) => (error, false),
        Refusal::HalfWay(error) => (error, true),
    };
    KIND.store(call as usize, SeqCst);
    ERROR.store(error, SeqCst);
    HALF_WAY.store(half_way, SeqCst);
    NTH.store(nth, SeqCst);
}

/// Whether the call that [`refuse`] chose was refused.
pub fn has_refused() -> bool {
    let nth = NTH.load(SeqCst);
    nth != 0 && CALLED[KIND.load(SeqCst)].load(SeqCst) >= nth
}

pub fn called(call: Call) -> usize {
    CALLED[call as usize].load(SeqCst)
}

/// What is done before each `pwritev`, with its number, counted from 1.
type BeforeWrite = Box<dyn FnMut(usize) + Send>;

static BEFORE_WRITE: Mutex<Option<(usize, BeforeWrite)>> = Mutex::new(None);

/// Has `act` called just before each `pwritev` that is made from now on.
pub fn before_writes(act: impl FnMut(usize) + Send + 'static) {
    *BEFORE_WRITE.lock().unwrap() = Some((0, Box::new(act)));
}

/// Ends that; returns how many there were.
pub fn end_before_writes() -> usize {
    BEFORE_WRITE.lock().unwrap().take().unwrap().0
}

/// The thread that watches; 0 for none.
static WATCHER: AtomicI32 = AtomicI32::new(0);

fn this_thread() -> i32 {
    // SAFETY: asks for a number.
    unsafe { libc::gettid() }
}

/// The call, if this thread watches.
fn here(call: Call) -> Option<Call> {
    (WATCHER.load(SeqCst) == this_thread()).then_some(call)
}

/// Counts the calls of `act`, and refuses the one that [`refuse`] chose. Calls made at other times
/// are let through.
pub fn watch<R>(act: impl FnOnce() -> R) -> R {
    WATCHER.store(this_thread(), SeqCst);
    WATCHING.store(true, SeqCst);
    let result = act();
    WATCHING.store(false, SeqCst);
    WATCHER.store(0, SeqCst);
    result
}

/// Makes a system call, or refuses it, and answers as the C library does.
fn answer(call: Option<Call>, number: c_long, mut arguments: [usize; 6]) -> isize {
    if let Some(call) = call.filter(|_| WATCHING.load(SeqCst)) {
        let so_far = CALLED[call as usize].fetch_add(1, SeqCst) + 1;
        if call as usize == KIND.load(SeqCst) && so_far == NTH.load(SeqCst) {
            if HALF_WAY.load(SeqCst) {
                match call {
                    Call::Pwritev | Call::Writev => return write_less(number, arguments),
                    Call::Read | Call::Write | Call::Pread => {
                        arguments[2] = arguments[2].div_ceil(2);
                        return make(number, arguments);
                    }
                    Call::ProcessMadvise => {
                        arguments[2] /= 2;
                        return make(number, arguments);
                    }
                    _ => {}
                }
            }
            if HALF_WAY.load(SeqCst) {
                go_half_way(call, number, arguments);
            }
            set_errno(ERROR.load(SeqCst));
            return -1;
        }
    }
    let result = make(number, arguments);
    if (-4095..0).contains(&result) {
        set_errno(-result as i32);
        return -1;
    }
    result
}

fn go_half_way(call: Call, number: c_long, mut arguments: [usize; 6]) {
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let half = |len: usize| len / page / 2 * page;
    match call {
        Call::Mprotect => {
            arguments[1] = half(arguments[1]);
            make(number, arguments);
        }
        Call::Protect | Call::Unprotect => {
            let pointer = arguments[2] as *const [u64; 3];
            // SAFETY: the caller passes a `struct uffdio_writeprotect`: start, length and mode.
            let mut range = unsafe { pointer.read() };
            range[1] = half(range[1] as usize) as u64;
            arguments[2] = (&raw mut range) as usize;
            make(number, arguments);
        }
        _ => {}
    }
}

/// Writes half of the first part.
fn write_less(number: c_long, mut arguments: [usize; 6]) -> isize {
    // SAFETY: the caller passes an array of at least one `struct iovec`.
    let mut part = unsafe { (arguments[1] as *const libc::iovec).read() };
    part.iov_len = part.iov_len.div_ceil(2);
    arguments[1] = (&raw mut part) as usize;
    arguments[2] = 1;
    make(number, arguments)
}

#[cfg(target_arch = "x86_64")]
fn make(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    // SAFETY: what the call does is its caller's responsibility, as with the C library's function.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn make(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    // SAFETY: what the call does is its caller's responsibility, as with the C library's function.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            in("x4") e,
            in("x5") f,
            options(nostack),
        );
    }
    result
}

#[unsafe(no_mangle)]
extern "C" fn mprotect(start: *mut c_void, len: usize, protection: c_int) -> c_int {
    let arguments = [start as usize, len, protection as usize, 0, 0, 0];
    answer(Some(Call::Mprotect), libc::SYS_mprotect, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int {
    let arguments = [start as usize, len, advice as usize, 0, 0, 0];
    answer(Some(Call::Madvise), libc::SYS_madvise, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn mincore(start: *mut c_void, len: usize, resident: *mut u8) -> c_int {
    let arguments = [start as usize, len, resident as usize, 0, 0, 0];
    answer(Some(Call::Mincore), libc::SYS_mincore, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn pread(descriptor: c_int, bytes: *mut c_void, len: usize, offset: i64) -> isize {
    let arguments = [
        descriptor as usize,
        bytes as usize,
        len,
        offset as usize,
        0,
        0,
    ];
    answer(Some(Call::Pread), libc::SYS_pread64, arguments)
}

#[unsafe(no_mangle)]
extern "C" fn pread64(descriptor: c_int, bytes: *mut c_void, len: usize, offset: i64) -> isize {
    pread(descriptor, bytes, len, offset)
}

#[unsafe(no_mangle)]
extern "C" fn pwritev(
    descriptor: c_int,
    parts: *const libc::iovec,
    count: c_int,
    offset: i64,
) -> isize {
    if let Some((number, act)) = &mut *BEFORE_WRITE.lock().unwrap() {
        *number += 1;
        act(*number);
    }
    let arguments = [
        descriptor as usize,
        parts as usize,
        count as usize,
        offset as usize,
        0,
        0,
    ];
    answer(Some(Call::Pwritev), libc::SYS_pwritev, arguments)
}

#[unsafe(no_mangle)]
extern "C" fn getrandom(bytes: *mut c_void, len: usize, flags: u32) -> isize {
    let arguments = [bytes as usize, len, flags as usize, 0, 0, 0];
    answer(here(Call::Getrandom), libc::SYS_getrandom, arguments)
}

#[unsafe(no_mangle)]
extern "C" fn read(descriptor: c_int, bytes: *mut c_void, len: usize) -> isize {
    let arguments = [descriptor as usize, bytes as usize, len, 0, 0, 0];
    answer(here(Call::Read), libc::SYS_read, arguments)
}

#[unsafe(no_mangle)]
extern "C" fn write(descriptor: c_int, bytes: *const c_void, len: usize) -> isize {
    let arguments = [descriptor as usize, bytes as usize, len, 0, 0, 0];
    answer(here(Call::Write), libc::SYS_write, arguments)
}

#[unsafe(no_mangle)]
extern "C" fn writev(descriptor: c_int, parts: *const libc::iovec, count: c_int) -> isize {
    let arguments = [descriptor as usize, parts as usize, count as usize, 0, 0, 0];
    answer(here(Call::Writev), libc::SYS_writev, arguments)
}

#[unsafe(no_mangle)]
extern "C" fn fsync(descriptor: c_int) -> c_int {
    let arguments = [descriptor as usize, 0, 0, 0, 0, 0];
    answer(here(Call::Fsync), libc::SYS_fsync, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let at = libc::AT_FDCWD as usize;
    let arguments = [at, from as usize, at, to as usize, 0, 0];
    answer(here(Call::Rename), libc::SYS_renameat2, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn fstat(descriptor: c_int, stat: *mut c_void) -> c_int {
    let arguments = [descriptor as usize, stat as usize, 0, 0, 0, 0];
    answer(Some(Call::Fstat), libc::SYS_fstat, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn fstat64(descriptor: c_int, stat: *mut c_void) -> c_int {
    fstat(descriptor, stat)
}

/// What std asks for instead.
#[unsafe(no_mangle)]
extern "C" fn statx(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mask: u32,
    stat: *mut c_void,
) -> c_int {
    let arguments = [
        directory as usize,
        path as usize,
        flags as usize,
        mask as usize,
        stat as usize,
        0,
    ];
    answer(Some(Call::Fstat), libc::SYS_statx, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn munmap(start: *mut c_void, len: usize) -> c_int {
    let arguments = [start as usize, len, 0, 0, 0, 0];
    answer(Some(Call::Munmap), libc::SYS_munmap, arguments) as c_int
}

/// Variadic in C.
#[unsafe(no_mangle)]
extern "C" fn mremap(
    start: *mut c_void,
    len: usize,
    new_len: usize,
    flags: c_int,
    target: *mut c_void,
) -> *mut c_void {
    let arguments = [
        start as usize,
        len,
        new_len,
        flags as usize,
        target as usize,
        0,
    ];
    answer(Some(Call::Mremap), libc::SYS_mremap, arguments) as *mut c_void
}

#[unsafe(no_mangle)]
extern "C" fn memfd_create(name: *const c_char, flags: c_int) -> c_int {
    let arguments = [name as usize, flags as usize, 0, 0, 0, 0];
    answer(Some(Call::MemfdCreate), libc::SYS_memfd_create, arguments) as c_int
}

/// Variadic in C.
#[unsafe(no_mangle)]
extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: usize) -> c_int {
    let arguments = [descriptor as usize, command as usize, argument, 0, 0, 0];
    answer(Some(Call::Fcntl), libc::SYS_fcntl, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn fcntl64(descriptor: c_int, command: c_int, argument: usize) -> c_int {
    fcntl(descriptor, command, argument)
}

#[unsafe(no_mangle)]
extern "C" fn lseek(descriptor: c_int, offset: i64, whence: c_int) -> i64 {
    let arguments = [
        descriptor as usize,
        offset as usize,
        whence as usize,
        0,
        0,
        0,
    ];
    answer(Some(Call::Lseek), libc::SYS_lseek, arguments) as i64
}

#[unsafe(no_mangle)]
extern "C" fn lseek64(descriptor: c_int, offset: i64, whence: c_int) -> i64 {
    lseek(descriptor, offset, whence)
}

#[unsafe(no_mangle)]
extern "C" fn mmap(
    start: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    let arguments = [
        start as usize,
        len,
        protection as usize,
        flags as usize,
        descriptor as usize,
        offset as usize,
    ];
    answer(Some(Call::Mmap), libc::SYS_mmap, arguments) as *mut c_void
}

#[unsafe(no_mangle)]
extern "C" fn mmap64(
    start: *mut c_void,
    len: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    mmap(start, len, protection, flags, descriptor, offset)
}

/// Variadic in C. A fixed argument more is passed where the next variadic one would be.
#[unsafe(no_mangle)]
extern "C" fn open(path: *const c_char, flags: c_int, mode: usize) -> c_int {
    openat(libc::AT_FDCWD, path, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: usize) -> c_int {
    openat(libc::AT_FDCWD, path, flags, mode)
}

#[unsafe(no_mangle)]
extern "C" fn openat(directory: c_int, path: *const c_char, flags: c_int, mode: usize) -> c_int {
    let arguments = [
        directory as usize,
        path as usize,
        flags as usize,
        mode,
        0,
        0,
    ];
    answer(Some(Call::Open), libc::SYS_openat, arguments) as c_int
}

#[unsafe(no_mangle)]
extern "C" fn ioctl(descriptor: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // linux/userfaultfd.h
    const TYPE: c_ulong = 0xaa;
    const MODE_WP: u64 = 1;
    // linux/fs.h
    const SCAN: (c_ulong, c_ulong) = (b'f' as c_ulong, 16);
    let kind = (request >> 8 & 0xff, request & 0xff);
    let call = match (kind.0 == TYPE, kind.1) {
        _ if kind == SCAN => Some(Call::Scan),
        (true, 0x3f) => Some(Call::Api),
        (true, 0x00) => Some(Call::Register),
        (true, 0x06) => {
            // SAFETY: the third word of `struct uffdio_writeprotect`, which the caller passes.
            let mode = unsafe { argument.cast::<u64>().wrapping_add(2).read() };
            Some(if mode & MODE_WP != 0 {
                Call::Protect
            } else {
                Call::Unprotect
            })
        }
        _ => None,
    };
    let arguments = [
        descriptor as usize,
        request as usize,
        argument as usize,
        0,
        0,
        0,
    ];
    answer(call, libc::SYS_ioctl, arguments) as c_int
}

/// Variadic in C. With fewer arguments the rest is left to chance, and the kernel ignores it.
#[unsafe(no_mangle)]
extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let call = match number {
        libc::SYS_userfaultfd => Some(Call::Userfaultfd),
        libc::SYS_process_madvise => Some(Call::ProcessMadvise),
        _ => None,
    };
    answer(call, number, [a, b, c, d, e, f]) as c_long
}
