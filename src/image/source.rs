//! Where an image is read from, and what has been read of it so far. Nothing is taken for granted:
//! no length is believed before as many bytes have arrived, but for one run at a time.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::image::error::{Error, ErrorKind, Result, io};
use crate::image::format::{End, HEADER, Header, RECORD, Record, Run, damaged, summed};
use crate::image::info::Info;

/// An image that is being read.
pub(super) struct Source<R> {
    input: Input<R>,
    header: Header,
    whole: u32,
    runs: u64,
    pages: u64,
    /// The first page that may still come.
    from: u64,
}

/// What comes next in an image.
pub(super) enum Next {
    /// A run whose record stands at byte `at`.
    Run { run: Run, at: u64 },
    /// Nothing: all that came is as it was saved.
    End(Info),
}

impl Source<BufReader<File>> {
    /// A file, of which beginning and end are there.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io("open the image"))?;
        let metadata = file.metadata().map_err(io("ask how long the image is"))?;
        let len = metadata.is_file().then_some(metadata.len());
        let input = Input {
            from: BufReader::new(file),
            at: 0,
            len,
        };
        let source = Self::begin(input)?;
        if let Some(len) = len {
            end_of(source.input.from.get_ref(), len)?;
        }
        Ok(source)
    }

    /// What it says of itself, without looking at what is in between.
    pub fn info(self) -> Result<Info> {
        let Some(len) = self.input.len else {
            return self.check();
        };
        let end = end_of(self.input.from.get_ref(), len)?;
        Ok(Info::new(&self.header, &end, len))
    }
}

/// The end of the image, where it has to be in a file of this length.
fn end_of(file: &File, len: u64) -> Result<End> {
    let cut = || {
        damaged(
            len,
            "it ends here, without a whole record of its end,".to_owned(),
        )
    };
    if len < (HEADER + RECORD) as u64 {
        return Err(cut());
    }
    let at = len - RECORD as u64;
    let mut record = [0; RECORD];
    file.read_exact_at(&mut record, at)
        .map_err(io("read the end of the image"))?;
    match Record::decode(&record, at) {
        Ok(Record::End(end)) => Ok(end),
        _ => Err(cut()),
    }
}

impl<R: Read> Source<R> {
    /// A stream. Not a byte behind the image is taken from it.
    pub fn stream(from: R) -> Result<Self> {
        Self::begin(Input {
            from,
            at: 0,
            len: None,
        })
    }

    fn begin(mut input: Input<R>) -> Result<Self> {
        let mut bytes = [0; HEADER];
        input.fill(&mut bytes, "the header")?;
        Ok(Self {
            input,
            header: Header::decode(&bytes)?,
            whole: crc32c::crc32c(summed(&bytes)),
            runs: 0,
            pages: 0,
            from: 0,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Goes on to the next run, and has its bytes put into `stored`, as they are kept.
    pub fn next(&mut self, stored: &mut Vec<u8>) -> Result<Next> {
        let at = self.input.at;
        let mut record = [0; RECORD];
        self.input.fill(&mut record, "a record")?;
        let run = match Record::decode(&record, at)? {
            Record::Run(run) => run,
            Record::End(end) => return self.end(&end, at).map(Next::End),
        };
        run.check(&self.header, self.from, at)?;
        self.from = run.end();
        self.whole = crc32c::crc32c_append(self.whole, summed(&record));
        self.runs += 1;
        self.pages += u64::from(run.pages);
        self.input.check_room(u64::from(run.stored))?;
        // At most `MOST_IN_RUN`, as was checked.
        stored.resize(run.stored as usize, 0);
        self.input.fill(stored, "the pages of a run")?;
        if crc32c::crc32c(stored) != run.checksum {
            let what = format!(
                "pages {}..{} that do not match their checksum",
                run.first,
                run.end()
            );
            return Err(damaged(at + RECORD as u64, what));
        }
        Ok(Next::Run { run, at })
    }

    /// The end stands at byte `at`: what came before has to be what it says.
    fn end(&mut self, end: &End, at: u64) -> Result<Info> {
        let real = End {
            runs: self.runs,
            pages: self.pages,
            whole: 0,
        };
        if *end != real.with_whole(self.whole) {
            let what = format!(
                "an end after {} runs of {} pages, where {} of {} came, or others,",
                end.runs, end.pages, self.runs, self.pages
            );
            return Err(damaged(at, what));
        }
        match self.input.len {
            Some(len) if len != self.input.at => Err(damaged(
                self.input.at,
                "something behind the end".to_owned(),
            )),
            _ => Ok(Info::new(&self.header, end, self.input.at)),
        }
    }

    /// Reads all of it, and keeps nothing.
    pub fn check(mut self) -> Result<Info> {
        let mut stored = Vec::new();
        let mut decoder = super::decoder::Decoder::default();
        let header = self.header;
        loop {
            match self.next(&mut stored)? {
                Next::Run { run, at } => {
                    decoder.bytes(&header, &run, at, &stored)?;
                }
                Next::End(info) => return Ok(info),
            }
        }
    }
}

struct Input<R> {
    from: R,
    /// How many bytes were read.
    at: u64,
    /// How many there are, where that is known.
    len: Option<u64>,
}

impl<R: Read> Input<R> {
    fn fill(&mut self, buf: &mut [u8], what: &str) -> Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.from.read(&mut buf[filled..]) {
                Ok(0) => return Err(ends_in(self.at, what)),
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let doing = "read the image";
                    return Err(ErrorKind::Io { doing, source }.into());
                }
            }
        }
        Ok(())
    }

    /// There are that many bytes left, for all that is known.
    fn check_room(&self, bytes: u64) -> Result<()> {
        match self.len {
            Some(len) if len.saturating_sub(self.at) < bytes => {
                Err(ends_in(len, "the pages of a run"))
            }
            _ => Ok(()),
        }
    }
}

fn ends_in(at: u64, what: &str) -> Error {
    damaged(at, format!("it ends here, within {what},"))
}
