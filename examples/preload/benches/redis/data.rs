//! What the servers hold: keys with values of 300 to 1000 bytes that do not compress.

use crate::resp::command;

const LEAST: usize = 300;
const MOST: usize = 1000;
/// Values are cut out of as many random letters.
const LETTERS: usize = 1 << 20;

/// Numbers that look random, the same ones in each run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % end
    }
}

/// The last steps of SplitMix64.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

pub struct Values {
    letters: Vec<u8>,
}

impl Values {
    pub fn new() -> Self {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut random = Random::new(1);
        let letters = (0..LETTERS + MOST).map(|_| alphabet[random.below(64) as usize]);
        Self {
            letters: letters.collect(),
        }
    }

    /// A SET of this key. The length of a key's values is always the same, so that the data do not
    /// grow.
    pub fn set(&self, key: u64, random: &mut Random, into: &mut Vec<u8>) {
        let len = LEAST + (mix(key) % (MOST - LEAST + 1) as u64) as usize;
        let begin = random.below(LETTERS as u64) as usize;
        let value = &self.letters[begin..begin + len];
        command(&[b"SET", name(key).as_bytes(), value], into);
    }
}

pub fn get(key: u64, into: &mut Vec<u8>) {
    command(&[b"GET", name(key).as_bytes()], into);
}

fn name(key: u64) -> String {
    format!("key:{key:012}")
}
