//! Pages side by side that are all zeros, or of which none is.

/// Goes through the bytes of pages that lie side by side.
pub(super) struct Stretches<'a> {
    /// The number of the first of them.
    first: usize,
    bytes: &'a [u8],
    page_size: usize,
}

pub(super) struct Stretch<'a> {
    pub first: usize,
    pub bytes: &'a [u8],
    pub zeros: bool,
}

impl<'a> Stretches<'a> {
    /// `bytes` are whole pages.
    pub fn of(first: usize, bytes: &'a [u8], page_size: usize) -> Self {
        Self {
            first,
            bytes,
            page_size,
        }
    }
}

impl<'a> Iterator for Stretches<'a> {
    type Item = Stretch<'a>;

    fn next(&mut self) -> Option<Stretch<'a>> {
        let mut pages = self.bytes.chunks(self.page_size);
        let zeros = are_zeros(pages.next()?);
        let more = pages.take_while(|page| are_zeros(page) == zeros).count();
        let first = self.first;
        let (bytes, rest) = self.bytes.split_at((1 + more) * self.page_size);
        self.first += 1 + more;
        self.bytes = rest;
        Some(Stretch {
            first,
            bytes,
            zeros,
        })
    }
}

/// Whether all bytes are zero. Looks at 64 at a time, so that the processor does as well.
pub(super) fn are_zeros(bytes: &[u8]) -> bool {
    let (parts, rest) = bytes.as_chunks::<64>();
    let any = |bytes: &[u8]| bytes.iter().fold(0, |any, byte| any | byte);
    parts.iter().all(|part| any(part) == 0) && any(rest) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_not_zeros() {
        for len in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![0; len];
            assert!(are_zeros(&bytes));
            for at in 0..len {
                bytes[at] = 0x80;
                assert!(!are_zeros(&bytes), "byte {at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_together() {
        let bytes = [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 9, 9];
        let stretches = Stretches::of(7, &bytes, 2);
        let found: Vec<_> = stretches
            .map(|one| (one.first, one.bytes.len(), one.zeros))
            .collect();
        assert_eq!(
            found,
            [(7, 4, true), (9, 4, false), (11, 4, true), (13, 2, false)]
        );
    }
}
