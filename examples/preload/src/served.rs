//! The memory that the program's allocator is served from, and what it may do with it.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pagecow::forkable::Forkable;

use crate::inside::{Inside, is_inside};
use crate::log::log;
use crate::space::{Bits, Space};

pub struct Served {
    pub forkable: Forkable,
    start: usize,
    len: usize,
    page: usize,
    space: Mutex<Space>,
    /// A fork is under way: what is mapped now is the kernel's, so that the child gets it.
    forking: AtomicBool,
}

static SERVED: OnceLock<Served> = OnceLock::new();
/// This is the child of a fork: its memory is as any other, and nothing is served any more.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Begins to serve from `len` bytes of address space.
pub fn begin(len: usize) -> Result<(), String> {
    let _inside = Inside::enter();
    let page = page_size();
    let len = len / page * page;
    let forkable = Forkable::new(len).map_err(|error| error.to_string())?;
    let pages = len / page;
    let (used, unclean) = match (bits(pages), bits(pages)) {
        (Some(used), Some(unclean)) => (used, unclean),
        _ => return Err("no room for a list of pages".to_owned()),
    };
    let served = Served {
        start: forkable.addresses().start,
        forkable,
        len,
        page,
        space: Mutex::new(Space::new(pages, used, unclean)),
        forking: AtomicBool::new(false),
    };
    let _ = SERVED.set(served);
    Ok(())
}

/// A bit a page, zeros, for ever.
fn bits(pages: usize) -> Option<Bits> {
    let words = pages.div_ceil(64);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, wherever the kernel likes; the kernel's, since this thread is inside.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), words * 8, access, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: aligned zeros of that length that nobody else has and nobody unmaps.
    Some(Bits::new(unsafe {
        std::slice::from_raw_parts_mut(mapped.cast(), words)
    }))
}

fn page_size() -> usize {
    // SAFETY: a plain call.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// What is served here, also where this thread is inside, or this is a child.
pub fn anywhere() -> Option<&'static Served> {
    SERVED.get()
}

/// What is served to this thread now.
pub fn here() -> Option<&'static Served> {
    if is_inside() || is_child() {
        return None;
    }
    SERVED.get()
}

pub fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

impl Served {
    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    pub fn has(&self, address: usize) -> bool {
        self.addresses().contains(&address)
    }

    /// The part of some addresses that is served memory.
    pub fn part_of(&self, addresses: Range<usize>) -> Option<Range<usize>> {
        let own = self.addresses();
        let part = addresses.start.max(own.start)..addresses.end.min(own.end);
        (part.start < part.end).then_some(part)
    }

    fn pages_of(&self, addresses: &Range<usize>) -> Range<usize> {
        (addresses.start - self.start) / self.page..(addresses.end - self.start).div_ceil(self.page)
    }

    fn bytes_of(&self, pages: &Range<usize>) -> Range<usize> {
        pages.start * self.page..pages.end * self.page
    }

    fn address_of(&self, page: usize) -> *mut c_void {
        (self.start + page * self.page) as *mut c_void
    }

    /// Zeros, for the program; at `hint`, if that is served memory. `None`: the kernel is asked.
    pub fn map(&self, hint: usize, len: usize) -> Option<*mut c_void> {
        let _inside = Inside::enter();
        let count = len.div_ceil(self.page);
        let mut space = self.space();
        if self.forking.load(Ordering::SeqCst) {
            return None;
        }
        if hint == 0 {
            return space.take(count).map(|page| self.address_of(page));
        }
        if !self.has(hint) || !hint.is_multiple_of(self.page) {
            return None;
        }
        let first = (hint - self.start) / self.page;
        space
            .take_at(first..first + count)
            .then(|| self.address_of(first))
    }

    /// The program needs these addresses no more.
    pub fn unmap(&self, addresses: Range<usize>) {
        let _inside = Inside::enter();
        let mut rest = self.pages_of(&addresses);
        loop {
            // Until they are zeros nobody else takes them.
            let Some(run) = self.space().next_taken(rest.clone()) else {
                return;
            };
            let is_clean = self.forkable.give_back(self.bytes_of(&run));
            let mut space = self.space();
            if is_clean {
                space.free(run.clone());
            } else {
                space.free_unclean(run.clone());
            }
            rest.start = run.end;
        }
    }

    /// Zeros in place of what is there.
    pub fn clear(&self, addresses: Range<usize>) {
        let _inside = Inside::enter();
        let pages = self.pages_of(&addresses);
        if !self.forkable.give_back(self.bytes_of(&pages)) {
            let (start, len) = (addresses.start as *mut u8, addresses.len());
            // SAFETY: served memory that the program asked to be zeros.
            unsafe { start.write_bytes(0, len) };
        }
    }

    /// Gives memory back that is to be zeros then; `false` when that cannot be now.
    pub fn give_back(&self, addresses: Range<usize>) -> bool {
        let _inside = Inside::enter();
        self.forkable
            .give_back(self.bytes_of(&self.pages_of(&addresses)))
    }

    /// The pages after some others, if they are free.
    pub fn extend(&self, end: usize, len: usize) -> bool {
        let _inside = Inside::enter();
        let first = (end - self.start) / self.page;
        let mut space = self.space();
        !self.forking.load(Ordering::SeqCst)
            && space.take_at(first..first + len.div_ceil(self.page))
    }

    /// Makes zeros of what was given back while a child might look at it.
    pub fn clean_up(&self) {
        let mut from = 0;
        loop {
            let Some(run) = self.space().next_unclean(from) else {
                return;
            };
            from = run.end;
            if self.forkable.give_back(self.bytes_of(&run)) {
                self.space().cleaned(run);
            }
        }
    }

    pub fn round_up(&self, len: usize) -> usize {
        len.next_multiple_of(self.page)
    }

    /// Freezes all for a fork, if the system grants it. Nothing is served until that is over.
    pub fn before_fork(&self) -> bool {
        let _inside = Inside::enter();
        self.forking.store(true, Ordering::SeqCst);
        let border = self.space().border();
        let frozen = self.forkable.before_fork(border * self.page);
        if let Err(error) = &frozen {
            log!("fork refused: {error}");
            self.forking.store(false, Ordering::SeqCst);
        }
        frozen.is_ok()
    }

    pub fn in_parent(&self) {
        let _inside = Inside::enter();
        self.forkable.in_parent();
        self.forking.store(false, Ordering::SeqCst);
    }

    pub fn in_child(&self) {
        IS_CHILD.store(true, Ordering::SeqCst);
        self.forkable.in_child();
    }
}
