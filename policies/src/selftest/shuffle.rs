//! Who meets whom in a round: the circle method on a list that is shuffled by a seed, for one node at a time.
//!
//! A node asks only for its own partner, so the shuffle is a permutation that can be computed, and undone, for one position: four
//! rounds of a Feistel network, walked until the result is inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).

use crate::domain::fnv1a;

/// A number from a seed and words: the same on every node.
pub(super) fn hash(seed: u64, words: &[&[u8]]) -> u64 {
    words.iter().fold(mix(seed), |hash, word| mix(hash ^ fnv1a(word)))
}

/// A number from 0 up to 1, not included.
pub(super) fn fraction(hash: u64) -> f64 {
    f64::from(u32::try_from(hash >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

/// SplitMix64's finaliser (Steele, Lea, Flood, 2014).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A permutation of `0..len`.
struct Shuffle {
    seed: u64,
    len: u64,
    half_bits: u32,
}

impl Shuffle {
    fn new(seed: u64, len: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { seed, len, half_bits: bits.div_ceil(2).max(1) }
    }

    fn feistel(&self, value: u64, rounds: impl Iterator<Item = u64>, back: bool) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in rounds {
            let (key, other) = if back { (left, right) } else { (right, left) };
            let new = other ^ (mix(self.seed ^ (round << 56) ^ key) & mask);
            (left, right) = if back { (new, left) } else { (right, new) };
        }
        (left << self.half_bits) | right
    }

    /// Where the element at `index` goes.
    fn position(&self, index: u64) -> u64 {
        let mut value = self.feistel(index, 0..4, false);
        while value >= self.len {
            value = self.feistel(value, 0..4, false);
        }
        value
    }

    /// Which element is at `position`.
    fn index(&self, position: u64) -> u64 {
        let mut value = self.feistel(position, (0..4).rev(), true);
        while value >= self.len {
            value = self.feistel(value, (0..4).rev(), true);
        }
        value
    }
}

/// One node's place in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    /// The partner's index.
    pub(super) partner: usize,
    /// Whether this node is the one that calls.
    pub(super) calls: bool,
}

/// The partner of the node at `index` of `len` in `round`; `None` where it has a bye.
///
/// Within one seed the rounds `0..len-1` (`0..len` for an odd `len`) let everybody meet everybody once.
pub(super) fn pair(seed: u64, len: usize, round: u64, index: usize) -> Option<Pair> {
    if len < 2 || index >= len {
        return None;
    }
    let members = u64::try_from(len).ok()?;
    let shuffle = Shuffle::new(seed, members);
    let seats = members + members % 2;
    let circle = seats - 1;
    let round = round % circle;
    let mine = shuffle.position(u64::try_from(index).ok()?);
    let theirs = if mine == circle {
        // The fixed seat meets the one that would meet itself: 2·seat = round, and half of the seats is the inverse of 2.
        round * (seats / 2) % circle
    } else {
        let seat = (round + circle - mine) % circle;
        if seat == mine { circle } else { seat }
    };
    // With an odd number of members the last seat is empty.
    if theirs >= members {
        return None;
    }
    let partner = usize::try_from(shuffle.index(theirs)).ok()?;
    // Roles alternate from one round to the next.
    Some(Pair { partner, calls: (mine < theirs) == round.is_multiple_of(2) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everybody_meets_everybody_once_in_disjoint_pairs_and_one_of_two_calls() {
        for len in 2..=40 {
            let rounds = len - 1 + len % 2;
            let mut met = BTreeSet::new();
            for round in 0..rounds as u64 {
                let mut byes = 0;
                for index in 0..len {
                    let Some(found) = pair(7, len, round, index) else {
                        byes += 1;
                        continue;
                    };
                    let back = pair(7, len, round, found.partner).expect("a partner's partner");
                    assert_eq!(back.partner, index, "{len} nodes, round {round}");
                    assert_ne!(found.partner, index);
                    assert_ne!(found.calls, back.calls);
                    if found.calls {
                        assert!(met.insert((index.min(found.partner), index.max(found.partner))));
                    }
                }
                assert_eq!(byes, len % 2, "{len} nodes, round {round}");
            }
            assert_eq!(met.len(), len * (len - 1) / 2);
        }
    }

    #[test]
    fn roles_alternate_and_seeds_differ() {
        let calls = (0..20).filter(|&round| pair(1, 100, round, 3).is_some_and(|pair| pair.calls)).count();
        assert!((5..=15).contains(&calls), "{calls} of 20");
        let partner = |seed| pair(seed, 1000, 0, 0).map(|pair| pair.partner);
        assert!((0..10).map(partner).collect::<BTreeSet<_>>().len() > 7);
        assert_eq!(pair(1, 1, 0, 0), None);
        assert_eq!(pair(1, 3, 0, 3), None);
    }
}
