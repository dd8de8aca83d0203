//! Several snapshots of one arena live at once: what each shows, what changed from one to the next,
//! and what it costs to keep them.

use std::collections::BTreeSet;
use std::error::Error;

use comfy_table::{Cell, Table, presets};
use pagecow::{Arena, Snapshot};

/// One short text at the start of each of these pages.
const NOTES: usize = 6;

/// What is written between two snapshots: the page and its new text.
const DAYS: [(&str, &[(usize, &str)]); 5] = [
    ("Monday", &[(0, "bread"), (1, "milk"), (3, "tea")]),
    ("Tuesday", &[(1, "oat milk"), (4, "salt")]),
    ("Wednesday", &[(0, "rye bread"), (1, "milk"), (5, "figs")]),
    ("Thursday", &[]),
    ("Friday", &[(3, "coffee"), (5, "dates")]),
];

fn main() -> Result<(), Box<dyn Error>> {
    let page_size = Arena::new(1)?.page_size();
    let mut arena = Arena::new(NOTES * page_size)?;
    let mut history: Vec<(&str, Snapshot)> = Vec::new();
    for (day, edits) in DAYS {
        for &(page, text) in edits {
            write(&mut arena, page, text);
        }
        history.push((day, arena.snapshot()?));
    }
    write(&mut arena, 2, "cake");

    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let pages = (0..NOTES).map(|page| format!("page {page}"));
    table.set_header(["".to_owned()].into_iter().chain(pages));
    for (i, (day, snapshot)) in history.iter().enumerate() {
        let changed = match i.checked_sub(1) {
            Some(previous) => changed_pages(snapshot, &history[previous].1)?,
            None => BTreeSet::new(),
        };
        let mut row = vec![Cell::new(day)];
        for page in 0..NOTES {
            let star = if changed.contains(&page) { "*" } else { "" };
            row.push(Cell::new(text(snapshot.page(page)?.bytes()) + star));
        }
        table.add_row(row);
    }
    let now = arena.chunks_exact(page_size).map(text);
    table.add_row(["now".to_owned()].into_iter().chain(now));
    println!("{table}\n* changed since the day before");

    // Each snapshot shows its own day, whatever was written since and whichever others are gone.
    let stats = arena.stats();
    println!(
        "{} snapshots share {} saved pages",
        stats.live_snapshots, stats.pages_saved
    );
    history.remove(2);
    history.remove(0);
    for (day, snapshot) in &history {
        let expected = notes_on(day);
        for page in snapshot.pages() {
            let page = page?;
            assert_eq!(
                text(page.bytes()),
                expected[page.index()],
                "{day}, page {}",
                page.index()
            );
        }
    }
    let (first, last) = (&history[0], &history[history.len() - 1]);
    println!(
        "from {} to {}: pages {:?} changed",
        first.0,
        last.0,
        changed_pages(&last.1, &first.1)?
    );
    Ok(())
}

fn write(arena: &mut Arena, page: usize, text: &str) {
    let page_size = arena.page_size();
    let bytes = &mut arena[page * page_size..][..page_size];
    bytes.fill(0);
    bytes[..text.len()].copy_from_slice(text.as_bytes());
}

/// The text at the start of a page, up to the first zero.
fn text(page: &[u8]) -> String {
    let end = page.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&page[..end.unwrap_or(page.len())]).into_owned()
}

/// The pages that `changed_since` names, after a check against the bytes: it may name a page too
/// many, never one too few.
fn changed_pages(newer: &Snapshot, older: &Snapshot) -> Result<BTreeSet<usize>, Box<dyn Error>> {
    let named: BTreeSet<usize> = newer.changed_since(older)?.into_iter().flatten().collect();
    for page in 0..newer.page_count() {
        let differs = newer.page(page)?.bytes() != older.page(page)?.bytes();
        assert!(
            named.contains(&page) || !differs,
            "page {page} changed unnoticed"
        );
    }
    Ok(named)
}

/// What the pages held at the end of `day`.
fn notes_on(day: &str) -> [&'static str; NOTES] {
    let mut notes = [""; NOTES];
    for (name, edits) in DAYS {
        for &(page, text) in edits {
            notes[page] = text;
        }
        if name == day {
            break;
        }
    }
    notes
}
