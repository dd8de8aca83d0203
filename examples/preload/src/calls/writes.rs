//! Calls through which the kernel writes into memory. It raises no signal where that is being
//! merged, but says `EFAULT`: such a call is made again when the slice is merged.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::inside::is_inside;
use crate::real::{self, next};
use crate::served;

/// A result that says whether a call failed.
trait Failed {
    fn has_failed(&self) -> bool;
}

impl Failed for isize {
    fn has_failed(&self) -> bool {
        *self == -1
    }
}

impl Failed for c_int {
    fn has_failed(&self) -> bool {
        *self == -1
    }
}

/// More slices than a call meets by chance.
const TIMES: usize = 1000;

/// Makes a call that fails because of merging again.
fn retry<R: Failed>(mut call: impl FnMut() -> R) -> R {
    let Some(served) = served::anywhere().filter(|_| !is_inside() && !served::is_child()) else {
        return call();
    };
    let mut slices = served.forkable.slices_begun();
    for _ in 0..TIMES {
        let was_merging = served.forkable.is_merging();
        let result = call();
        if !result.has_failed() || real::errno() != libc::EFAULT {
            return result;
        }
        let begun = served.forkable.slices_begun();
        if !was_merging && begun == slices {
            // Nothing was merged meanwhile: the address is wrong.
            return result;
        }
        slices = begun;
        served.forkable.wait_until_merged();
    }
    call()
}

macro_rules! retried {
    ($($(#[$text:meta])* $name:ident($($value:ident: $kind:ty),*) -> $result:ty;)*) => {$(
        $(#[$text])*
        ///
        /// # Safety
        ///
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($value: $kind),*) -> $result {
            let next = next!($name: unsafe extern "C" fn($($kind),*) -> $result);
            // SAFETY: the caller's.
            retry(|| unsafe { next($($value),*) })
        }
    )*};
}

retried! {
    /// read(2).
    read(file: c_int, to: *mut c_void, len: usize) -> isize;
    /// pread(2).
    pread(file: c_int, to: *mut c_void, len: usize, offset: i64) -> isize;
    /// pread(2).
    pread64(file: c_int, to: *mut c_void, len: usize, offset: i64) -> isize;
    /// readv(2).
    readv(file: c_int, parts: *const libc::iovec, count: c_int) -> isize;
    /// preadv(2).
    preadv(file: c_int, parts: *const libc::iovec, count: c_int, offset: i64) -> isize;
    /// preadv(2).
    preadv64(file: c_int, parts: *const libc::iovec, count: c_int, offset: i64) -> isize;
    /// recv(2).
    recv(socket: c_int, to: *mut c_void, len: usize, flags: c_int) -> isize;
    /// recvfrom(2).
    recvfrom(
        socket: c_int,
        to: *mut c_void,
        len: usize,
        flags: c_int,
        from: *mut libc::sockaddr,
        from_len: *mut libc::socklen_t
    ) -> isize;
    /// recvmsg(2).
    recvmsg(socket: c_int, message: *mut libc::msghdr, flags: c_int) -> isize;
    /// epoll_wait(2).
    epoll_wait(file: c_int, to: *mut libc::epoll_event, most: c_int, time: c_int) -> c_int;
    /// epoll_pwait(2).
    epoll_pwait(
        file: c_int,
        to: *mut libc::epoll_event,
        most: c_int,
        time: c_int,
        mask: *const libc::sigset_t
    ) -> c_int;
    /// poll(2).
    poll(files: *mut libc::pollfd, count: libc::nfds_t, time: c_int) -> c_int;
    /// ppoll(2).
    ppoll(
        files: *mut libc::pollfd,
        count: libc::nfds_t,
        time: *const libc::timespec,
        mask: *const libc::sigset_t
    ) -> c_int;
    /// select(2).
    select(
        count: c_int,
        read: *mut libc::fd_set,
        write: *mut libc::fd_set,
        except: *mut libc::fd_set,
        time: *mut libc::timeval
    ) -> c_int;
    /// getrandom(2).
    getrandom(to: *mut c_void, len: usize, flags: c_uint) -> isize;
    /// readlink(2).
    readlink(path: *const c_char, to: *mut c_char, len: usize) -> isize;
    /// stat(2).
    stat(path: *const c_char, to: *mut libc::stat) -> c_int;
    /// fstat(2).
    fstat(file: c_int, to: *mut libc::stat) -> c_int;
    /// lstat(2).
    lstat(path: *const c_char, to: *mut libc::stat) -> c_int;
    /// fstatat(2).
    fstatat(dir: c_int, path: *const c_char, to: *mut libc::stat, flags: c_int) -> c_int;
    /// getsockname(2).
    getsockname(socket: c_int, to: *mut libc::sockaddr, len: *mut libc::socklen_t) -> c_int;
    /// getpeername(2).
    getpeername(socket: c_int, to: *mut libc::sockaddr, len: *mut libc::socklen_t) -> c_int;
    /// getsockopt(2).
    getsockopt(
        socket: c_int,
        level: c_int,
        name: c_int,
        to: *mut c_void,
        len: *mut libc::socklen_t
    ) -> c_int;
    /// pipe(2).
    pipe(to: *mut c_int) -> c_int;
    /// read(2), of a program that checks lengths, as those below.
    __read_chk(file: c_int, to: *mut c_void, len: usize, room: usize) -> isize;
    /// pread(2).
    __pread_chk(file: c_int, to: *mut c_void, len: usize, offset: i64, room: usize) -> isize;
    /// pread(2).
    __pread64_chk(file: c_int, to: *mut c_void, len: usize, offset: i64, room: usize) -> isize;
    /// recv(2).
    __recv_chk(socket: c_int, to: *mut c_void, len: usize, room: usize, flags: c_int) -> isize;
    /// recvfrom(2).
    __recvfrom_chk(
        socket: c_int,
        to: *mut c_void,
        len: usize,
        room: usize,
        flags: c_int,
        from: *mut libc::sockaddr,
        from_len: *mut libc::socklen_t
    ) -> isize;
    /// poll(2).
    __poll_chk(files: *mut libc::pollfd, count: libc::nfds_t, time: c_int, room: usize) -> c_int;
    /// readlink(2).
    __readlink_chk(path: *const c_char, to: *mut c_char, len: usize, room: usize) -> isize;
}
