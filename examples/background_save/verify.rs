//! Checks that an image of the memory shows one instant of the writers' work.
//!
//! The check is exact. A writer's stores form one sequence, so at any instant there is a number K:
//! the writer has finished its writes up to K, and not write K + 1. Every page of an image of that
//! instant shows the last of the first K writes that went to the page, or the base if none did.
//! Only the page of write K + 1 may show that write's first few words in place of the old ones.

use std::fmt;
use std::io;
use std::ops::Range;

use crate::base::Base;
use crate::plan::{Plan, RECORD_BYTES, RECORD_WORDS, Record, is_whole, record_of};

/// What an image got wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Bytes after the record changed, where no writer ever writes.
    Changed { page: usize },
    /// The page shows neither what it held at K nor a write in progress.
    Wrong { page: usize, writer: usize, k: u64 },
    /// Two pages of one writer are half written.
    TwoTorn { pages: [usize; 2], writer: usize },
    /// The image has `found` pages, but should have `expected`.
    Length { found: usize, expected: usize },
    /// Memory does not hold everything that the writer has written.
    Lost { writer: usize, k: u64, written: u64 },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Changed { page } => {
                write!(f, "page {page} changed where no writer writes")
            }
            Mismatch::Wrong { page, writer, k } => write!(
                f,
                "page {page} is not what writer {writer} left there after its write {k}"
            ),
            Mismatch::TwoTorn {
                pages: [a, b],
                writer,
            } => {
                write!(
                    f,
                    "pages {a} and {b} are both half written by writer {writer}"
                )
            }
            Mismatch::Length { found, expected } => {
                write!(f, "{found} pages instead of {expected}")
            }
            Mismatch::Lost { writer, k, written } => {
                write!(f, "writer {writer} made {written} writes, memory shows {k}")
            }
        }
    }
}

/// Takes the pages of an image one by one, then checks them.
#[derive(Debug)]
pub struct Checker<'a> {
    plan: &'a Plan,
    base: &'a Base,
    expected: Vec<u8>,
    base_records: Vec<Record>,
    records: Vec<Record>,
    changed: Option<usize>,
}

impl<'a> Checker<'a> {
    pub fn new(plan: &'a Plan, base: &'a Base, page_size: usize) -> Checker<'a> {
        Checker {
            plan,
            base,
            expected: vec![0; page_size],
            base_records: Vec::with_capacity(plan.pages()),
            records: Vec::with_capacity(plan.pages()),
            changed: None,
        }
    }

    /// Takes the next page.
    pub fn page(&mut self, bytes: &[u8]) -> io::Result<()> {
        let page = self.records.len();
        self.base.page(page, &mut self.expected)?;
        self.base_records.push(record_of(&self.expected));
        self.records.push(record_of(bytes));
        if self.changed.is_none() && bytes[RECORD_BYTES..] != self.expected[RECORD_BYTES..] {
            self.changed = Some(page);
        }
        Ok(())
    }

    /// Checks the records, writer by writer, and says how many writes of each the image shows. The
    /// writers had made `start` writes when memory was last set to the base, and `written` at some
    /// time after the image was taken.
    pub fn finish(&self, start: &[u64], written: &[u64]) -> Result<Vec<u64>, Mismatch> {
        if let Some(page) = self.changed {
            return Err(Mismatch::Changed { page });
        }
        if self.records.len() != self.plan.pages() {
            return Err(Mismatch::Length {
                found: self.records.len(),
                expected: self.plan.pages(),
            });
        }
        (0..self.plan.writers())
            .map(|writer| {
                // One more than `written` may have been in progress.
                let span = start[writer]..written[writer] + 1;
                check_writer(self.plan, writer, span, &self.base_records, &self.records)
            })
            .collect()
    }

    /// As [`Checker::finish`], for an image taken while the writers were at rest: it must show
    /// every write.
    pub fn finish_all(&self, start: &[u64], written: &[u64]) -> Result<(), Mismatch> {
        let seen = self.finish(start, written)?;
        for (writer, (k, &written)) in seen.into_iter().zip(written).enumerate() {
            if k != written {
                return Err(Mismatch::Lost { writer, k, written });
            }
        }
        Ok(())
    }
}

/// Checks the pages of one writer and returns its K. The image can show only writes after
/// `span.start`, up to and including `span.end`.
pub fn check_writer(
    plan: &Plan,
    writer: usize,
    span: Range<u64>,
    base: &[Record],
    image: &[Record],
) -> Result<u64, Mismatch> {
    let own = |page, seq| span.start < seq && seq <= span.end && plan.page(writer, seq) == page;
    let mut newest = span.start;
    let mut torn = None;
    for page in plan.owned(writer) {
        let record = &image[page];
        if is_whole(record) && own(page, record[0]) && *record == plan.record(page, record[0]) {
            newest = newest.max(record[0]);
        } else if *record != base[page]
            && let Some(other) = torn.replace(page)
        {
            let pages = [other, page];
            return Err(Mismatch::TwoTorn { pages, writer });
        }
    }

    // A torn page names the write that tore it. That write settles K, even when the write before it
    // went to the same page and so left no whole record.
    let k = match torn {
        None => newest,
        Some(page) => {
            let seq = image[page][0];
            if !own(page, seq) || seq - 1 < newest {
                return Err(Mismatch::Wrong {
                    page,
                    writer,
                    k: newest,
                });
            }
            seq - 1
        }
    };

    let mut last = vec![0; plan.pages()];
    for seq in span.start + 1..=k {
        last[plan.page(writer, seq)] = seq;
    }
    for page in plan.owned(writer) {
        let old = match last[page] {
            0 => base[page],
            seq => plan.record(page, seq),
        };
        let right = if torn == Some(page) {
            is_prefix(&plan.record(page, k + 1), &old, &image[page])
        } else {
            image[page] == old
        };
        if !right {
            return Err(Mismatch::Wrong { page, writer, k });
        }
    }
    Ok(k)
}

/// Whether the first words of `seen` are those of `new` and the rest those of `old`.
fn is_prefix(new: &Record, old: &Record, seen: &Record) -> bool {
    (0..=RECORD_WORDS).any(|n| seen[..n] == new[..n] && seen[n..] == old[n..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Pattern;

    const PAGES: usize = 61;
    const WRITERS: usize = 3;

    fn base() -> Vec<Record> {
        (0..PAGES).map(|page| [page as u64; RECORD_WORDS]).collect()
    }

    fn plan() -> Plan {
        Plan::new(7, PAGES, WRITERS, Pattern::Uniform)
    }

    fn image_after(plan: &Plan, start: u64, k: u64) -> Vec<Record> {
        let mut image = base();
        for writer in 0..plan.writers() {
            for seq in start + 1..=k {
                let page = plan.page(writer, seq);
                image[page] = plan.record(page, seq);
            }
        }
        image
    }

    fn check(plan: &Plan, start: u64, image: &[Record]) -> Result<Vec<u64>, Mismatch> {
        (0..plan.writers())
            .map(|writer| check_writer(plan, writer, start..1000, &base(), image))
            .collect()
    }

    /// Overwrites the first `words` words of write `seq`'s page.
    fn tear(plan: &Plan, image: &mut [Record], writer: usize, seq: u64, words: usize) -> usize {
        let page = plan.page(writer, seq);
        image[page][..words].copy_from_slice(&plan.record(page, seq)[..words]);
        page
    }

    #[test]
    fn every_prefix_is_accepted() {
        for plan in [plan(), Plan::new(7, PAGES, WRITERS, Pattern::Hot)] {
            for start in [0, 40] {
                for k in start..start + 200 {
                    let image = image_after(&plan, start, k);
                    assert_eq!(check(&plan, start, &image), Ok(vec![k; WRITERS]));
                }
            }
        }
    }

    #[test]
    fn write_in_progress_is_accepted_at_every_word() {
        for plan in [
            plan(),
            Plan::new(7, 1, 1, Pattern::Hot),
            Plan::new(9, 3, 3, Pattern::Uniform),
        ] {
            for k in 0..100 {
                for words in 1..RECORD_WORDS {
                    let mut image = base()[..plan.pages()].to_vec();
                    image.copy_from_slice(&image_after_pages(&plan, k));
                    tear(&plan, &mut image, 0, k + 1, words);
                    assert_eq!(
                        check_writer(&plan, 0, 0..1000, &base()[..plan.pages()], &image),
                        Ok(k)
                    );
                }
            }
        }
    }

    fn image_after_pages(plan: &Plan, k: u64) -> Vec<Record> {
        let mut image = base()[..plan.pages()].to_vec();
        for seq in 1..=k {
            let page = plan.page(0, seq);
            image[page] = plan.record(page, seq);
        }
        image
    }

    #[test]
    fn wrong_word_is_found_on_any_page() {
        let plan = plan();
        for page in 0..PAGES {
            for word in 0..RECORD_WORDS {
                let mut image = image_after(&plan, 0, 300);
                image[page][word] ^= 1 << 17;
                assert!(check(&plan, 0, &image).is_err(), "page {page}, word {word}");
            }
        }
    }

    #[test]
    fn torn_page_of_another_write_is_found() {
        let plan = plan();
        let mut found = 0;
        for seq in (1..=90).chain(102..=120) {
            let mut image = image_after(&plan, 0, 100);
            let before = image.clone();
            let page = tear(&plan, &mut image, 1, seq, 4);
            // A page may hold that very write already, and write 101 may be the next to the same
            // page anyway.
            if image != before {
                assert!(check(&plan, 0, &image).is_err(), "page {page} by {seq}");
                found += 1;
            }
        }
        assert!(found > 50);
    }

    #[test]
    fn torn_pages_beyond_the_first_are_found() {
        let plan = plan();
        let mut image = image_after(&plan, 0, 100);
        let first = tear(&plan, &mut image, 2, 101, 3);
        let next = (102..).find(|&seq| plan.page(2, seq) != first);
        tear(&plan, &mut image, 2, next.expect("endless"), 3);
        assert!(matches!(
            check(&plan, 0, &image),
            Err(Mismatch::TwoTorn { writer: 2, .. })
        ));
    }

    #[test]
    fn words_out_of_order_are_found() {
        let plan = plan();
        let mut image = image_after(&plan, 0, 100);
        let page = plan.page(0, 101);
        let new = plan.record(page, 101);
        image[page][0] = new[0];
        image[page][5] = new[5];
        assert!(check(&plan, 0, &image).is_err());
    }

    #[test]
    fn later_write_without_an_earlier_one_is_found() {
        let plan = plan();
        let k = 100;
        for ahead in 2..40 {
            let missing = plan.page(1, k + 1);
            let page = plan.page(1, k + ahead);
            if page == missing {
                continue;
            }
            let mut image = image_after(&plan, 0, k);
            image[page] = plan.record(page, k + ahead);
            assert!(check(&plan, 0, &image).is_err(), "{ahead} ahead");
        }
    }

    #[test]
    fn page_that_kept_an_old_write_is_found() {
        let plan = plan();
        let new = image_after(&plan, 0, 200);
        let old = image_after(&plan, 0, 120);
        for page in 0..PAGES {
            let mut image = new.clone();
            image[page] = old[page];
            // An old page of the very last write only shows an earlier instant.
            let last = plan.page(page % WRITERS, 200) == page;
            assert!(check(&plan, 0, &image).is_err() || last || old[page] == new[page]);
        }
    }

    fn checked(page_of: impl Fn(usize, &mut [u8]), pages: usize) -> Result<(), Mismatch> {
        let (plan, base) = (Plan::new(1, 2, 1, Pattern::Uniform), Base::Pattern);
        let mut checker = Checker::new(&plan, &base, 4096);
        for index in 0..pages {
            let mut page = vec![0; 4096];
            base.page(index, &mut page).unwrap();
            page_of(index, &mut page);
            checker.page(&page).unwrap();
        }
        checker.finish_all(&[0], &[0])
    }

    #[test]
    fn bytes_behind_the_record_are_checked() {
        assert_eq!(checked(|_, _| (), 2), Ok(()));
        let changed = checked(|index, page| page[4000] ^= index as u8, 2);
        assert_eq!(changed, Err(Mismatch::Changed { page: 1 }));
    }

    #[test]
    fn missing_pages_are_found() {
        let expected = Mismatch::Length {
            found: 1,
            expected: 2,
        };
        assert_eq!(checked(|_, _| (), 1), Err(expected));
    }

    #[test]
    fn lost_write_is_found() {
        let plan = Plan::new(1, 1, 1, Pattern::Uniform);
        let base = Base::Pattern;
        let mut checker = Checker::new(&plan, &base, 4096);
        let mut page = vec![0; 4096];
        base.page(0, &mut page).unwrap();
        for (bytes, word) in page.chunks_exact_mut(8).zip(plan.record(0, 4)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        checker.page(&page).unwrap();
        assert_eq!(checker.finish_all(&[0], &[4]), Ok(()));
        let lost = Mismatch::Lost {
            writer: 0,
            k: 4,
            written: 5,
        };
        assert_eq!(checker.finish_all(&[0], &[5]), Err(lost));
    }
}
