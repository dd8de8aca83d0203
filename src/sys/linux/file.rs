//! Writing to a file straight from memory that others may store to.

#![allow(unsafe_code, reason = "system calls on memory that others store to")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::sys::Piece;

/// Most parts of one call, as the kernel has it (`UIO_MAXIOV`).
const MOST_PARTS: usize = 1024;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The flags that the file is open with (`O_APPEND` and the like).
pub(crate) fn flags(file: &File) -> io::Result<libc::c_int> {
    // SAFETY: only asks.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(flags)
}

/// Writes the pieces, one after the other, to the file from byte `at` on, all of them. Others may
/// store to them meanwhile; then what arrives is some mixture of old and new. The file's position
/// stays.
pub(crate) fn write_all_at(file: &File, at: u64, pieces: &[Piece<'_>]) -> io::Result<()> {
    let part = |piece: &Piece<'_>| {
        let Piece { memory, start, len } = *piece;
        assert!(start <= memory.len() && len <= memory.len() - start);
        libc::iovec {
            iov_base: memory.as_mut_ptr().wrapping_add(start).cast(),
            iov_len: len,
        }
    };
    write_parts(file, at, &mut pieces.iter().map(part).collect::<Vec<_>>())
}

/// As [`write_all_at`], for `len` zeros.
pub(crate) fn write_zeros_at(file: &File, at: u64, len: usize) -> io::Result<()> {
    let part = |start| libc::iovec {
        iov_base: ZEROS.as_ptr().cast_mut().cast(),
        iov_len: ZEROS.len().min(len - start),
    };
    let parts = (0..len).step_by(ZEROS.len()).map(part);
    write_parts(file, at, &mut parts.collect::<Vec<_>>())
}

/// Each part is memory that is mapped and readable.
fn write_parts(file: &File, mut at: u64, mut parts: &mut [libc::iovec]) -> io::Result<()> {
    while !parts.is_empty() {
        let written = write_once(file, at, &parts[..parts.len().min(MOST_PARTS)])?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += written as u64;
        parts = without(parts, written);
    }
    Ok(())
}

/// Returns how many bytes were written: fewer than there are where the disk or a limit has no room
/// for more, or a signal came.
fn write_once(file: &File, at: u64, parts: &[libc::iovec]) -> io::Result<usize> {
    let at = i64::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: only reads the parts, whose memory is mapped and readable (the caller's), and of
        // which there are that many.
        let written = unsafe {
            libc::pwritev(
                file.as_raw_fd(),
                parts.as_ptr(),
                parts.len() as libc::c_int,
                at,
            )
        };
        if let Ok(written) = usize::try_from(written) {
            return Ok(written);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What is left of the parts after this many of their bytes.
fn without(parts: &mut [libc::iovec], bytes: usize) -> &mut [libc::iovec] {
    let (mut whole, mut rest) = (0, bytes);
    while let Some(part) = parts.get_mut(whole) {
        if rest < part.iov_len {
            part.iov_base = part.iov_base.wrapping_byte_add(rest);
            part.iov_len -= rest;
            break;
        }
        rest -= part.iov_len;
        whole += 1;
    }
    &mut parts[whole..]
}
