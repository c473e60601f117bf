//! The order of the probes: a permutation of `0..count` that follows from a seed, of which nothing
//! is kept but the seed.
//!
//! A Feistel network permutes the numbers of an even number of bits; a result that is not below
//! `count` is put in again until one is. The network's domain is less than four times as large as
//! `count`, so that takes fewer than four turns on average.

/// How often the halves are mixed. Four times is enough for an order that looks random.
const ROUNDS: u64 = 4;

/// A permutation of `0..count`.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    count: u64,
    half_bits: u32,
    seed: u64,
}

impl Order {
    /// The permutation of `0..count` that a seed stands for.
    pub fn new(count: u64, seed: u64) -> Self {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Self {
            count,
            half_bits: bits.div_ceil(2).max(1),
            seed,
        }
    }

    /// Which number comes at a place. The place must be below `count`.
    pub fn at(&self, place: u64) -> u64 {
        debug_assert!(place < self.count);
        let mut number = self.permute(place);
        while number >= self.count {
            number = self.permute(number);
        }
        number
    }

    fn permute(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for round in 0..ROUNDS {
            let mixed = mix(right ^ self.seed.wrapping_add(round << 56)) & mask;
            (left, right) = (right, left ^ mixed);
        }
        (left << self.half_bits) | right
    }
}

/// A number in which every bit depends on every bit of another (the finalizer of SplitMix64).
pub fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(count: u64, seed: u64) -> Vec<u64> {
        let order = Order::new(count, seed);
        (0..count).map(|place| order.at(place)).collect()
    }

    #[test]
    fn every_number_comes_once() {
        for count in [1, 2, 3, 5, 64, 1000, 65_535] {
            let mut numbers = all(count, 7);
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..count), "{count}");
        }
    }

    #[test]
    fn a_seed_stands_for_one_order() {
        assert_eq!(all(1000, 1), all(1000, 1));
        assert_ne!(all(1000, 1), all(1000, 2));
    }

    #[test]
    fn neighbours_are_torn_apart() {
        let numbers = all(65_535, 3);
        let steps = numbers
            .windows(2)
            .filter(|pair| pair[0].abs_diff(pair[1]) < 10);
        // By chance, about 18 of 65,535 are.
        assert!(steps.count() < 100);
    }
}
