//! The bytes of an image are those that docs/image-format.md describes. Also makes images by hand.

use pagecow::image;
use pagecow::image::Id;

use crate::common::page_size;
use crate::{delta_of, image_of};

/// An image that is made by hand, as docs/image-format.md says.
pub struct Made {
    pub bytes: Vec<u8>,
    page_size: usize,
    /// All that the whole checksum is over.
    framing: Vec<u8>,
    runs: u64,
    pages: u64,
}

pub const ID: Id = Id {
    lineage: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
    snapshot: 5,
};

/// Has the last four bytes be the checksum of those before.
pub fn seal(bytes: &mut [u8]) {
    let end = bytes.len() - 4;
    let sum = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
}

impl Made {
    pub fn new(page_size: usize, requested_len: u64, parent: Option<Id>) -> Self {
        let parent = parent.unwrap_or(Id {
            lineage: 0,
            snapshot: 0,
        });
        let mut bytes = b"pagecow\n".to_vec();
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend((page_size as u32).to_le_bytes());
        bytes.extend(requested_len.to_le_bytes());
        for id in [ID, parent] {
            bytes.extend(id.lineage.to_le_bytes());
            bytes.extend(id.snapshot.to_le_bytes());
        }
        bytes.resize(96, 0);
        seal(&mut bytes);
        Self {
            framing: bytes[..92].to_vec(),
            bytes,
            page_size,
            runs: 0,
            pages: 0,
        }
    }

    /// A record of a run, and what is stored of it.
    pub fn run(&mut self, tag: &[u8; 4], pages: u32, first: u64, stored: &[u8]) {
        self.record(tag, pages, first, stored.len() as u32, stored);
    }

    pub fn record(&mut self, tag: &[u8; 4], pages: u32, first: u64, len: u32, stored: &[u8]) {
        let mut record = tag.to_vec();
        record.extend(pages.to_le_bytes());
        record.extend(first.to_le_bytes());
        record.extend(len.to_le_bytes());
        record.extend(crc32c::crc32c(stored).to_le_bytes());
        record.resize(32, 0);
        seal(&mut record);
        self.bytes.extend(&record);
        self.bytes.extend(stored);
        self.framing.extend(&record[..28]);
        self.runs += 1;
        self.pages += u64::from(pages);
    }

    pub fn plain(&mut self, first: u64, bytes: &[u8]) {
        self.run(b"page", (bytes.len() / self.page_size) as u32, first, bytes);
    }

    pub fn end(mut self) -> Vec<u8> {
        let mut end = b"end.\0\0\0\0".to_vec();
        end.extend(self.runs.to_le_bytes());
        end.extend(self.pages.to_le_bytes());
        self.framing.extend(&end);
        end.extend(crc32c::crc32c(&self.framing).to_le_bytes());
        end.resize(32, 0);
        seal(&mut end);
        self.bytes.extend(end);
        self.bytes
    }
}

/// A real image, but for its lineage, which is random, is the one made by hand.
#[test]
fn a_saved_image_is_what_is_described() {
    let mut arena = pagecow::Arena::new(10 * page_size() - 100).unwrap();
    let page = page_size();
    arena[2 * page..5 * page].fill(3);
    arena[7 * page] = 9;
    let older = arena.snapshot().unwrap();
    let image = image_of(&older);
    let id = Id::of(&older).unwrap();

    let relabelled = |made: Made| {
        let mut bytes = made.bytes.clone();
        bytes[24..40].copy_from_slice(&id.lineage.to_le_bytes());
        bytes[40..48].copy_from_slice(&1_u64.to_le_bytes());
        seal(&mut bytes[..96]);
        let framing = [&bytes[..92], &made.framing[92..]].concat();
        Made {
            bytes,
            framing,
            ..made
        }
    };
    let mut made = Made::new(page, 10 * page as u64 - 100, None);
    made.plain(2, &vec![3; 3 * page]);
    let mut ninth = vec![0; page];
    ninth[0] = 9;
    made.plain(7, &ninth);
    assert!(image == relabelled(made).end());

    // A delta: a page that became zeros, and one that is new.
    arena[7 * page] = 0;
    arena[8 * page..9 * page].fill(1);
    let newer = arena.snapshot().unwrap();
    let delta = delta_of(&newer, &older);
    let mut made = Made::new(page, 10 * page as u64 - 100, Some(id));
    made.run(b"zero", 1, 7, &[]);
    made.plain(8, &vec![1; page]);
    let mut made = relabelled(made);
    made.bytes[40..48].copy_from_slice(&2_u64.to_le_bytes());
    seal(&mut made.bytes[..96]);
    made.framing[..92].copy_from_slice(&made.bytes[..92]);
    assert!(delta == made.end());
}

/// The example of docs/image-format.md, taken from its text.
fn documented() -> Vec<u8> {
    let text = include_str!("../../docs/image-format.md");
    let (_, example) = text.split_once("```hex\n").expect("an example in hex");
    let (example, _) = example.split_once("```").unwrap();
    let mut bytes = Vec::new();
    for line in example.lines() {
        // `offset: bytes  what they are`, or `offset: byte * count  what they are`.
        let (offset, rest) = line.split_once(": ").unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        assert_eq!(bytes.len(), offset, "{line}");
        let digits = rest.split("  ").next().unwrap();
        if let Some((byte, count)) = digits.split_once(" * ") {
            let byte = u8::from_str_radix(byte, 16).unwrap();
            bytes.extend(vec![byte; count.parse().unwrap()]);
        } else {
            let byte = |digits| u8::from_str_radix(digits, 16).unwrap();
            bytes.extend(digits.split(' ').map(byte));
        }
    }
    bytes
}

#[test]
fn the_documented_example_is_an_image() {
    let example = documented();
    let (arena, info) = image::read_from(&example[..]).unwrap();
    assert_eq!(info.id, ID);
    assert_eq!((info.page_size, info.requested_len), (4096, 10_000));
    assert_eq!((info.pages, info.bytes), (1, example.len() as u64));
    let mut wanted = vec![0; arena.len()];
    wanted[4096..8192].fill(0xab);
    crate::expect_holds(&arena, &wanted);
}

/// The example is what saving such an arena gives, but for the lineage and what follows from it.
#[test]
fn the_documented_example_is_what_is_saved() {
    if page_size() != 4096 {
        return;
    }
    let example = documented();
    let mut arena = pagecow::Arena::new(10_000).unwrap();
    arena[4096..8192].fill(0xab);
    let snapshots: Vec<_> = (0..5).map(|_| arena.snapshot().unwrap()).collect();
    let mut saved = image_of(snapshots.last().unwrap());
    // The lineage, the header's checksum, the whole one and that of the end.
    let random = [24..40, 92..96, saved.len() - 8..saved.len()];
    for bytes in random {
        saved[bytes.clone()].copy_from_slice(&example[bytes]);
    }
    assert!(saved == example);
}
