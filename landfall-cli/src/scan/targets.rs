//! Targets as nmap takes them: `example.net`, `10.0.0.1`, `10.0.0.0/24`, `10.0.0-3.1,5`, `::1`,
//! `2001:db8::/120`, `example.net/30`.
//!
//! A set of addresses is kept as what was written, however many it stands for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most addresses one expression may stand for: all of IPv4.
const MOST: u64 = 1 << 32;

/// One expression, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Addresses.
    Addresses(Addresses),
    /// A name to be resolved, and how many leading bits of its address are meant.
    Name(String, Option<u8>),
}

/// Addresses that one expression stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// One address.
    One(IpAddr),
    /// All that begin as `first` does, which is the lowest of them.
    Block {
        /// The lowest.
        first: IpAddr,
        /// How many there are.
        count: u64,
    },
    /// Those whose octets are each in a set.
    Octets(Box<[Octets; 4]>),
}

/// A set of octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Octets([u64; 4]);

impl Target {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, bits) = match text.split_once('/') {
            None => (text, None),
            Some((host, bits)) => (host, Some(parse_bits(text, bits)?)),
        };
        if let Ok(address) = unbracketed(host).parse::<IpAddr>() {
            return Addresses::block(address, bits)
                .map(Self::Addresses)
                .map_err(|problem| format!("`{text}`: {problem}"));
        }
        if looks_like_octets(host) {
            if bits.is_some() {
                return Err(format!(
                    "`{text}`: a range of octets cannot have a prefix length as well; leave one out"
                ));
            }
            let octets = parse_octets(host).map_err(|problem| format!("`{text}`: {problem}"))?;
            return Ok(Self::Addresses(Addresses::Octets(Box::new(octets))));
        }
        if !is_name(host) {
            return Err(format!(
                "`{text}` is neither an address nor a name: write example.net, 10.0.0.1, \
                 10.0.0.0/24, 10.0.0-3.1,5 or ::1"
            ));
        }
        Ok(Self::Name(host.to_owned(), bits))
    }
}

fn parse_bits(text: &str, bits: &str) -> Result<u8, String> {
    let is_number = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    is_number
        .then(|| bits.parse().ok())
        .flatten()
        .ok_or_else(|| format!("`{text}`: `{bits}` is not a prefix length, as in 10.0.0.0/24"))
}

/// An IPv6 address may stand in brackets, as where a port follows.
fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// Four parts of digits, commas, dashes and stars: no name has them.
fn looks_like_octets(host: &str) -> bool {
    let is_part = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || b",-*".contains(&byte))
    };
    host.split('.').count() == 4 && host.split('.').all(is_part)
}

/// The characters of a host name, one at least being a letter. A longer one than 253 is none.
fn is_name(host: &str) -> bool {
    let is_char = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    host.len() <= 253
        && host.chars().all(is_char)
        && host.chars().any(char::is_alphabetic)
        && !host.starts_with(['-', '.'])
}

fn parse_octets(host: &str) -> Result<[Octets; 4], String> {
    let mut octets = [Octets::default(); 4];
    for (octet, part) in octets.iter_mut().zip(host.split('.')) {
        *octet = Octets::parse(part)?;
    }
    Ok(octets)
}

impl Octets {
    fn parse(text: &str) -> Result<Self, String> {
        let mut octets = Self::default();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                None if part == "*" => ("0", "255"),
                None => (part, part),
                Some((first, last)) => (
                    if first.is_empty() { "0" } else { first },
                    if last.is_empty() { "255" } else { last },
                ),
            };
            let read = |end: &str| {
                end.parse::<u8>()
                    .map_err(|_| format!("`{part}` is not a number, or range, of 0 to 255"))
            };
            let (first, last) = (read(first)?, read(last)?);
            if first > last {
                return Err(format!(
                    "`{part}` ends before it begins; write {last}-{first}"
                ));
            }
            for octet in first..=last {
                octets.0[usize::from(octet) / 64] |= 1 << (octet % 64);
            }
        }
        Ok(octets)
    }

    fn contains(&self, octet: u8) -> bool {
        self.0[usize::from(octet) / 64] & (1 << (octet % 64)) != 0
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|bits| u64::from(bits.count_ones())).sum()
    }

    fn nth(&self, index: u64) -> Option<u8> {
        (0..=u8::MAX)
            .filter(|&octet| self.contains(octet))
            .nth(usize::try_from(index).ok()?)
    }
}

impl Addresses {
    /// The addresses that share their first bits with this one.
    pub fn block(address: IpAddr, bits: Option<u8>) -> Result<Self, String> {
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        if bits > width {
            return Err(format!("a prefix of this family has at most {width} bits"));
        }
        if bits == width {
            return Ok(Self::One(address));
        }
        let free = width - bits;
        if 1u64
            .checked_shl(free.into())
            .is_none_or(|count| count > MOST)
        {
            return Err(format!(
                "that is more than {MOST} addresses; give a prefix of at least {} bits",
                width - 32
            ));
        }
        let first = match address {
            IpAddr::V4(address) => {
                let low = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
                Ipv4Addr::from(u32::from(address) & !low).into()
            }
            IpAddr::V6(address) => {
                let low = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
                Ipv6Addr::from(u128::from(address) & !low).into()
            }
        };
        Ok(Self::Block {
            first,
            count: 1 << free,
        })
    }

    /// Whether they are of IPv6.
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::One(address) | Self::Block { first: address, .. } => address.is_ipv6(),
            Self::Octets(_) => false,
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Block { count, .. } => *count,
            Self::Octets(octets) => octets.iter().map(Octets::len).product(),
        }
    }

    /// The one at a place, in order.
    pub fn nth(&self, index: u64) -> Option<IpAddr> {
        if index >= self.len() {
            return None;
        }
        match self {
            Self::One(address) => Some(*address),
            Self::Block { first, .. } => Some(match first {
                IpAddr::V4(first) => {
                    Ipv4Addr::from(u32::from(*first).checked_add(u32::try_from(index).ok()?)?)
                        .into()
                }
                IpAddr::V6(first) => {
                    Ipv6Addr::from(u128::from(*first).checked_add(u128::from(index))?).into()
                }
            }),
            Self::Octets(octets) => {
                let mut address = [0; 4];
                let mut rest = index;
                for (octet, set) in address.iter_mut().zip(octets.iter()).rev() {
                    *octet = set.nth(rest % set.len())?;
                    rest /= set.len();
                }
                Some(Ipv4Addr::from(address).into())
            }
        }
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::One(one), _) => *one == address,
            (Self::Block { first, count }, _) => {
                distance(*first, address).is_some_and(|distance| distance < u128::from(*count))
            }
            (Self::Octets(octets), IpAddr::V4(address)) => address
                .octets()
                .iter()
                .zip(octets.iter())
                .all(|(octet, set)| set.contains(*octet)),
            (Self::Octets(_), IpAddr::V6(_)) => false,
        }
    }
}

/// By how much an address lies above another of its family.
fn distance(first: IpAddr, address: IpAddr) -> Option<u128> {
    match (first, address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => {
            u32::from(address).checked_sub(first.into()).map(u128::from)
        }
        (IpAddr::V6(first), IpAddr::V6(address)) => u128::from(address).checked_sub(first.into()),
        _ => None,
    }
}

/// Splits a list of targets: words apart by blanks or lines, `#` begins a comment.
pub fn words_of_list(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(str::split_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        match Target::parse(text).unwrap() {
            Target::Addresses(set) => (0..set.len())
                .map(|index| set.nth(index).unwrap())
                .inspect(|address| assert!(set.contains(*address), "{address}"))
                .map(|address| address.to_string())
                .collect(),
            Target::Name(name, _) => panic!("{name} is a name"),
        }
    }

    #[test]
    fn addresses_blocks_and_octet_ranges_are_read() {
        assert_eq!(addresses("10.0.0.1"), ["10.0.0.1"]);
        assert_eq!(addresses("::1"), ["::1"]);
        assert_eq!(addresses("[::1]"), ["::1"]);
        assert_eq!(addresses("10.0.0.7/31"), ["10.0.0.6", "10.0.0.7"]);
        assert_eq!(addresses("10.0.0.255/32"), ["10.0.0.255"]);
        assert_eq!(addresses("2001:db8::5/127"), ["2001:db8::4", "2001:db8::5"]);
        assert_eq!(
            addresses("10.0.0-1.1,5"),
            ["10.0.0.1", "10.0.0.5", "10.0.1.1", "10.0.1.5"]
        );
        assert_eq!(addresses("10.0.0.254-"), ["10.0.0.254", "10.0.0.255"]);
        assert_eq!(addresses("10.0.0.-1"), ["10.0.0.0", "10.0.0.1"]);
        assert_eq!(addresses("10.0.0.*").len(), 256);
    }

    #[test]
    fn a_set_however_large_is_kept_small() {
        let Target::Addresses(all) = Target::parse("0.0.0.0/0").unwrap() else {
            panic!("a name");
        };
        assert_eq!(all.len(), 1 << 32);
        assert_eq!(
            all.nth((1 << 32) - 1),
            Some("255.255.255.255".parse().unwrap())
        );
        assert_eq!(all.nth(1 << 32), None);
        let Target::Addresses(all) = Target::parse("*.*.*.*").unwrap() else {
            panic!("a name");
        };
        assert_eq!(
            (all.len(), all.nth(258)),
            (1 << 32, Some("0.0.1.2".parse().unwrap()))
        );
    }

    #[test]
    fn names_are_left_for_later() {
        let name = |name: &str, bits| Ok(Target::Name(name.to_owned(), bits));
        assert_eq!(Target::parse("localhost"), name("localhost", None));
        assert_eq!(
            Target::parse("a-1.example.net/30"),
            name("a-1.example.net", Some(30))
        );
    }

    #[test]
    fn mistakes_are_told_apart() {
        for (text, part) in [
            ("", "neither"),
            ("5", "neither"),
            ("10.0.0", "neither"),
            ("-x", "neither"),
            ("http://example.net/", "not a prefix length"),
            ("example.net:80", "neither"),
            ("10.0.0.256", "0 to 255"),
            ("10.0.0.9-3", "write 3-9"),
            ("10.0.0.1,", "0 to 255"),
            ("10.0.0.0/33", "at most 32 bits"),
            ("10.0.0.0/x", "not a prefix length"),
            ("10.0.0-1.0/24", "leave one out"),
            ("::/64", "at least 96 bits"),
            ("::/129", "at most 128 bits"),
        ] {
            let problem = Target::parse(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn a_list_has_comments_and_blanks() {
        let words: Vec<_> = words_of_list("a b # c\n#d\n\n  e\t10.0.0.1\n").collect();
        assert_eq!(words, ["a", "b", "e", "10.0.0.1"]);
    }
}
