//! Checking what must hold while nobody writes: page words, dirty set, copies and the kernel's real
//! protection against each other.

use std::collections::HashMap;

use crate::cow::core::Core;
use crate::cow::state::ledger::Ledger;
use crate::page::PageIndex;
use crate::store::FrameMeta;
use crate::sync::lock;

impl Core {
    /// `Err` names the first thing that does not agree. Walks all pages.
    pub fn check_invariants(&self) -> Result<(), String> {
        let _no_drops = lock(&self.reclaim);
        let ledger = self.ledger();
        let epochs: Vec<u64> = ledger
            .live
            .iter()
            .map(|entry| entry.snapshot.epoch.get())
            .collect();
        if !epochs.is_sorted() || epochs.last().copied().unwrap_or(0) != self.newest().get() {
            return Err(format!(
                "live list {epochs:?}, newest {}",
                self.newest().get()
            ));
        }
        let mut copies: HashMap<usize, Vec<&FrameMeta>> = HashMap::new();
        for meta in self.store.metas() {
            copies.entry(meta.page().get()).or_default().push(meta);
        }
        for page in self.all_pages().iter() {
            let copies = copies.get(&page.get()).map_or(&[][..], Vec::as_slice);
            self.check_page(page, &ledger, copies)?;
        }
        self.check_protection()?;
        self.check_copies(&epochs)
    }

    fn check_page(
        &self,
        page: PageIndex,
        ledger: &Ledger,
        copies: &[&FrameMeta],
    ) -> Result<(), String> {
        let word = self.table.load(page);
        let at = page.get();
        if word.is_claimed() {
            return Err(format!("page {at} is claimed by nobody"));
        }
        if word.epoch() > self.epoch() {
            return Err(format!("page {at} is ahead of its time"));
        }
        // Invariant 3.
        if self.dirty.contains(page) && word.epoch() < self.newest() {
            return Err(format!(
                "page {at} is open, but snapshot {:?} needs it",
                self.newest()
            ));
        }
        // Invariant 1: a snapshot that may not look at live memory has a copy, and only one.
        for entry in &ledger.live {
            let epoch = entry.snapshot.epoch.get();
            let copies = copies.iter().filter(|meta| meta.serves(epoch)).count();
            let wanted = usize::from(word.epoch().get() >= epoch);
            if copies != wanted && !self.has_failed(&entry.snapshot) {
                return Err(format!(
                    "page {at}: {copies} copies serve snapshot {epoch}, not {wanted}"
                ));
            }
        }
        Ok(())
    }

    /// Dirty pages are writable, unless there is doubt about it; all others are not.
    fn check_protection(&self) -> Result<(), String> {
        let armed = self.engine.armed()?;
        match self
            .all_pages()
            .iter()
            .find(|page| match self.dirty.contains(*page) {
                true => armed[page.get()] && !self.doubt.is_raised(),
                false => !armed[page.get()],
            }) {
            Some(page) => Err(format!(
                "page {}: armed is {}",
                page.get(),
                armed[page.get()]
            )),
            None => Ok(()),
        }
    }

    /// Each frame in use serves a live snapshot (invariant 4), and none is used but not counted.
    fn check_copies(&self, epochs: &[u64]) -> Result<(), String> {
        let mut used = 0;
        for frame in self.store.frames() {
            let meta = self.store.meta(frame);
            if !meta.is_in_use() {
                continue;
            }
            used += 1;
            if !epochs.iter().any(|epoch| meta.serves(*epoch)) {
                return Err(format!(
                    "a copy of page {} serves nobody",
                    meta.page().get()
                ));
            }
        }
        if !self.store.is_complete() {
            return Err("a frame is neither in use nor free, or both".to_owned());
        }
        (used == self.store.in_use()).then_some(()).ok_or_else(|| {
            format!(
                "{used} frames hold copies, {} are counted",
                self.store.in_use()
            )
        })
    }
}
