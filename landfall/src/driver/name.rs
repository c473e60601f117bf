//! Names of what is pending: a tag in the top byte (the lane, for one), a generation of 32 bits, and
//! a place in a table of 24.
//!
//! Names of operations that are over may be kept by the program for any time, so generations are
//! what must not come round soon; 16.7 million operations at a time are more than a lane has memory
//! for.

const INDEX_BITS: u32 = 24;

/// The most places that can be named.
pub(crate) const MOST: usize = 1 << INDEX_BITS;

pub(crate) fn of(generation: u32, index: u32) -> u64 {
    u64::from(generation) << INDEX_BITS | u64::from(index)
}

pub(crate) fn tagged(tag: u64, rest: u64) -> u64 {
    tag << 56 | rest
}

#[cfg(any(target_os = "linux", windows, test))]
pub(crate) fn tag(name: u64) -> u64 {
    name >> 56
}

/// What follows the tag.
#[cfg(any(target_os = "linux", test))]
pub(crate) fn rest(name: u64) -> u64 {
    name & (u64::MAX >> 8)
}

pub(crate) fn index(name: u64) -> u32 {
    name as u32 & (MOST as u32 - 1)
}

pub(crate) fn generation(name: u64) -> u32 {
    (name >> INDEX_BITS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_the_largest_numbers_apart() {
        let most = MOST as u32 - 1;
        for (numbers, at) in [(u32::MAX, 0), (0, most), (u32::MAX, most)] {
            let name = tagged(0xff, of(numbers, at));
            assert_eq!(tag(name), 0xff);
            assert_eq!(rest(name), of(numbers, at));
            assert_eq!(generation(name), numbers);
            assert_eq!(index(name), at);
        }
    }
}
