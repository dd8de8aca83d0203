//! What the kernel says of a fault, for each processor.

#![allow(unsafe_code, reason = "siginfo and ucontext are C structures")]

use crate::sys::{Access, Fault};

/// An access that the protection of mapped memory refused (SIGSEGV), or that of userfaultfd
/// (SIGBUS): the only kinds of fault that can be ours.
///
/// `None` for all others: jumps, unmapped addresses (`SEGV_MAPERR`), protection keys, and signals
/// that were sent (`si_code <= 0`).
///
/// # Safety
///
/// `info` and `context` are what the kernel passed to a `SA_SIGINFO` handler of SIGSEGV or SIGBUS.
pub(super) unsafe fn fault(
    info: *const libc::siginfo_t,
    context: *const libc::c_void,
) -> Option<Fault> {
    const SEGV_ACCERR: i32 = 2;
    const BUS_ADRERR: i32 = 2;
    // SAFETY: the kernel passes a valid siginfo (this function's contract).
    let info = unsafe { &*info };
    let code = match info.si_signo {
        libc::SIGBUS => BUS_ADRERR,
        _ => SEGV_ACCERR,
    };
    if info.si_code != code {
        return None;
    }
    // SAFETY: the kernel passes a valid ucontext.
    let access = unsafe { access(context.cast()) }?;
    // SAFETY: with this code the kernel fills in the address.
    let address = unsafe { info.si_addr() } as usize;
    Some(Fault { address, access })
}

/// The page-fault error code: bit 1 is set for a write, bit 4 for a jump (Intel SDM volume 3,
/// "Interrupt 14").
///
/// # Safety
///
/// `context` is a valid ucontext of a SIGSEGV or SIGBUS.
#[cfg(target_arch = "x86_64")]
unsafe fn access(context: *const libc::ucontext_t) -> Option<Access> {
    const WRITE: i64 = 1 << 1;
    const JUMP: i64 = 1 << 4;
    // SAFETY: a valid ucontext (this function's contract).
    let error = unsafe { (*context).uc_mcontext.gregs[libc::REG_ERR as usize] };
    if error & WRITE != 0 {
        Some(Access::Write)
    } else if error & JUMP != 0 {
        None
    } else {
        Some(Access::Read)
    }
}

/// The exception syndrome, one of the records behind the registers: bit 6 (WnR) of a data abort is
/// set for a write, and a jump is no data abort (Arm ARM, "ESR_EL1"; Linux `asm/sigcontext.h` for
/// the records).
///
/// # Safety
///
/// `context` is a valid ucontext of a SIGSEGV or SIGBUS.
#[cfg(target_arch = "aarch64")]
unsafe fn access(context: *const libc::ucontext_t) -> Option<Access> {
    const RECORDS: usize = 4096;
    const ESR_MAGIC: u32 = 0x4553_5201;
    const HEAD: usize = 8;
    // SAFETY: a valid ucontext (this function's contract); only the address is taken.
    let machine = unsafe { &raw const (*context).uc_mcontext };
    // The records are the last member of the structure, 16-byte aligned and 4096 bytes long.
    let start = machine.wrapping_add(1).cast::<u8>().wrapping_sub(RECORDS);
    let mut offset = 0;
    while offset + HEAD + 8 <= RECORDS {
        let record = start.wrapping_add(offset);
        // SAFETY: inside the 4096 bytes of records.
        let magic = unsafe { record.cast::<u32>().read_unaligned() };
        // SAFETY: as above; each record starts with magic and size.
        let size = unsafe { record.wrapping_add(4).cast::<u32>().read_unaligned() } as usize;
        if magic == ESR_MAGIC {
            // SAFETY: as above; the syndrome follows the head.
            let esr = unsafe { record.wrapping_add(HEAD).cast::<u64>().read_unaligned() };
            let class = esr >> 26;
            let data_abort = class == 0x24 || class == 0x25;
            let access = if esr & (1 << 6) != 0 {
                Access::Write
            } else {
                Access::Read
            };
            return data_abort.then_some(access);
        }
        if magic == 0 || size < HEAD {
            break;
        }
        offset += size;
    }
    None
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "pagecow does not know how this processor reports a write fault; see src/sys/linux/context.rs"
);
