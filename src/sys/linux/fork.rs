//! Hooks around fork(2).

#![allow(unsafe_code, reason = "pthread_atfork is not in std")]

use std::io;
use std::sync::OnceLock;

/// What to do around a fork, on the thread that forks.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    pub before: fn(),
    pub after_in_parent: fn(),
    pub after_in_child: fn(),
}

/// The hooks, and the error number of their installation.
static HOOKS: OnceLock<(Hooks, i32)> = OnceLock::new();

/// Has the hooks called around every fork from now on. Further calls only say how the first went.
pub(crate) fn install(hooks: Hooks) -> io::Result<()> {
    let (_, result) = HOOKS.get_or_init(|| {
        // SAFETY: the three functions live as long as the program and take no arguments.
        let result = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        (hooks, result)
    });
    match *result {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

fn call(choose: fn(&Hooks) -> fn()) {
    if let Some((hooks, _)) = HOOKS.get() {
        choose(hooks)();
    }
}

extern "C" fn before() {
    call(|hooks| hooks.before);
}

extern "C" fn in_parent() {
    call(|hooks| hooks.after_in_parent);
}

extern "C" fn in_child() {
    call(|hooks| hooks.after_in_child);
}
