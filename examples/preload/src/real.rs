//! The calls that the program's go to in the end.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function of the C library, or of another library that is preloaded, behind ours.
pub struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    pub const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    pub fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a name that ends in zero.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// The function of this name behind ours; where there is none the call ends the program.
macro_rules! next {
    ($name:ident: $kind:ty) => {{
        static NEXT: $crate::real::Next = $crate::real::Next::new(
            match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            },
        );
        let address = NEXT.address();
        if address.is_null() {
            $crate::real::die(concat!("pagecow-preload: no ", stringify!($name), "\n"));
        }
        // SAFETY: the C library's function of this name, which has this type.
        unsafe { std::mem::transmute::<*mut std::ffi::c_void, $kind>(address) }
    }};
}
pub(crate) use next;

pub fn die(why: &str) -> ! {
    // SAFETY: writes bytes of a live string; then ends the process.
    unsafe {
        libc::write(2, why.as_ptr().cast(), why.len());
        libc::abort()
    }
}

pub fn set_errno(number: c_int) {
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() = number }
}

pub fn errno() -> c_int {
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() }
}
