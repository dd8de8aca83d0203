//! What memory holds before the writers start: a file, or a pattern that is computed page by page.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::failure::Failure;
use crate::plan::mix;
use crate::stop::Stop;

/// The contents that a run starts from.
#[derive(Debug)]
pub enum Base {
    /// A pattern: no two pages have anything in common.
    Pattern,
    /// The bytes of a file, then zeros.
    File(File),
}

impl Base {
    /// Writes to `page` the contents with which page `index` starts.
    pub fn page(&self, index: usize, page: &mut [u8]) -> io::Result<()> {
        match self {
            Base::Pattern => {
                let first = index * page.len();
                for (i, word) in page.chunks_exact_mut(8).enumerate() {
                    let value = mix((first + i * 8) as u64 | 1);
                    word.copy_from_slice(&value.to_ne_bytes());
                }
                Ok(())
            }
            Base::File(file) => {
                let mut offset = (index * page.len()) as u64;
                let mut rest = page;
                while !rest.is_empty() {
                    match file.read_at(rest, offset) {
                        Ok(0) => break,
                        Ok(n) => {
                            offset += n as u64;
                            rest = &mut rest[n..];
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                rest.fill(0);
                Ok(())
            }
        }
    }

    /// Fills `memory`, which must be whole pages.
    pub fn fill(&self, memory: &mut [u8], page_size: usize, stop: &Stop) -> Result<(), Failure> {
        for (index, page) in memory.chunks_exact_mut(page_size).enumerate() {
            stop.check()?;
            self.page(index, page)?;
        }
        Ok(())
    }
}
