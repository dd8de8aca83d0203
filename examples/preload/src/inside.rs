//! Whether the calling thread is inside this library: its own calls go straight to the kernel.

use std::cell::Cell;

thread_local! {
    // Needs no destructor and no initialisation, so that it can be used anywhere.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The thread is inside until this is dropped.
pub struct Inside {
    before: bool,
}

impl Inside {
    pub fn enter() -> Self {
        Self {
            before: INSIDE.replace(true),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

pub fn is_inside() -> bool {
    INSIDE.get()
}
