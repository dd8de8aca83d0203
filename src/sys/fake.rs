//! A system made of loom's atomics, for the models.
//!
//! What it keeps of the real one: a store to a page that is not writable is refused; permissions
//! change page by page, so that others run in between; when a call has made a page read-only no
//! store to it succeeds any more (the lock is the TLB shootdown); a thread that sees a store that
//! succeeded sees what was done before the page was opened (the fence; `docs/soundness.md`).

pub(crate) mod userfaultfd;
mod views;

use std::io;
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool as PlainBool, Ordering as Plain};

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU8, Ordering, fence};

use self::userfaultfd::Descriptor;
pub(crate) use self::views::{Branch, Views};
use super::{Permission, Populate, ProtectError, ZeroValid};
use crate::page::{PageCount, PageIndex, PageRange, PageSize};

/// Bytes, each an atomic of its own: a reader may get any mixture that the memory model allows.
pub(crate) struct Memory {
    bytes: Vec<AtomicU8>,
    /// Of memory that is [guarded](Self::guarded).
    pages: Vec<Page>,
    /// Where it is registered: its pages have a permission of their own.
    descriptor: OnceLock<Descriptor>,
    /// Refuse to make pages writable by mprotect, but for all of them at once, as a kernel without
    /// mappings to give does where none can be joined. With userfaultfd, which leaves open pages
    /// between those that mprotect arms, also to make them read-only.
    pub no_mappings: PlainBool,
    /// Refuse to make pages read-only one by one.
    pub no_pages: PlainBool,
    /// Refuse to make pages writable that are not beside a writable one, as such a kernel does
    /// otherwise.
    pub no_splits: PlainBool,
    /// Change the first half of the pages before a call is refused for any of these.
    pub half_way: PlainBool,
    /// Fail the next call that makes pages read-only by mprotect after its first page.
    pub fail_arming: PlainBool,
    /// Fail all calls that make pages writable by mprotect after their first page.
    pub fail_disarming: PlainBool,
}

/// A page's permissions. A lock is held while a store is made.
struct Page {
    /// That of its mapping.
    mapping: Mutex<Permission>,
    /// Its own.
    own: Mutex<Permission>,
    touched: PlainBool,
}

impl Page {
    fn new() -> Self {
        Self {
            mapping: Mutex::new(Permission::Writable),
            own: Mutex::new(Permission::Writable),
            touched: PlainBool::new(false),
        }
    }
}

fn set(permission: &Mutex<Permission>, new: Permission) {
    *permission.lock().expect("no panics") = new;
}

impl Memory {
    pub fn new(pages: PageCount, page_size: PageSize) -> io::Result<Self> {
        let bytes = (0..pages.get() * page_size.bytes()).map(|_| AtomicU8::new(0));
        Ok(Self {
            bytes: bytes.collect(),
            pages: Vec::new(),
            descriptor: OnceLock::new(),
            no_mappings: PlainBool::new(false),
            no_pages: PlainBool::new(false),
            no_splits: PlainBool::new(false),
            half_way: PlainBool::new(false),
            fail_arming: PlainBool::new(false),
            fail_disarming: PlainBool::new(false),
        })
    }

    pub fn guarded(pages: PageCount, page_size: PageSize) -> io::Result<Self> {
        Ok(Self {
            pages: (0..pages.get()).map(|_| Page::new()).collect(),
            ..Self::new(pages, page_size)?
        })
    }

    pub fn write_first_byte(&self) {}

    pub fn in_huge_pages(self) -> Self {
        self
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

    pub fn put_page(&self, page: PageIndex, from: &Self, source: PageIndex, page_size: PageSize) {
        for byte in 0..page_size.bytes() {
            let value = from.bytes[page_size.offset_of(source) + byte].load(Ordering::Relaxed);
            let stored = self.store(page, page_size.offset_of(page) + byte, value);
            assert!(stored, "a page was put back that is not writable");
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

    pub fn populate(&self, _range: PageRange, _page_size: PageSize, _by: Populate) {}

    pub fn discard(&self, _range: PageRange, _page_size: PageSize) {}

    pub fn first_touched(&self, range: PageRange, _page_size: PageSize) -> Option<PageIndex> {
        range
            .iter()
            .find(|page| self.pages[page.get()].touched.load(Plain::Relaxed))
    }

    pub fn protect(
        &self,
        range: PageRange,
        _page_size: PageSize,
        permission: Permission,
    ) -> Result<(), ProtectError> {
        if self.refuses(range, permission) {
            if self.half_way.load(Plain::Relaxed) {
                for page in range.iter().take(range.count().get() / 2) {
                    set(&self.pages[page.get()].mapping, permission);
                }
            }
            return Err(ProtectError::NoMappings);
        }
        for page in range.iter() {
            set(&self.pages[page.get()].mapping, permission);
            match permission {
                Permission::ReadOnly if self.fail_arming.swap(false, Plain::Relaxed) => {
                    return Err(ProtectError::NoMappings);
                }
                Permission::Writable if self.fail_disarming.load(Plain::Relaxed) => {
                    return Err(ProtectError::Refused(libc::EAGAIN));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn refuses(&self, range: PageRange, permission: Permission) -> bool {
        if range.count().get() == self.pages.len() {
            return false;
        }
        let no_mappings = self.no_mappings.load(Plain::Relaxed);
        match permission {
            Permission::ReadOnly => no_mappings && self.descriptor.get().is_some(),
            Permission::Writable => {
                no_mappings || self.no_splits.load(Plain::Relaxed) && !self.joins(range)
            }
        }
    }

    /// Whether a page beside these is writable.
    fn joins(&self, range: PageRange) -> bool {
        let above = PageIndex::checked(range.end(), PageCount::new(self.pages.len()));
        let beside = [range.first().below(), above];
        let mut beside = beside.into_iter().flatten();
        beside.any(|page| self.is_writable(page))
    }

    pub fn is_writable(&self, page: PageIndex) -> bool {
        self.with_permission(page, |permission| permission == Permission::Writable)
    }

    /// Whether the page is protected by itself.
    pub fn is_write_protected(&self, page: PageIndex) -> bool {
        *self.pages[page.get()].own.lock().expect("no panics") == Permission::ReadOnly
    }

    /// With the page's permission, which does not change meanwhile.
    fn with_permission<R>(&self, page: PageIndex, act: impl FnOnce(Permission) -> R) -> R {
        let page = &self.pages[page.get()];
        let mapping = page.mapping.lock().expect("no panics");
        // Without a descriptor pages have none of their own: one object less for loom to look at.
        let descriptor = self.descriptor.get();
        let own = descriptor.map(|_| page.own.lock().expect("no panics"));
        match (descriptor, own) {
            (Some(descriptor), Some(own))
                if *own == Permission::ReadOnly && descriptor.check().is_ok() =>
            {
                act(*own)
            }
            _ => act(*mapping),
        }
    }

    /// What the processor does with a store: all of it, or a fault (`false`).
    pub fn store(&self, page: PageIndex, offset: usize, value: u8) -> bool {
        self.access(page, || {
            self.bytes[offset].store(value, Ordering::Relaxed);
        })
    }

    /// As [`store`](Self::store), for a read-modify-write: nothing is lost when two threads add.
    pub fn add(&self, page: PageIndex, offset: usize, value: u8) -> bool {
        self.access(page, || {
            self.bytes[offset].fetch_add(value, Ordering::Relaxed);
        })
    }

    fn access(&self, page: PageIndex, act: impl FnOnce()) -> bool {
        self.with_permission(page, |permission| {
            let writable = permission == Permission::Writable;
            if writable {
                fence(Ordering::Release);
                act();
                self.pages[page.get()].touched.store(true, Plain::Relaxed);
            }
            writable
        })
    }

    /// What is in live memory now.
    pub fn load(&self, offset: usize) -> u8 {
        self.bytes[offset].load(Ordering::Relaxed)
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

/// One lock and one condition for all words: sleepers wake early, and a wake-up that was forgotten
/// is a deadlock that loom reports.
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

    pub(crate) fn of_thread() -> u64 {
        0
    }

    pub(crate) fn since(_earlier: u64) -> u64 {
        0
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
