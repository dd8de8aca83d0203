//! The handler's installation, for SIGSEGV and for SIGBUS, and forwarding what is not ours.
//!
//! Process-wide state of the crate is here, in [`crate::process::registered`] (which arenas exist),
//! in `fork` (the hooks), in `mappings` (the budget), in `userfaultfd` (its descriptor) and in
//! `protect/probe.rs` (whether it has worked). The handler is installed once for each signal, by
//! the first arena that needs it, and stays.
//!
//! Why not `signal-hook`: it refuses SIGSEGV, and its unchecked way calls the previous handler
//! first. Rust's own handler, called first, resets SIGSEGV to the default for an address that it
//! does not know.

#![allow(unsafe_code, reason = "signal handlers are unsafe by nature")]

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};

use super::context;
use crate::sys::Fault;

/// Makes a refused access possible; `false` when it is not ours.
pub(crate) type Resolve = fn(Fault) -> bool;

struct Installed {
    resolve: Resolve,
    /// What was there before, or why ours could not be installed.
    previous: Result<SigAction, Errno>,
    /// The previous handler asked to be called once (`SA_RESETHAND`), and was.
    previous_gone: AtomicBool,
}

/// The signals by which the kernel refuses a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// SIGSEGV: the mapping is not writable.
    Mapping,
    /// SIGBUS: the page is write-protected by userfaultfd.
    Page,
}

impl Refusal {
    fn signal(self) -> Signal {
        match self {
            Self::Mapping => Signal::SIGSEGV,
            Self::Page => Signal::SIGBUS,
        }
    }

    fn installed(self) -> &'static OnceLock<Installed> {
        static MAPPING: OnceLock<Installed> = OnceLock::new();
        static PAGE: OnceLock<Installed> = OnceLock::new();
        match self {
            Self::Mapping => &MAPPING,
            Self::Page => &PAGE,
        }
    }
}

static FORWARDED: AtomicU64 = AtomicU64::new(0);

/// Installs the handler; further calls only say how the first went.
pub(crate) fn install(refusal: Refusal, resolve: Resolve) -> io::Result<()> {
    let installed = refusal.installed().get_or_init(|| {
        // SIGINFO: address and context are what we decide by. ONSTACK: a stack overflow arrives
        // here too, and Go aborts on handlers without it. No NODEFER, and all signals masked: no
        // other handler may store to an arena while a page is claimed by the thread that it
        // interrupts.
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
        let action = SigAction::new(SigHandler::SigAction(on_fault), flags, SigSet::all());
        Installed {
            resolve,
            // SAFETY: `on_fault` is async-signal-safe (invariant 6).
            previous: unsafe { nix::sys::signal::sigaction(refusal.signal(), &action) },
            previous_gone: AtomicBool::new(false),
        }
    });
    installed.previous.map(drop).map_err(io::Error::from)
}

/// Whether the signal still comes to our handler.
pub(crate) fn is_installed(refusal: Refusal) -> bool {
    current(refusal.signal()).is_ok_and(|action| {
        action.sa_sigaction == on_fault as *const () as usize
            && action.sa_flags & libc::SA_SIGINFO != 0
    })
}

/// Whether the calling thread would be killed by its first fault.
pub(crate) fn is_masked(refusal: Refusal) -> bool {
    SigSet::thread_get_mask().is_ok_and(|mask| mask.contains(refusal.signal()))
}

/// Faults and signals that were passed on to the previous handler, in the whole process.
pub(crate) fn forwarded() -> u64 {
    FORWARDED.load(Ordering::Relaxed)
}

/// All signals of this thread held back. Where it lives no arena is touched, so no fault is
/// expected (one would kill the process); but for [`Masked::all_but_faults`].
pub(crate) struct Masked {
    before: SigSet,
}

impl Masked {
    pub fn new() -> Self {
        // Fails only for an unknown `how`.
        let before = SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .unwrap_or_else(|_| SigSet::empty());
        Self { before }
    }

    /// Those by which stores are refused are let through: the thread may touch arenas.
    pub fn all_but_faults() -> Self {
        let mut signals = SigSet::all();
        for refusal in [Refusal::Mapping, Refusal::Page] {
            signals.remove(refusal.signal());
        }
        // As above.
        let before = signals
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .unwrap_or_else(|_| SigSet::empty());
        Self { before }
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        let restored = self.before.thread_set_mask();
        debug_assert!(restored.is_ok());
    }
}

/// A signal's present action. nix has no query form.
fn current(signal: Signal) -> io::Result<libc::sigaction> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `action` is writable.
    let result = unsafe { libc::sigaction(signal as c_int, std::ptr::null(), action.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed is valid for this plain structure, and the call filled it in.
    Ok(unsafe { action.assume_init() })
}

/// The handler: ours? then resolve it; else to whoever had the signal before us.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    let refusal = if signal == libc::SIGBUS {
        Refusal::Page
    } else {
        Refusal::Mapping
    };
    let Some(installed) = refusal.installed().get() else {
        // Between our sigaction and the end of `install` in another thread: nothing is armed yet,
        // so the fault is not ours. Retried, it finds the previous handler known.
        return;
    };
    // SAFETY: the kernel's own arguments.
    let fault = unsafe { context::fault(info, context) };
    let resolved = fault.is_some_and(installed.resolve);
    Errno::set_raw(errno);
    if !resolved {
        FORWARDED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the kernel's own arguments.
        unsafe { forward(installed, signal, info, context) };
    }
}

/// Does what the kernel would have done without us (invariant 7).
///
/// # Safety
///
/// The arguments are those that the kernel passed to our handler.
unsafe fn forward(
    installed: &Installed,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    let Ok(previous) = &installed.previous else {
        return;
    };
    // SAFETY: the kernel passes a valid siginfo.
    let was_sent = unsafe { (*info).si_code } <= 0;
    let handler = if installed.previous_gone.load(Ordering::Relaxed) {
        SigHandler::SigDfl
    } else {
        previous.handler()
    };
    if matches!(handler, SigHandler::Handler(_) | SigHandler::SigAction(_)) {
        if previous.flags().contains(SaFlags::SA_RESETHAND) {
            installed.previous_gone.store(true, Ordering::Relaxed);
        }
        // SAFETY: the kernel's context.
        unsafe { set_mask_of(previous, signal, context) };
    }
    match handler {
        SigHandler::SigAction(handler) => handler(signal, info, context),
        SigHandler::Handler(handler) => handler(signal),
        SigHandler::SigIgn if was_sent => {}
        // A fault cannot be ignored: the kernel kills.
        SigHandler::SigDfl | SigHandler::SigIgn => die_by_default(signal, was_sent),
    }
}

/// The mask under which the previous handler would have run: the interrupted code's, its own, and
/// the signal itself. The kernel restores the interrupted code's mask when we return.
///
/// # Safety
///
/// `context` is the kernel's ucontext.
unsafe fn set_mask_of(previous: &SigAction, own: c_int, context: *const c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: a valid ucontext (contract). The kernel fills in the first 64 signals, all that is
    // used.
    let mut mask = unsafe { (*context).uc_sigmask };
    let (theirs, flags) = (previous.mask(), previous.flags());
    for signal in 1..=64 {
        // SAFETY: a valid set.
        let in_mask = unsafe { libc::sigismember(theirs.as_ref(), signal) } == 1;
        let itself = signal == own && !flags.contains(SaFlags::SA_NODEFER);
        if in_mask || itself {
            // SAFETY: `mask` is a valid set.
            unsafe { libc::sigaddset(&raw mut mask, signal) };
        }
    }
    // SAFETY: a valid set; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut()) };
}

/// Restores the default action and has it happen: a fault repeats when we return, a signal that was
/// sent is sent again.
fn die_by_default(signal: c_int, was_sent: bool) {
    // SAFETY: zero bytes are the default action with an empty mask and no flags.
    let default = unsafe { std::mem::zeroed::<libc::sigaction>() };
    // SAFETY: a valid action; the old one is not wanted.
    unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    if was_sent {
        // Masked while we run, so it arrives when we return.
        // SAFETY: no memory is involved.
        unsafe { libc::raise(signal) };
    }
}
