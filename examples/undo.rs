//! A small text that one edits and takes back: a snapshot before each edit, and `Arena::restore`
//! from one to another, to older ones and to newer ones.
//!
//! `cargo run --release --example undo`, then lines such as `set 2 some text`, `undo`, `redo`,
//! `show`, `quit`.

use std::error::Error;
use std::io::{self, BufRead, Write};

use pagecow::{Arena, Snapshot};

const ROWS: usize = 8;

/// The text, and its states: before the first edit, after the first, and so on.
struct Editor {
    text: Arena,
    states: Vec<Snapshot>,
    /// Which of them the text is.
    now: usize,
}

impl Editor {
    /// Each row is a page, of which what is not text is zeros.
    fn new() -> Result<Self, pagecow::Error> {
        let page = Arena::new(1)?.page_size();
        let text = Arena::new(ROWS * page)?;
        let states = vec![text.snapshot()?];
        let now = 0;
        Ok(Self { text, states, now })
    }

    fn row(&self, row: usize) -> String {
        let page = self.text.page_size();
        let bytes = self.text[row * page..][..page].split(|byte| *byte == 0);
        String::from_utf8_lossy(bytes.into_iter().next().unwrap_or_default()).into_owned()
    }

    /// What was taken back before can not be had again after this.
    fn set(&mut self, row: usize, text: &str) -> Result<(), pagecow::Error> {
        let page = self.text.page_size();
        let text = &text.as_bytes()[..text.len().min(page)];
        let place = &mut self.text[row * page..][..page];
        place.fill(0);
        place[..text.len()].copy_from_slice(text);
        self.now += 1;
        self.states.truncate(self.now);
        self.states.push(self.text.snapshot()?);
        Ok(())
    }

    /// Goes to another state; says how many rows that changed.
    fn go_to(&mut self, state: Option<usize>) -> Result<String, pagecow::Error> {
        let Some((state, snapshot)) = state.and_then(|at| Some((at, self.states.get(at)?))) else {
            return Ok("there is nothing more".to_owned());
        };
        let restored = self.text.restore(snapshot)?;
        self.now = state;
        Ok(format!("{} rows are as they were", restored.pages))
    }

    /// Does what a line says; `None` at the end.
    fn obey(&mut self, line: &str) -> Result<Option<String>, pagecow::Error> {
        let (command, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let said = match command {
            "set" => {
                let (row, text) = rest.split_once(' ').unwrap_or((rest, ""));
                match row.parse() {
                    Ok(row) if row < ROWS => {
                        self.set(row, text)?;
                        String::new()
                    }
                    _ => format!("there are rows 0 to {}", ROWS - 1),
                }
            }
            "undo" => self.go_to(self.now.checked_sub(1))?,
            "redo" => self.go_to(Some(self.now + 1))?,
            "show" => {
                let rows: Vec<String> = (0..ROWS).map(|row| self.row(row)).collect();
                rows.join("\n").trim_end().to_owned()
            }
            "quit" => return Ok(None),
            _ => "set ROW TEXT, undo, redo, show, quit".to_owned(),
        };
        Ok(Some(said))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut editor = Editor::new()?;
    for line in io::stdin().lock().lines() {
        let Some(said) = editor.obey(&line?)? else {
            break;
        };
        writeln!(io::stdout(), "{said}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_taken_back_and_done_again() {
        let mut editor = Editor::new().unwrap();
        let mut obey = |line: &str| editor.obey(line).unwrap().unwrap();
        obey("set 0 one");
        obey("set 1 two");
        obey("set 0 three");
        assert_eq!(obey("show"), "three\ntwo");
        assert_eq!(obey("undo"), "1 rows are as they were");
        assert_eq!(obey("show"), "one\ntwo");
        obey("undo");
        obey("undo");
        assert_eq!(obey("show"), "");
        assert_eq!(obey("undo"), "there is nothing more");
        obey("redo");
        obey("redo");
        assert_eq!(obey("show"), "one\ntwo");
        obey("set 7 else");
        assert_eq!(obey("redo"), "there is nothing more");
        assert_eq!(obey("show"), "one\ntwo\n\n\n\n\n\nelse");
        assert_eq!(obey("set 8 beyond"), "there are rows 0 to 7");
        assert!(editor.obey("quit").unwrap().is_none());
    }
}
