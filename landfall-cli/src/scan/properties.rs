//! What holds for whatever is typed, and for every seed: no text makes a reader panic, a set of ports
//! can be read again as it is shown, a set of addresses contains what it lists, and an order visits
//! everything once.

use proptest::prelude::*;

use super::order::Order;
use super::ports::PortSet;
use super::targets::{Addresses, Target, words_of_list};
use crate::system::services::Services;

fn services() -> Services {
    Services::parse("ssh 22/tcp\nhttp 80/tcp www\nx11-1 6001/tcp\n")
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in prop_oneof![
        ".{0,40}",
        "[0-9,.*/:TUS\\[\\] a-f-]{0,40}",
    ]) {
        if let Ok(ports) = PortSet::parse(&text, &services()) {
            let again = PortSet::parse(&ports.show(), &services());
            prop_assert!(ports.len() == 0 || again == Ok(ports));
        }
        if let Ok(Target::Addresses(addresses)) = Target::parse(&text) {
            check_set(&addresses)?;
        }
        let _ = words_of_list(&text).count();
    }

    #[test]
    fn every_range_of_ports_is_read_as_nmap_reads_it(a in 1..=u16::MAX, b in 1..=u16::MAX) {
        let (first, last) = (a.min(b), a.max(b));
        for text in [format!("{first}-{last}"), format!("T:{last},{first}-{last}")] {
            let ports = PortSet::parse(&text, &services()).unwrap();
            prop_assert!(ports.iter().eq(first..=last));
        }
        let backwards = PortSet::parse(&format!("{last}-{first}"), &services());
        prop_assert!(a == b || backwards.is_err());
        let open_ended = PortSet::parse(&format!("{first}-"), &services()).unwrap();
        prop_assert!(open_ended.iter().eq(first..=u16::MAX));
    }

    #[test]
    fn every_set_of_ports_can_be_read_again(ports in prop::collection::btree_set(1..=u16::MAX, 1..50)) {
        let set: PortSet = ports.iter().copied().collect();
        prop_assert!(set.iter().eq(ports.iter().copied()));
        prop_assert_eq!(set.len() as usize, ports.len());
        prop_assert_eq!(PortSet::parse(&set.show(), &services()), Ok(set));
    }

    #[test]
    fn a_block_is_what_shares_its_first_bits(address: u32, bits in 8..=32u8) {
        let text = format!("{}/{bits}", std::net::Ipv4Addr::from(address));
        let Ok(Target::Addresses(block)) = Target::parse(&text) else {
            panic!("{text}");
        };
        prop_assert_eq!(block.len(), 1 << (32 - bits));
        prop_assert!(block.contains(std::net::Ipv4Addr::from(address).into()));
        check_set(&block)?;
    }

    #[test]
    fn a_block_of_ipv6_is_what_shares_its_first_bits(address: u128, bits in 96..=128u8) {
        let address = std::net::Ipv6Addr::from(address);
        let Ok(Target::Addresses(block)) = Target::parse(&format!("{address}/{bits}")) else {
            panic!("{address}");
        };
        prop_assert_eq!(block.len(), 1 << (128 - bits));
        prop_assert!(block.contains(address.into()));
        check_set(&block)?;
    }

    #[test]
    fn every_order_visits_everything_once(count in 1..5_000u64, seed: u64) {
        let order = Order::new(count, seed);
        let mut visited = vec![false; count as usize];
        for place in 0..count {
            let number = order.at(place);
            prop_assert!(number < count && !visited[number as usize]);
            visited[number as usize] = true;
        }
    }

    #[test]
    fn an_order_of_any_size_stays_within_it(count in 1..=u64::MAX >> 2, seed: u64, place: u64) {
        prop_assert!(Order::new(count, seed).at(place % count) < count);
    }
}

/// The first and the last are there, in order, and nothing comes after.
fn check_set(set: &Addresses) -> Result<(), TestCaseError> {
    let (first, last) = (set.nth(0), set.nth(set.len() - 1));
    prop_assert!(first.is_some() && first <= last);
    prop_assert!(
        [first, last]
            .into_iter()
            .flatten()
            .all(|address| set.contains(address))
    );
    prop_assert_eq!(set.nth(set.len()), None);
    Ok(())
}
