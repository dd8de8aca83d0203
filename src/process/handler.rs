//! What the signal handler does with a fault: whose it is, and what makes the access possible.

use std::io;

use crate::cow::fault::Opened;
use crate::error::Error;
use crate::options::Engine;
use crate::process::registered::{ARENAS, Registered};
use crate::sys::signal::Refusal;
use crate::sys::{self, Access, Fault};

/// Installs the handler for the signals by which arenas of this engine refuse stores. Further calls
/// only say how the first went.
pub(super) fn install(engine: Engine) -> io::Result<()> {
    for refusal in refusals(engine == Engine::Userfaultfd) {
        sys::signal::install(*refusal, resolve)?;
    }
    Ok(())
}

/// How stores are refused: by the mapping, with userfaultfd also by the page.
fn refusals(by_userfaultfd: bool) -> &'static [Refusal] {
    if by_userfaultfd {
        &[Refusal::Mapping, Refusal::Page]
    } else {
        &[Refusal::Mapping]
    }
}

/// Called by the handler for each access that is refused in the process; `false` when it is not
/// ours to resolve. Async-signal-safe.
fn resolve(fault: Fault) -> bool {
    match fault.access {
        Access::Write => {
            let found = ARENAS.find(fault.address);
            found.is_some_and(|registered| registered.refused_store(fault.address))
        }
        // Arenas can always be read. Somebody else has made their memory unreadable, or it is not
        // theirs.
        Access::Read => false,
    }
}

impl Registered {
    /// `Err` when stores would not be refused, or a refused store of this thread would not come to
    /// our handler.
    pub fn check_handler(&self) -> Result<(), Error> {
        let core = self.core();
        core.confirm()?;
        for refusal in refusals(core.uses_userfaultfd()) {
            if !sys::signal::is_installed(*refusal) {
                return Err(Error::HandlerReplaced);
            }
            if sys::signal::is_masked(*refusal) {
                return Err(Error::SignalMasked);
            }
        }
        Ok(())
    }

    /// Whether stores would be refused, and refused stores of threads that mask nothing come to our
    /// handler.
    pub(super) fn faults_arrive(&self) -> bool {
        let core = self.core();
        core.confirm().is_ok() && { refusals(core.uses_userfaultfd()).iter() }
            .all(|refusal| sys::signal::is_installed(*refusal))
    }

    /// Makes a store possible that was refused; `false` when somebody else refuses it.
    /// Async-signal-safe.
    fn refused_store(&self, address: usize) -> bool {
        let core = self.core();
        let begin = sys::clock::now();
        let page = core.page_size().page_of(address - self.addresses().start);
        if let Some(remapped) = self.remap() {
            let waited = remapped.remap.refused(page);
            if waited || !remapped.remap.is_lent() {
                core.count_fault(Opened::Already, sys::clock::since(begin));
                let thread = sys::thread_number();
                let slices = remapped.remap.slices_begun();
                return waited || self.progress.is_made(thread, page, slices);
            }
        }
        let opened = core.first_write(page);
        if opened == Opened::Already {
            let thread = sys::thread_number();
            if !self.progress.is_made(thread, page, core.armings()) {
                return false;
            }
        }
        core.count_fault(opened, sys::clock::since(begin));
        true
    }
}
