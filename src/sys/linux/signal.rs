//! The SIGSEGV handler's installation, and forwarding what is not ours.
//!
//! Process-wide state of the crate is here, in [`crate::registry`] (which arenas exist), in `fork` (the
//! hooks) and in `mappings` (the budget). The handler is installed once, by the first arena, and stays.
//!
//! Why not `signal-hook`: it refuses SIGSEGV, and its unchecked way calls the previous handler first.
//! Rust's own handler, called first, resets SIGSEGV to the default for an address that it does not know.

#![allow(unsafe_code, reason = "signal handlers are unsafe by nature")]

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};

use super::context;

/// Makes a refused store to this address possible; `false` when the address is not ours.
pub(crate) type Resolve = fn(usize) -> bool;

struct Installed {
    resolve: Resolve,
    previous: libc::sigaction,
    /// The previous handler asked to be called once (`SA_RESETHAND`), and was.
    previous_gone: AtomicBool,
}

static INSTALLED: OnceLock<Installed> = OnceLock::new();
static FORWARDED: AtomicU64 = AtomicU64::new(0);

/// Installs the handler; further calls do nothing.
pub(crate) fn install(resolve: Resolve) -> io::Result<()> {
    // The previous handler must be known before ours can be called.
    let previous = current()?;
    let mut result = Ok(());
    INSTALLED.get_or_init(|| {
        // SIGINFO: address and context are what we decide by.
        // ONSTACK: a stack overflow arrives here too, and Go aborts on handlers without it.
        // No NODEFER, and all signals masked: no other handler may store to an arena while a page is
        // claimed by the thread that it interrupts.
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
        let action = SigAction::new(SigHandler::SigAction(on_fault), flags, SigSet::all());
        // SAFETY: `on_fault` is async-signal-safe (invariant 6).
        let installed = unsafe { nix::sys::signal::sigaction(Signal::SIGSEGV, &action) };
        result = installed.map(drop).map_err(io::Error::from);
        Installed {
            resolve,
            previous,
            previous_gone: AtomicBool::new(false),
        }
    });
    result
}

/// Whether SIGSEGV still comes to our handler.
pub(crate) fn is_installed() -> bool {
    current().is_ok_and(|action| {
        action.sa_sigaction == on_fault as *const () as usize
            && action.sa_flags & libc::SA_SIGINFO != 0
    })
}

/// Whether the calling thread would be killed by its first fault.
pub(crate) fn is_masked() -> bool {
    SigSet::thread_get_mask().is_ok_and(|mask| mask.contains(Signal::SIGSEGV))
}

/// Faults and signals that were passed on to the previous handler, in the whole process.
pub(crate) fn forwarded() -> u64 {
    FORWARDED.load(Ordering::Relaxed)
}

/// All signals of this thread held back, but for those that its own instructions raise.
pub(crate) struct Masked {
    before: SigSet,
}

impl Masked {
    pub fn new() -> Self {
        let mut set = SigSet::all();
        for raised_by_code in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGTRAP,
        ] {
            set.remove(raised_by_code);
        }
        // Fails only for an unknown `how`.
        let before = set
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
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

/// SIGSEGV's present action. nix has no query form.
fn current() -> io::Result<libc::sigaction> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `action` is writable.
    let result = unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), action.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed is valid for this plain structure, and the call filled it in.
    Ok(unsafe { action.assume_init() })
}

/// The handler: ours? then resolve it; else to whoever had SIGSEGV before us.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    let Some(installed) = INSTALLED.get() else {
        // Between our sigaction and the end of `install` in another thread: nothing is armed yet, so
        // the fault is not ours. Retried, it finds the previous handler known.
        return;
    };
    // SAFETY: the kernel's own arguments.
    let store = unsafe { context::refused_store(info, context) };
    if !store.is_some_and(installed.resolve) {
        FORWARDED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the kernel's own arguments.
        unsafe { forward(installed, signal, info, context) };
    }
    Errno::set_raw(errno);
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
    let previous = &installed.previous;
    // SAFETY: the kernel passes a valid siginfo.
    let was_sent = unsafe { (*info).si_code } <= 0;
    let handler = if installed.previous_gone.load(Ordering::Relaxed) {
        libc::SIG_DFL
    } else {
        previous.sa_sigaction
    };
    match handler {
        libc::SIG_IGN if was_sent => {}
        // A fault cannot be ignored: the kernel kills.
        libc::SIG_DFL | libc::SIG_IGN => die_by_default(signal, was_sent),
        handler => {
            if previous.sa_flags & libc::SA_RESETHAND != 0 {
                installed.previous_gone.store(true, Ordering::Relaxed);
            }
            // SAFETY: the kernel's context.
            unsafe { set_mask_of(previous, context) };
            if previous.sa_flags & libc::SA_SIGINFO != 0 {
                type Full = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
                // SAFETY: with SA_SIGINFO the kernel would call it with this signature.
                let handler = unsafe { std::mem::transmute::<usize, Full>(handler) };
                handler(signal, info, context);
            } else {
                type Short = extern "C" fn(c_int);
                // SAFETY: without SA_SIGINFO the kernel would call it with this signature.
                let handler = unsafe { std::mem::transmute::<usize, Short>(handler) };
                handler(signal);
            }
        }
    }
}

/// The mask under which the previous handler would have run: the interrupted code's, its own, and the
/// signal itself. The kernel restores the interrupted code's mask when we return.
///
/// # Safety
///
/// `context` is the kernel's ucontext.
unsafe fn set_mask_of(previous: &libc::sigaction, context: *const c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: a valid ucontext (contract). The kernel fills in the first 64 signals, all that is used.
    let mut mask = unsafe { (*context).uc_sigmask };
    for signal in 1..=64 {
        // SAFETY: `previous.sa_mask` is a valid set.
        let in_mask = unsafe { libc::sigismember(&raw const previous.sa_mask, signal) } == 1;
        let itself = signal == libc::SIGSEGV && previous.sa_flags & libc::SA_NODEFER == 0;
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
