//! A system made of loom's atomics, for the models.
//!
//! What it keeps of the real one: a store to an armed page is refused; `arm` and `disarm` go page by
//! page, so that others run in between; when `arm` has returned for a page no store to it succeeds any
//! more (the lock is the TLB shootdown); who sees a store that succeeded sees what was done before the
//! page was opened (the fence; `docs/soundness.md`).

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool as PlainBool, Ordering as Plain};

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU8, Ordering, fence};

use super::blocks::{Blocks, Protect};
use super::{ProtectError, ZeroValid};
use crate::options::{Engine, Options};
use crate::page::{PageIndex, PageRange, PageSize};

/// Bytes, each an atomic of its own: a reader may get any mixture that the memory model allows.
pub(crate) struct Memory {
    bytes: Vec<AtomicU8>,
}

impl Memory {
    pub fn new(pages: usize, page_size: PageSize) -> io::Result<Self> {
        let bytes = (0..pages * page_size.bytes()).map(|_| AtomicU8::new(0));
        Ok(Self {
            bytes: bytes.collect(),
        })
    }

    pub fn in_small_pages(self) -> Self {
        self
    }

    pub fn copy_page(&self, to: PageIndex, from: &Self, page: PageIndex, page_size: PageSize) {
        for byte in 0..page_size.bytes() {
            let value = from.bytes[page_size.offset_of(page) + byte].load(Ordering::Relaxed);
            self.bytes[page_size.offset_of(to) + byte].store(value, Ordering::Relaxed);
        }
    }

    pub fn read(&self, start: usize, into: &mut [u8]) {
        for (byte, value) in into.iter_mut().enumerate() {
            *value = self.bytes[start + byte].load(Ordering::Relaxed);
        }
    }

    pub fn differs(
        &self,
        own: PageIndex,
        other: &Self,
        page: PageIndex,
        page_size: PageSize,
    ) -> bool {
        (0..page_size.bytes()).any(|byte| {
            let one = self.bytes[page_size.offset_of(own) + byte].load(Ordering::Relaxed);
            one != other.bytes[page_size.offset_of(page) + byte].load(Ordering::Relaxed)
        })
    }

    pub fn populate(&self, _range: PageRange, _page_size: PageSize, _by_call: bool) {}

    pub fn discard(&self, _range: PageRange, _page_size: PageSize) {}
}

/// Pages of the blocks that userfaultfd's untouched pages are protected in.
const BLOCK: usize = 2;

pub(crate) struct Protection {
    memory: Memory,
    /// Whether each page is writable; the lock is held while a store is made.
    writable: Vec<Mutex<bool>>,
    /// With userfaultfd: the blocks; whether the mapping of each is writable, with the same lock; and
    /// whether anything was stored there.
    blocks: Option<Blocks>,
    mappings: Vec<Mutex<bool>>,
    touched: Vec<PlainBool>,
    /// Refuse calls that are not over the whole arena, as a kernel without mappings to give does where
    /// none can be joined.
    pub no_mappings: PlainBool,
    /// Refuse to protect pages one by one.
    pub no_pages: PlainBool,
    /// Refuse to open pages that are not beside an open one, as such a kernel does otherwise.
    pub no_splits: PlainBool,
    /// Open the first page of each run before refusing it.
    pub half_way: PlainBool,
    /// Fail the next call to `arm` after its first page.
    pub fail_arming: PlainBool,
    /// The same for the next call to `disarm`.
    pub fail_disarming: PlainBool,
}

impl Protection {
    pub fn new(pages: usize, page_size: PageSize, options: &Options) -> crate::error::Result<Self> {
        let blocks = match options.engine {
            Engine::Mprotect => None,
            Engine::Userfaultfd => Some(Blocks::new(pages, BLOCK).expect("there is memory")),
        };
        Ok(Self {
            memory: Memory::new(pages, page_size).expect("there is memory"),
            writable: (0..pages).map(|_| Mutex::new(true)).collect(),
            blocks,
            mappings: (0..pages.div_ceil(BLOCK))
                .map(|_| Mutex::new(true))
                .collect(),
            touched: (0..pages.div_ceil(BLOCK))
                .map(|_| PlainBool::new(false))
                .collect(),
            no_mappings: PlainBool::new(false),
            no_pages: PlainBool::new(false),
            no_splits: PlainBool::new(false),
            half_way: PlainBool::new(false),
            fail_arming: PlainBool::new(false),
            fail_disarming: PlainBool::new(false),
        })
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn arm(&self, range: PageRange) -> Result<(), ProtectError> {
        if let Some(blocks) = &self.blocks {
            return blocks.arm(range, self);
        }
        for page in range.iter() {
            self.set(page, false);
            if self.fail_arming.swap(false, Plain::Relaxed) {
                return Err(ProtectError::NoMappings);
            }
        }
        Ok(())
    }

    pub fn disarm(&self, range: PageRange) -> Result<(), ProtectError> {
        if let Some(blocks) = &self.blocks {
            return blocks.disarm(range, self);
        }
        let joins = self.open_at(range.first().below())
            || self.open_at(range.last().above(self.writable.len()));
        let refused =
            self.no_mappings.load(Plain::Relaxed) || self.no_splits.load(Plain::Relaxed) && !joins;
        if refused && range.count() != self.writable.len() {
            if self.half_way.load(Plain::Relaxed) && range.count() > 1 {
                self.set(range.first(), true);
            }
            return Err(ProtectError::NoMappings);
        }
        for page in range.iter() {
            self.set(page, true);
            if self.fail_disarming.swap(false, Plain::Relaxed) {
                return Err(ProtectError::Refused(libc::ENOMEM));
            }
        }
        Ok(())
    }

    pub fn check(&self) -> io::Result<()> {
        Ok(())
    }

    pub fn is_lost(&self) -> bool {
        false
    }

    pub fn fault_cost(&self) -> usize {
        10
    }

    pub fn unfold(&self) -> Result<bool, ProtectError> {
        match &self.blocks {
            Some(blocks) => blocks.split_all(self).map(|()| true),
            None => Ok(false),
        }
    }

    pub fn calls(&self) -> u64 {
        0
    }

    pub fn splits_mappings(&self) -> bool {
        self.blocks.is_none()
    }

    pub fn whole_blocks(&self, range: PageRange) -> PageRange {
        match &self.blocks {
            Some(blocks) => blocks.whole_blocks(range, self),
            None => range,
        }
    }

    pub fn whole_end(&self, end: usize) -> usize {
        let blocks = self.blocks.as_ref();
        blocks.map_or(end, |blocks| blocks.whole_end(end, self))
    }

    pub fn most_borders(&self) -> u64 {
        self.blocks.as_ref().map_or(0, Blocks::most_borders)
    }

    /// Whether the page is protected by itself.
    pub fn is_marked(&self, page: PageIndex) -> bool {
        !*self.writable[page.get()].lock().expect("no panics")
    }

    fn set(&self, page: PageIndex, writable: bool) {
        *self.writable[page.get()].lock().expect("no panics") = writable;
    }

    fn open_at(&self, page: Option<PageIndex>) -> bool {
        self.no_splits.load(Plain::Relaxed) && page.is_some_and(|page| self.is_writable(page))
    }

    pub fn is_writable(&self, page: PageIndex) -> bool {
        self.with_permission(page, |writable| writable)
    }

    /// With the page's permission, which does not change meanwhile.
    fn with_permission<R>(&self, page: PageIndex, act: impl FnOnce(bool) -> R) -> R {
        let block = page.get() / BLOCK;
        // Without userfaultfd the mappings never change: one object less for loom to look at.
        let mapping = self
            .blocks
            .as_ref()
            .map(|_| self.mappings[block].lock().expect("no panics"));
        let writable = self.writable[page.get()].lock().expect("no panics");
        act(*writable && mapping.is_none_or(|mapping| *mapping))
    }

    /// What the processor does with a store: all of it, or a fault (`false`).
    pub fn store(&self, page: PageIndex, offset: usize, value: u8) -> bool {
        self.access(page, || {
            self.memory.bytes[offset].store(value, Ordering::Relaxed);
        })
    }

    /// As [`store`](Self::store), for a read-modify-write: nothing is lost when two threads add.
    pub fn add(&self, page: PageIndex, offset: usize, value: u8) -> bool {
        self.access(page, || {
            self.memory.bytes[offset].fetch_add(value, Ordering::Relaxed);
        })
    }

    fn access(&self, page: PageIndex, act: impl FnOnce()) -> bool {
        self.with_permission(page, |writable| {
            if writable {
                fence(Ordering::Release);
                act();
                self.touched[page.get() / BLOCK].store(true, Plain::Relaxed);
            }
            writable
        })
    }

    /// What is in live memory now.
    pub fn load(&self, offset: usize) -> u8 {
        self.memory.bytes[offset].load(Ordering::Relaxed)
    }
}

/// userfaultfd and mprotect, page by page and block by block.
impl Protect for Protection {
    fn pages(&self, range: PageRange, writable: bool) -> Result<(), ProtectError> {
        if !writable && self.no_pages.load(Plain::Relaxed) {
            return Err(ProtectError::Refused(libc::ENOMEM));
        }
        for page in range.iter() {
            self.set(page, writable);
        }
        Ok(())
    }

    fn mapping(&self, range: PageRange, writable: bool) -> Result<(), ProtectError> {
        if self.no_mappings.load(Plain::Relaxed) && range.count() != self.writable.len() {
            if self.half_way.load(Plain::Relaxed) {
                let first = range.first().get() / BLOCK;
                *self.mappings[first].lock().expect("no panics") = writable;
            }
            return Err(ProtectError::NoMappings);
        }
        for block in range.first().get() / BLOCK..=range.last().get() / BLOCK {
            *self.mappings[block].lock().expect("no panics") = writable;
        }
        Ok(())
    }

    fn first_touched(&self, range: PageRange) -> Option<PageIndex> {
        range
            .iter()
            .find(|page| self.touched[page.get() / BLOCK].load(Plain::Relaxed))
    }
}

pub(crate) struct Zeroed<T> {
    values: Vec<T>,
}

impl<T: ZeroValid> Zeroed<T> {
    pub fn new(count: usize) -> io::Result<Self> {
        Ok(Self {
            values: (0..count).map(|_| T::default()).collect(),
        })
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

/// One lock and one condition for all words: sleepers wake early, and a wake-up that was forgotten is a
/// deadlock that loom reports.
pub(crate) mod futex {
    use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use loom::sync::{Condvar, Mutex};

    loom::lazy_static! {
        static ref LOCK: Mutex<()> = Mutex::new(());
        static ref WOKEN: Condvar = Condvar::new();
    }

    fn wait(unchanged: impl FnOnce() -> bool) {
        let held = LOCK.lock().expect("no panics");
        if unchanged() {
            drop(WOKEN.wait(held).expect("no panics"));
        }
    }

    fn wake() {
        drop(LOCK.lock().expect("no panics"));
        WOKEN.notify_all();
    }

    pub(crate) fn wait_u32(word: &AtomicU32, seen: u32) {
        wait(|| word.load(Ordering::SeqCst) == seen);
    }

    pub(crate) fn wait_u64(word: &AtomicU64, seen: u64) {
        wait(|| word.load(Ordering::SeqCst) as u32 == seen as u32);
    }

    pub(crate) fn wake_u32(_word: &AtomicU32) {
        wake();
    }

    pub(crate) fn wake_u64(_word: &AtomicU64) {
        wake();
    }
}

pub(crate) mod signal {
    pub(crate) struct Masked;

    impl Masked {
        pub fn new() -> Self {
            Self
        }
    }

    impl Drop for Masked {
        fn drop(&mut self) {}
    }
}

pub(crate) mod clock {
    pub(crate) fn now() -> u64 {
        0
    }

    pub(crate) fn since(_earlier: u64) -> u64 {
        0
    }

    pub(crate) fn sleep(_nanoseconds: u64) {
        loom::thread::yield_now();
    }
}

pub(crate) mod mappings {
    pub(crate) fn in_use() -> usize {
        0
    }

    pub(crate) fn limit() -> usize {
        1000
    }

    pub(crate) fn add(_change: i64) {}
}

pub(crate) fn die(text: &'static str) -> ! {
    panic!("{text}")
}
