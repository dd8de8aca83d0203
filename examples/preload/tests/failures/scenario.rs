//! What a program with the library does, whatever is refused.

use std::io::{Read, Write};

use crate::program::{self, await_log, bytes, end_child_that_hangs, expect_ended_well, unmap};

const LEN: usize = 4 << 20;

/// As an allocator maps it.
pub fn map() -> &'static mut [u8] {
    bytes(program::map(LEN), LEN)
}

fn are(bytes: &[u8], value: u8) -> bool {
    bytes.iter().all(|byte| *byte == value)
}

/// Forks, and each side has its own bytes, on the heap, too. An error is fork(2)'s.
pub fn fork(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut heap = vec![1u8; 1 << 20];
    bytes.fill(1);
    let (mut told, mut tell) = std::io::pipe()?;
    // SAFETY: the child looks at bytes, and ends.
    let child = unsafe { libc::fork() };
    if child < 0 {
        let error = std::io::Error::last_os_error();
        assert!(are(bytes, 1) && are(&heap, 1));
        return Err(error);
    }
    if child == 0 {
        end_child_that_hangs();
        drop(tell);
        let is_told = told.read_exact(&mut [0]).is_ok();
        let is_right = is_told && are(bytes, 1) && are(&heap, 1);
        bytes.fill(3);
        heap.fill(3);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!is_right || !are(bytes, 3) || !are(&heap, 3))) };
    }
    let half = bytes.len() / 2;
    bytes[half..].fill(2);
    heap.fill(2);
    tell.write_all(&[0])?;
    expect_ended_well(child);
    assert!(are(&bytes[..half], 1) && are(&bytes[half..], 2) && are(&heap, 2));
    Ok(())
}

/// Allocates and forks, some times.
pub fn live() {
    let bytes = map();
    assert!(are(bytes, 0));
    for _ in 0..3 {
        fork(bytes).unwrap();
        let other = map();
        assert!(are(other, 0));
        other.fill(5);
        unmap(other.as_mut_ptr(), LEN);
    }
}

/// Waits until the library has logged this.
pub fn await_logged(text: &str) {
    await_log(|log| log.contains(text));
}
