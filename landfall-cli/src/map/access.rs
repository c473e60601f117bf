//! Who may connect: networks that are allowed or denied, and how many connections one source may
//! have.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

/// Reads a network in CIDR notation; an address by itself is a network of one.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = match text.contains('/') {
        true => text.parse().ok(),
        false => text
            .parse()
            .ok()
            .map(|address: IpAddr| IpNet::from(address)),
    };
    network.map(canonical).ok_or_else(|| {
        format!(
            "`{text}` is no network: write an address and the length of its prefix, as in \
             10.0.0.0/8 or fd00::/8"
        )
    })
}

/// A network of IPv4 in the form of IPv6 (`::ffff:10.0.0.0/104`) is taken for what it is, as addresses are.
fn canonical(network: IpNet) -> IpNet {
    let IpAddr::V4(address) = network.addr().to_canonical() else {
        return network;
    };
    let prefix = match network {
        IpNet::V4(_) => return network,
        IpNet::V6(_) => network.prefix_len().checked_sub(96),
    };
    let four = prefix.and_then(|prefix| IpNet::new(address.into(), prefix).ok());
    four.unwrap_or(network)
}

/// Whether one of the networks has an address. One of IPv4 in the form that a socket for both
/// families gives it (`::ffff:10.0.0.1`) is taken for what it is.
pub fn any_contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Why a client is refused, after its address.
#[derive(Debug)]
pub enum Refusal {
    /// It is in a network of `--deny`.
    Denied,
    /// It is in none of `--allow`.
    NotAllowed,
    /// It has as many connections as `--max-conns-per-source` lets it have.
    TooMany(u32),
    /// It is in no network of `--proxy-from`.
    NoProxy,
    /// What it sent first is no PROXY header.
    WrongHeader(io::Error),
    /// It sent no PROXY header in `--proxy-timeout`.
    NoHeaderInTime,
    /// It left before it had sent a PROXY header.
    LeftBeforeHeader,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("it is in --deny"),
            Self::NotAllowed => f.write_str("it is not in --allow"),
            Self::TooMany(most) => write!(f, "it has the {most} of --max-conns-per-source"),
            Self::NoProxy => f.write_str("it is not in --proxy-from"),
            Self::WrongHeader(error) => write!(f, "no PROXY header, or a wrong one: {error}"),
            Self::NoHeaderInTime => f.write_str("no PROXY header in --proxy-timeout"),
            Self::LeftBeforeHeader => f.write_str("it left before its PROXY header had come"),
        }
    }
}

/// The networks of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// If there are any, all others are refused.
    pub allow: Vec<IpNet>,
    /// Refused, also if they are allowed.
    pub deny: Vec<IpNet>,
}

impl AccessList {
    /// Refuses a client that may not connect.
    pub fn check(&self, client: IpAddr) -> Result<(), Refusal> {
        let is_allowed = self.allow.is_empty() || any_contains(&self.allow, client);
        match is_allowed {
            _ if any_contains(&self.deny, client) => Err(Refusal::Denied),
            true => Ok(()),
            false => Err(Refusal::NotAllowed),
        }
    }
}

/// How many connections each source has.
#[derive(Clone, Debug, Default)]
pub struct Sources(Arc<Mutex<HashMap<IpAddr, u32>>>);

impl Sources {
    /// Counts one more connection of a source, unless it has so many already.
    pub fn enter(&self, source: IpAddr, most: Option<u32>) -> Option<SourceGuard> {
        let source = source.to_canonical();
        let mut counts = self.0.lock();
        let count = counts.entry(source).or_insert(0);
        if most.is_some_and(|most| *count >= most) {
            return None;
        }
        *count += 1;
        Some(SourceGuard {
            sources: self.clone(),
            source,
        })
    }
}

/// One connection of a source, as long as this lives.
#[derive(Debug)]
pub struct SourceGuard {
    sources: Sources,
    source: IpAddr,
}

impl Drop for SourceGuard {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts
            .iter()
            .map(|text| parse_network(text).unwrap())
            .collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_denied_is_refused_even_if_allowed() {
        let list = AccessList {
            allow: networks(&["10.0.0.0/8", "::1"]),
            deny: networks(&["10.1.0.0/16", "::ffff:10.2.0.0/112"]),
        };
        for allowed in ["10.0.0.1", "10.255.0.1", "::1", "::ffff:10.0.0.1"] {
            assert!(list.check(address(allowed)).is_ok(), "{allowed}");
        }
        for refused in ["10.1.2.3", "::ffff:10.1.2.3", "10.2.0.1", "11.0.0.1", "::2"] {
            assert!(list.check(address(refused)).is_err(), "{refused}");
        }
    }

    #[test]
    fn without_a_list_everybody_may_come() {
        assert!(AccessList::default().check(address("192.0.2.1")).is_ok());
        let denied = AccessList {
            allow: Vec::new(),
            deny: networks(&["192.0.2.0/24"]),
        };
        assert!(denied.check(address("192.0.2.1")).is_err());
        assert!(denied.check(address("192.0.3.1")).is_ok());
    }

    #[test]
    fn what_is_no_network_is_refused_with_examples() {
        for wrong in [
            "",
            "10",
            "10.0.0.0/33",
            "10.0.0.0/",
            "/8",
            "example.net",
            "fd00::/129",
        ] {
            let refusal = parse_network(wrong).unwrap_err();
            assert!(refusal.contains("10.0.0.0/8"), "{wrong}: {refusal}");
        }
    }

    #[test]
    fn a_source_has_room_again_when_a_connection_has_ended() {
        let sources = Sources::default();
        let enter = |source| sources.enter(address(source), Some(2));
        let first = enter("127.0.0.1");
        let second = enter("::ffff:127.0.0.1");
        assert!(first.is_some() && second.is_some());
        assert!(enter("127.0.0.1").is_none());
        assert!(enter("127.0.0.2").is_some());
        drop(first);
        assert!(enter("127.0.0.1").is_some());
        drop(second);
        assert!(sources.0.lock().is_empty());
    }

    proptest! {
        #[test]
        fn a_network_has_the_addresses_with_its_prefix(bits: u32, length in 0..=32u8, other: u32) {
            let network = parse_network(&format!("{}/{length}", Ipv4Addr::from(bits))).unwrap();
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let is_inside = bits & mask == other & mask;
            let address = IpAddr::from(Ipv4Addr::from(other));
            prop_assert_eq!(any_contains(&[network], address), is_inside);
        }
    }
}
