//! The memory that the program's allocator is served from, and what it may do with it.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pagecow::forkable::Forkable;

use crate::inside::{Inside, is_inside};
use crate::log::log;
use crate::space::{Bits, Space};
use crate::{fork, real};

pub struct Served {
    pub forkable: Forkable,
    start: usize,
    len: usize,
    pub page: usize,
    space: Mutex<Space>,
    /// Whether pages are mapped again after a fork, before they are touched.
    pub populates: bool,
    /// A fork is under way: what is mapped now is the kernel's, so that the child gets it.
    forking: AtomicBool,
}

static SERVED: OnceLock<Served> = OnceLock::new();
/// This is the child of a fork: its memory is as any other, and nothing is served any more.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Begins to serve from `len` bytes of address space.
pub fn begin(len: usize, populates: bool) -> Result<(), String> {
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
        populates,
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

    /// The program maps something in the place of what is served of these addresses, whether it has
    /// them or not: nobody else gets them then.
    pub fn take_over(&self, addresses: Range<usize>) {
        let _inside = Inside::enter();
        if let Some(part) = self.part_of(addresses) {
            self.space().take_over(self.pages_of(&part));
        }
    }

    /// The program needs these addresses no more.
    pub fn unmap(&self, addresses: Range<usize>) {
        let _inside = Inside::enter();
        let mut rest = self.pages_of(&addresses);
        loop {
            // Until they are zeros nobody else takes them.
            let Some(run) = self.space().next_taken(rest.clone()) else {
                break;
            };
            rest.start = run.end;
            self.release(run);
        }
        // The last merge may just have ended.
        if self.forkable.is_merged() {
            self.clean_up();
        }
    }

    /// Makes pages free, which are taken and not needed any more, as soon as that can be.
    fn release(&self, run: Range<usize>) {
        let is_clean = self.forkable.give_back(self.bytes_of(&run));
        let mut space = self.space();
        if is_clean {
            space.free(run);
        } else {
            space.free_unclean(run);
        }
    }

    /// The program has emptied these addresses by moving what was there. What of them is served
    /// had left.
    pub fn emptied(&self, addresses: Range<usize>) {
        let Some(addresses) = self.part_of(addresses) else {
            return;
        };
        let (start, len) = (addresses.start as *mut c_void, addresses.len());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping where nothing is.
        let fence = unsafe {
            let _inside = Inside::enter();
            libc::mmap(start, len, libc::PROT_NONE, flags, -1, 0)
        };
        // If something else is there already these addresses are never used again.
        if fence != libc::MAP_FAILED {
            self.unmap(addresses);
        }
    }

    /// Zeros in place of what is there.
    pub fn clear(&self, addresses: Range<usize>) {
        if self.give_back(addresses.clone()) {
            return;
        }
        self.pieces(addresses, |piece, is_served| {
            let (start, len) = (piece.start as *mut u8, piece.len());
            let _inside = Inside::enter();
            if is_served {
                // SAFETY: served memory that the program asked to be zeros.
                unsafe { start.write_bytes(0, len) };
                return 0;
            }
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: in the place of what had left, and is not needed any more.
            unsafe { libc::mmap(start.cast(), len, access, flags, -1, 0) };
            0
        });
    }

    /// Calls `act` with each piece of some addresses and with whether it is served, until one
    /// returns something else than 0.
    pub fn pieces(
        &self,
        addresses: Range<usize>,
        mut act: impl FnMut(Range<usize>, bool) -> c_int,
    ) -> c_int {
        let Some(own) = self.part_of(addresses.clone()) else {
            return act(addresses, false);
        };
        let mut start = addresses.start;
        while start < addresses.end {
            let (end, is_served) = if start < own.start {
                (own.start, false)
            } else if start >= own.end {
                (addresses.end, false)
            } else {
                match self.next_that_left(start) {
                    Some(left) if left.start <= start => (left.end.min(own.end), false),
                    Some(left) => (left.start.min(own.end), true),
                    None => (own.end, true),
                }
            };
            let result = act(start..end, is_served);
            if result != 0 {
                return result;
            }
            start = end;
        }
        0
    }

    fn next_that_left(&self, from: usize) -> Option<Range<usize>> {
        if is_child() {
            // Another thread of the parent's may have had the lock.
            return None;
        }
        let _inside = Inside::enter();
        let left = self.forkable.next_that_left(from - self.start)?;
        Some(self.start + left.start..self.start + left.end)
    }

    pub fn is_all_served(&self, addresses: Range<usize>) -> bool {
        let is_served = |_: Range<usize>, is_served: bool| c_int::from(!is_served);
        self.pieces(addresses, is_served) == 0
    }

    /// Has what is served of some addresses become ordinary memory, which the kernel may be asked
    /// about; `false`, with the reason in `errno`, when that is refused.
    pub fn leave(&self, addresses: Range<usize>) -> bool {
        let Some(part) = self.part_of(addresses) else {
            return true;
        };
        let _inside = Inside::enter();
        // A child that is forked meanwhile might see half of it.
        let left = fork::while_none(|| {
            let pages = self.pages_of(&part);
            self.forkable.leave(self.bytes_of(&pages))
        });
        if let Some(Ok(())) = left {
            return true;
        }
        log!("refused: memory cannot be taken out of what is served");
        real::set_errno(libc::ENOMEM);
        false
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
            // Taken, by this thread, until it is known what becomes of it.
            let Some(run) = self.space().take_unclean(from) else {
                return;
            };
            from = run.end;
            self.release(run);
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
