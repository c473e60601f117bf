//! Local ports: a connection takes one of its source address's, and the system has so many to give
//! per address.

#[cfg(unix)]
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use crate::exit::Failure;

#[cfg(unix)]
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What the system says about local ports, as ip-sysctl documents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPorts {
    range: RangeInclusive<u16>,
    reserved: u32,
}

impl LocalPorts {
    /// The range that Windows starts with (`netsh int ipv4 show dynamicport tcp`); one that was
    /// changed is not asked for.
    #[cfg(windows)]
    pub fn read() -> Result<Self, Failure> {
        Ok(Self {
            range: 49_152..=65_535,
            reserved: 0,
        })
    }

    /// Reads the range given out to connections, and what is set apart from it.
    #[cfg(unix)]
    pub fn read() -> Result<Self, Failure> {
        let range = fs::read_to_string(RANGE).map_err(|error| {
            Failure::of_system(
                &format!("cannot read the range of local ports from {RANGE}"),
                &error,
            )
        })?;
        let reserved =
            fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
        Self::parse(&range, &reserved).ok_or_else(|| {
            Failure::failed(format!("{RANGE} reads {range:?}, which is not two ports"))
        })
    }

    #[cfg(any(unix, test))]
    fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut ends = range.split_ascii_whitespace().map(str::parse::<u16>);
        let range = ends.next()?.ok()?..=ends.next()?.ok()?;
        let reserved = reserved
            .trim()
            .split(',')
            .filter_map(parse_span)
            .map(|span| overlap(&span, &range))
            .sum();
        Some(Self { range, reserved })
    }

    /// How many connections one source address can have to one target.
    pub fn per_source(&self) -> u32 {
        width(&self.range).saturating_sub(self.reserved)
    }

    /// The range, to be shown.
    pub fn range(&self) -> &RangeInclusive<u16> {
        &self.range
    }
}

/// A port, or `from-to`.
#[cfg(any(unix, test))]
fn parse_span(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn width(range: &RangeInclusive<u16>) -> u32 {
    (u32::from(*range.end()) + 1).saturating_sub(u32::from(*range.start()))
}

#[cfg(any(unix, test))]
fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> u32 {
    width(&(*a.start().max(b.start())..=*a.end().min(b.end())))
}

/// The source addresses to connect from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Whatever the system picks.
    System,
    /// These, in turn.
    Given(Vec<IpAddr>),
    /// So many of 127.0.0.0/8, in turn; if that is one, whatever the system picks.
    Loopback(u32),
}

/// How many addresses of 127.0.0.0/8 stand in for one that has no port left.
const SUBSTITUTES: u32 = 4;

impl Sources {
    /// Decides where to connect from, so that every connection gets a local port.
    ///
    /// All of 127.0.0.0/8 is this machine, so for a target in it there are as many sources as
    /// needed. A second one is taken as soon as the first would lend more than half of its ports:
    /// the search for a free port slows down in a full range, and other programs need some as well.
    pub fn choose(target: IpAddr, given: &[IpAddr], connections: u32, ports: &LocalPorts) -> Self {
        if !given.is_empty() {
            return Self::Given(given.to_vec());
        }
        match target {
            IpAddr::V4(target) if target.is_loopback() => {
                let comfortable = (ports.per_source() / 2).max(1);
                Self::Loopback(connections.div_ceil(comfortable))
            }
            _ => Self::System,
        }
    }

    /// The address for the connection numbered `index`; `None` leaves it to the system.
    pub fn pick(&self, index: u64) -> Option<IpAddr> {
        match self {
            Self::System | Self::Loopback(..=1) => None,
            Self::Given(addresses) => addresses.get(turn(index, self.count()) as usize).copied(),
            Self::Loopback(count) => Some(nth_loopback(turn(index, *count))),
        }
    }

    /// Addresses to try for the connection numbered `index` when the one picked has no port left.
    pub fn substitutes(&self, index: u64) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, count) = match self {
            // One of the others picked, then ones that nobody picks.
            Self::Loopback(count) => (turn(index + 1, *count).max(1), SUBSTITUTES),
            Self::System | Self::Given(_) => (0, 0),
        };
        let step = self.count();
        (0..count).map(move |attempt| nth_loopback(first + attempt * step))
    }

    /// How many addresses are taken in turn.
    pub fn count(&self) -> u32 {
        match self {
            Self::System => 1,
            Self::Given(addresses) => u32::try_from(addresses.len()).unwrap_or(u32::MAX),
            Self::Loopback(count) => *count,
        }
    }

    /// How many connections these sources can have to one target.
    pub fn capacity(&self, ports: &LocalPorts) -> u64 {
        u64::from(self.count()) * u64::from(ports.per_source())
    }
}

fn turn(index: u64, count: u32) -> u32 {
    // Less than `count`, so it fits.
    (index % u64::from(count.max(1))) as u32
}

/// 127.0.0.1 and those after it.
fn nth_loopback(index: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(
        u32::from(Ipv4Addr::LOCALHOST).saturating_add(index),
    ))
}

/// Whether a connection is one to its own port: the system picked the very port that was to be
/// connected to, and two ends that begin at once are a connection.
pub fn has_met_itself(stream: &landfall::net::TcpStream) -> bool {
    // Not the address that was asked for: the unspecified one stands for another.
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(own), Ok(peer)) if own == peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default_ports() -> LocalPorts {
        LocalPorts::parse("32768\t60999\n", "\n").unwrap()
    }

    #[test]
    fn the_kernel_default_range_has_28232_ports() {
        assert_eq!(default_ports().per_source(), 28_232);
    }

    #[test]
    fn reserved_ports_count_only_inside_the_range() {
        let ports = LocalPorts::parse("32768 60999", "8080,40000-40009,60990-65535\n").unwrap();
        assert_eq!(ports.per_source(), 28_232 - 10 - 10);
    }

    #[test]
    fn nonsense_is_not_a_range() {
        assert_eq!(LocalPorts::parse("", ""), None);
        assert_eq!(LocalPorts::parse("1 many", ""), None);
    }

    #[test]
    fn loopback_gets_more_sources_when_one_would_be_crowded() {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let choose = |connections| Sources::choose(localhost, &[], connections, &default_ports());
        assert_eq!(choose(14_116), Sources::Loopback(1));
        assert_eq!(choose(14_116).pick(7), None);
        assert_eq!(choose(30_000), Sources::Loopback(3));
        assert_eq!(
            choose(30_000).pick(5),
            Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)))
        );
        assert!(choose(1_000_000).capacity(&default_ports()) >= 1_000_000);
    }

    #[test]
    fn a_source_without_ports_is_replaced_on_loopback_only() {
        for count in [1, 3] {
            let sources = Sources::Loopback(count);
            let substitutes: Vec<IpAddr> = sources.substitutes(0).collect();
            assert_eq!(substitutes.len(), SUBSTITUTES as usize);
            assert!(
                !substitutes.contains(&sources.pick(0).unwrap_or(nth_loopback(0))),
                "{substitutes:?}"
            );
        }
        assert_eq!(Sources::System.substitutes(0).count(), 0);
    }

    #[test]
    fn other_targets_get_what_was_given() {
        let far = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(
            Sources::choose(far, &[], 100_000, &default_ports()),
            Sources::System
        );
        let own = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        let given = Sources::choose(far, &[own], 100_000, &default_ports());
        assert_eq!(given.pick(5), Some(own));
        assert_eq!(given.capacity(&default_ports()), 28_232);
        assert_eq!(Sources::System.pick(5), None);
    }
}
