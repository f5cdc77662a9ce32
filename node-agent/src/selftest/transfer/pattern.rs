//! The bytes that are moved: known to both sides, different for every transfer, operation and size.
//!
//! Blocks of a prime length repeat, so that a piece that lands elsewhere (NICs and UCX move pieces of powers of two) never finds its
//! own bytes there, and each block begins with its number. Filling and comparing are copies and comparisons of whole blocks.

use policies::selftest::Op;
use ucx_sys::Block;

/// A prime near 64 KiB.
const BLOCK: usize = 65_521;

/// Bytes that one side fills in and the other expects.
pub(super) struct Pattern {
    seed: u64,
    block: Vec<u8>,
}

/// What differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The first byte's offset.
    pub at: usize,
    /// What is there.
    pub is: u8,
    /// What should be there.
    pub expected: u8,
    /// How many bytes differ in all.
    pub count: usize,
}

impl Pattern {
    /// That of a step. `turn` tells one message of it from another.
    pub(super) fn new(secret: &str, op: Op, size: u64, turn: u64) -> Self {
        let mut seed = secret.bytes().fold(size, |seed, byte| mix(seed ^ u64::from(byte)));
        seed = mix(seed ^ (op as u64) << 32 ^ turn);
        let mut block: Vec<u8> = Vec::with_capacity(BLOCK + 8);
        let mut word = seed;
        while block.len() < BLOCK {
            word = mix(word);
            block.extend_from_slice(&word.to_le_bytes());
        }
        block.truncate(BLOCK);
        Self { seed, block }
    }

    /// The same with every bit turned: no byte of it is right.
    pub(super) fn poison(mut self) -> Self {
        self.block.iter_mut().for_each(|byte| *byte = !*byte);
        self.seed = !self.seed;
        self
    }

    /// Writes it to `length` bytes from `offset`.
    pub(super) fn fill(&mut self, memory: &dyn Block, offset: usize, length: usize) -> Result<(), String> {
        self.each(length, |from, bytes| memory.write(offset + from, bytes))
    }

    /// Compares every byte.
    pub(super) fn compare(
        &mut self,
        memory: &dyn Block,
        offset: usize,
        length: usize,
    ) -> Result<Option<Difference>, String> {
        let mut read = vec![0; BLOCK.min(length)];
        let mut difference: Option<Difference> = None;
        self.each(length, |from, expected| {
            let read = &mut read[..expected.len()];
            memory.read(offset + from, read)?;
            if *read != *expected {
                let mut wrong = read.iter().zip(expected).enumerate().filter(|(_, (is, expected))| is != expected);
                let Some((at, (&is, &expected))) = wrong.next() else { return Ok(()) };
                let count = 1 + wrong.count();
                let found = difference.get_or_insert(Difference { at: from + at, is, expected, count: 0 });
                found.count += count;
            }
            Ok(())
        })?;
        Ok(difference)
    }

    fn each(&mut self, length: usize, mut each: impl FnMut(usize, &[u8]) -> Result<(), String>) -> Result<(), String> {
        for (number, from) in (0_u64..).zip((0..length).step_by(BLOCK)) {
            self.block[..8].copy_from_slice(&mix(self.seed ^ number).to_le_bytes());
            each(from, &self.block[..BLOCK.min(length - from)])?;
        }
        Ok(())
    }
}

/// SplitMix64's step: every bit of the input changes half of the output's.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// The tag of a turn's messages: without the secret, nobody can send one that is received, and no other transfer has it.
pub(super) fn tag(secret: &str, step: u64, turn: u64) -> u64 {
    secret.bytes().fold(mix(step << 16 ^ turn), |tag, byte| mix(tag ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ucx_sys::HostBlock;

    const SIZE: usize = 3 * BLOCK + 5;

    fn pattern(turn: u64) -> Pattern {
        Pattern::new("0123456789abcdef0123456789abcdef", Op::Put, SIZE as u64, turn)
    }

    #[test]
    fn finds_one_wrong_byte_anywhere_and_nothing_else() {
        let memory = HostBlock::new(SIZE + 2).unwrap();
        pattern(1).fill(&memory, 1, SIZE).unwrap();
        assert_eq!(pattern(1).compare(&memory, 1, SIZE), Ok(None));
        for at in [0, 7, 8, BLOCK - 1, BLOCK, 2 * BLOCK + 8, SIZE - 1] {
            let mut byte = [0];
            memory.read(at + 1, &mut byte).unwrap();
            memory.write(at + 1, &[!byte[0]]).unwrap();
            let expected = Difference { at, is: !byte[0], expected: byte[0], count: 1 };
            assert_eq!(pattern(1).compare(&memory, 1, SIZE), Ok(Some(expected)));
            memory.write(at + 1, &byte).unwrap();
        }
        let edges = &mut [1, 1];
        memory.read(0, &mut edges[..1]).unwrap();
        memory.read(SIZE + 1, &mut edges[1..]).unwrap();
        assert_eq!(edges, &[0, 0]);
    }

    #[test]
    fn stale_poisoned_and_moved_bytes_do_not_pass() {
        let memory = HostBlock::new(SIZE).unwrap();
        let differs =
            |mut expected: Pattern| expected.compare(&memory, 0, SIZE).unwrap().map_or(0, |found| found.count);
        pattern(1).fill(&memory, 0, SIZE).unwrap();
        assert!(differs(pattern(2)) > SIZE / 100 * 98, "another turn");
        assert!(differs(Pattern::new("1123456789abcdef0123456789abcdef", Op::Put, SIZE as u64, 1)) > SIZE / 100 * 98);
        assert!(differs(Pattern::new("0123456789abcdef0123456789abcdef", Op::Get, SIZE as u64, 1)) > SIZE / 100 * 98);
        pattern(1).poison().fill(&memory, 0, SIZE).unwrap();
        assert_eq!(differs(pattern(1)), SIZE, "poison");
        // Two pieces of a kilobyte, exchanged.
        pattern(1).fill(&memory, 0, SIZE).unwrap();
        let (mut one, mut other) = ([0; 1024], [0; 1024]);
        memory.read(1024, &mut one).unwrap();
        memory.read(65_536 + 1024, &mut other).unwrap();
        memory.write(1024, &other).unwrap();
        memory.write(65_536 + 1024, &one).unwrap();
        assert!(differs(pattern(1)) > 2000);
    }

    #[test]
    fn tags_are_of_the_secret_the_step_and_the_turn() {
        let tags = [tag("a", 1, 1), tag("b", 1, 1), tag("a", 2, 1), tag("a", 1, 2), tag("a", 1, 3)];
        for (index, tag) in tags.iter().enumerate() {
            assert!(!tags[..index].contains(tag));
        }
    }
}
