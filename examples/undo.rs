//! A text that can be edited, and each edit taken back: a snapshot before each edit, and
//! `Arena::restore` to older and newer ones in turn.
//!
//! ```sh
//! cargo run --example undo
//! printf 'set 0 hello\nset 1 world\nundo\nshow\nredo\nshow\n' | cargo run --example undo
//! ```
//!
//! Commands: `set ROW TEXT`, `undo`, `redo`, `show`, `quit`.

use std::error::Error;
use std::io::{self, BufRead, Write};

use pagecow::{Arena, Restored, Snapshot};

const ROWS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    obey(io::stdin().lock(), io::stdout().lock())
}

/// Reads commands until there are no more, and prints what each did.
fn obey(commands: impl BufRead, mut out: impl Write) -> Result<(), Box<dyn Error>> {
    let mut text = Text::new()?;
    for line in commands.lines() {
        let line = line?;
        let (command, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match command {
            "" => {}
            "set" => match text.set(rest) {
                Ok(row) => writeln!(out, "row {row} is set")?,
                Err(why) => writeln!(out, "not set: {why}")?,
            },
            "undo" => match text.undo()? {
                Some(restored) => writeln!(out, "undone, rows changed: {}", restored.pages)?,
                None => writeln!(out, "nothing to undo")?,
            },
            "redo" => match text.redo()? {
                Some(restored) => writeln!(out, "redone, rows changed: {}", restored.pages)?,
                None => writeln!(out, "nothing to redo")?,
            },
            "show" => {
                for (row, text) in text.rows().enumerate().filter(|(_, text)| !text.is_empty()) {
                    writeln!(out, "{row}: {text}")?;
                }
            }
            "quit" => break,
            _ => writeln!(
                out,
                "no command {command:?}; there are set ROW TEXT, undo, redo, show and quit"
            )?,
        }
        out.flush()?;
    }
    Ok(())
}

/// Rows of text, each at the start of a page, and all that they were before.
struct Text {
    arena: Arena,
    /// What the text was, from the oldest on. The newest text has a snapshot once it is left.
    versions: Vec<Snapshot>,
    /// Which version the arena holds.
    at: usize,
}

impl Text {
    fn new() -> Result<Self, pagecow::Error> {
        let page_size = Arena::new(1)?.page_size();
        Ok(Self {
            arena: Arena::new(ROWS * page_size)?,
            versions: Vec::new(),
            at: 0,
        })
    }

    /// Sets a row to a text: `"ROW TEXT"`. What was undone before cannot be redone any more.
    fn set(&mut self, what: &str) -> Result<usize, Box<dyn Error>> {
        let (row, text) = what.split_once(' ').unwrap_or((what, ""));
        let row = match row.parse() {
            Ok(row) if row < ROWS => row,
            _ => return Err(format!("rows are 0 to {}; use set ROW TEXT", ROWS - 1).into()),
        };
        let page_size = self.arena.page_size();
        if text.len() > page_size {
            return Err(format!("a row has room for {page_size} bytes; use a shorter text").into());
        }
        self.versions.truncate(self.at + 1);
        self.keep_this()?;
        self.at += 1;
        let bytes = &mut self.arena[row * page_size..][..page_size];
        bytes.fill(0);
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(row)
    }

    fn undo(&mut self) -> Result<Option<Restored>, pagecow::Error> {
        if self.at == 0 {
            return Ok(None);
        }
        self.keep_this()?;
        self.at -= 1;
        self.arena.restore(&self.versions[self.at]).map(Some)
    }

    fn redo(&mut self) -> Result<Option<Restored>, pagecow::Error> {
        let Some(newer) = self.versions.get(self.at + 1) else {
            return Ok(None);
        };
        self.at += 1;
        self.arena.restore(newer).map(Some)
    }

    /// Takes a snapshot of what the arena holds, if it has none.
    fn keep_this(&mut self) -> Result<(), pagecow::Error> {
        if self.versions.len() == self.at {
            self.versions.push(self.arena.snapshot()?);
        }
        Ok(())
    }

    fn rows(&self) -> impl Iterator<Item = String> {
        self.arena.chunks_exact(self.arena.page_size()).map(|page| {
            let end = page.iter().position(|&byte| byte == 0);
            String::from_utf8_lossy(&page[..end.unwrap_or(page.len())]).into_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(commands: &str) -> String {
        let mut out = Vec::new();
        obey(commands.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn edits_are_taken_back_and_made_again() {
        let commands = "set 0 one\nset 1 two\nset 0 three\nundo\nshow\nundo\nundo\nshow\nundo\n\
                        redo\nredo\nredo\nredo\nshow\nquit\nshow\n";
        let expected = "row 0 is set\nrow 1 is set\nrow 0 is set\n\
                        undone, rows changed: 1\n0: one\n1: two\n\
                        undone, rows changed: 1\nundone, rows changed: 1\nnothing to undo\n\
                        redone, rows changed: 1\nredone, rows changed: 1\nredone, rows changed: 1\n\
                        nothing to redo\n0: three\n1: two\n";
        assert_eq!(printed(commands), expected);
    }

    #[test]
    fn an_edit_ends_what_could_be_redone() {
        let commands = "set 2 a\nset 2 b\nundo\nset 3 c\nredo\nshow\nundo\nshow\nundo\nshow\n\
                        redo\nredo\nshow\n";
        let expected = "row 2 is set\nrow 2 is set\nundone, rows changed: 1\nrow 3 is set\n\
                        nothing to redo\n2: a\n3: c\nundone, rows changed: 1\n2: a\n\
                        undone, rows changed: 1\nredone, rows changed: 1\nredone, rows changed: 1\n\
                        2: a\n3: c\n";
        assert_eq!(printed(commands), expected);
    }

    #[test]
    fn wrong_commands_change_nothing() {
        let commands = "set 0 a\nset 8 b\nset x\nturn\nundo\nundo\n";
        let expected = "row 0 is set\n\
                        not set: rows are 0 to 7; use set ROW TEXT\n\
                        not set: rows are 0 to 7; use set ROW TEXT\n\
                        no command \"turn\"; there are set ROW TEXT, undo, redo, show and quit\n\
                        undone, rows changed: 1\nnothing to undo\n";
        assert_eq!(printed(commands), expected);
    }

    #[test]
    fn any_walk_through_the_versions_shows_each_as_it_was() {
        let mut text = Text::new().unwrap();
        let mut model = vec![vec![String::new(); ROWS]];
        let mut at = 0;
        for step in 0..400_usize {
            match step * step % 7 {
                0 | 1 => {
                    let mut rows = model[at].clone();
                    rows[step % ROWS] = format!("step {step}");
                    text.set(&format!("{} step {step}", step % ROWS)).unwrap();
                    model.truncate(at + 1);
                    model.push(rows);
                    at += 1;
                }
                2 => {
                    assert_eq!(text.redo().unwrap().is_some(), at + 1 < model.len());
                    at = (at + 1).min(model.len() - 1);
                }
                _ => {
                    assert_eq!(text.undo().unwrap().is_some(), at > 0);
                    at = at.saturating_sub(1);
                }
            }
            assert_eq!(text.rows().collect::<Vec<_>>(), model[at], "step {step}");
        }
    }
}
