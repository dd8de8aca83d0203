//! Has the kernel refuse calls, by a filter (seccomp(2)) that a process cannot get rid of.

use std::io;

/// What an argument of a call must be like for the call to be refused.
#[derive(Clone, Copy)]
pub enum Argument {
    /// This one is this number.
    Is(u32, u32),
    /// This one has one of these bits.
    Has(u32, u32),
    /// This one is 4 GiB at least.
    IsHuge(u32),
}

/// From now on, and in programs that are executed, this call fails so, if all of these hold.
/// Async-signal-safe.
pub fn refuse(call: libc::c_long, error: i32, arguments: &[Argument]) -> io::Result<()> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const MOST: usize = 12;
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut steps = [step(RETURN, libc::SECCOMP_RET_ALLOW); MOST];
    // The number of the call, then for each argument its lower or upper half: else, to the end.
    let mut len = 0;
    let mut test = |offset: u32, code: u32, k: u32| {
        steps[len] = step(LOAD, offset);
        steps[len + 1] = step(code, k);
        len += 2;
    };
    test(0, EQUAL, call as u32);
    for argument in arguments {
        // Of `seccomp_data`, on a machine whose numbers begin with their lower half.
        let lower = |argument: u32| 16 + 8 * argument;
        match *argument {
            Argument::Is(place, number) => test(lower(place), EQUAL, number),
            Argument::Has(place, bits) => test(lower(place), BITS, bits),
            Argument::IsHuge(place) => test(lower(place) + 4, BITS, u32::MAX),
        }
    }
    for at in (1..len).step_by(2) {
        steps[at].jf = (len - at) as u8;
    }
    steps[len] = step(RETURN, libc::SECCOMP_RET_ERRNO | error as u32);
    let program = libc::sock_fprog {
        len: len as u16 + 2,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: plain calls; the kernel copies the program, which is alive.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) != 0
    };
    if refused {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Limits something of this process, and of programs that it executes. Async-signal-safe.
pub fn limit(what: libc::__rlimit_resource_t, to: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a live structure.
    if unsafe { libc::getrlimit(what, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = to.min(limit.rlim_max);
    // SAFETY: a live structure.
    if unsafe { libc::setrlimit(what, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
