//! Which target a connection goes to.

use std::net::IpAddr;

use clap::ValueEnum;
use parking_lot::Mutex;
use serde::Deserialize;

/// How connections are shared out among targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Each in turn, by weight
    RoundRobin,
    /// The one with the fewest connections for its weight
    LeastConnections,
    /// The same one for the same client address, as long as it is up
    SourceHash,
}

/// Chooses among the targets of one rule, which it knows by their places.
#[derive(Debug)]
pub struct Balancer {
    balance: Balance,
    targets: Vec<Weighted>,
    /// What each target is owed in its turn.
    credits: Mutex<Vec<i64>>,
}

#[derive(Debug)]
struct Weighted {
    weight: u32,
    /// Stands for the target in hashes.
    key: u64,
}

/// What there is to know about a target at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its place.
    pub index: usize,
    /// Connections that it has.
    pub active: u64,
}

impl Balancer {
    /// A balancer for targets of these names and weights.
    pub fn new<'a>(balance: Balance, targets: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let targets: Vec<_> = targets
            .map(|(name, weight)| Weighted {
                weight,
                key: hash(name.as_bytes()),
            })
            .collect();
        Self {
            balance,
            credits: Mutex::new(vec![0; targets.len()]),
            targets,
        }
    }

    /// Chooses one of the candidates for a client.
    pub fn pick(&self, client: IpAddr, candidates: &[Candidate]) -> Option<usize> {
        match self.balance {
            Balance::RoundRobin => self.next_in_turn(candidates.iter().map(|one| one.index)),
            Balance::LeastConnections => self.least_loaded(candidates),
            Balance::SourceHash => self.by_source(client, candidates),
        }
    }

    /// Smooth weighted round robin: every candidate earns its weight, and the richest pays for all.
    /// Targets of weights 3 and 1 come as a a b a and not as a a a b.
    fn next_in_turn(&self, indices: impl Iterator<Item = usize>) -> Option<usize> {
        let mut credits = self.credits.lock();
        let mut total = 0;
        let mut richest: Option<usize> = None;
        for index in indices {
            let weight = i64::from(self.targets[index].weight);
            total += weight;
            credits[index] += weight;
            if richest.is_none_or(|richest| credits[index] > credits[richest]) {
                richest = Some(index);
            }
        }
        let chosen = richest?;
        credits[chosen] -= total;
        Some(chosen)
    }

    /// Among equals they take turns.
    fn least_loaded(&self, candidates: &[Candidate]) -> Option<usize> {
        // a.active / a.weight against b.active / b.weight, without the division.
        let load = |one: &Candidate, other: &Candidate| {
            u128::from(one.active) * u128::from(self.targets[other.index].weight)
        };
        let least = candidates
            .iter()
            .min_by(|a, b| load(a, b).cmp(&load(b, a)))?;
        let equals = candidates
            .iter()
            .filter(|one| load(one, least) == load(least, one));
        self.next_in_turn(equals.map(|one| one.index))
    }

    /// Weighted rendezvous hashing: every target draws a number by its name and the client's, and
    /// the best one has the client. One that is lost has its clients spread over the others, whose
    /// own stay. The method is that of Schindler and Mitzenmacher's weighted rendezvous: the score
    /// of a target is -weight / ln(u), with u from 0 to 1.
    fn by_source(&self, client: IpAddr, candidates: &[Candidate]) -> Option<usize> {
        let client = match client.to_canonical() {
            IpAddr::V4(address) => hash(&address.octets()),
            IpAddr::V6(address) => hash(&address.octets()),
        };
        let score = |one: &Candidate| {
            let Weighted { weight, key } = self.targets[one.index];
            // 53 bits are what a double holds; the half keeps it from being 0 or 1.
            let drawn = (mix(client ^ key) >> 11) as f64 + 0.5;
            -f64::from(weight) / (drawn / (1u64 << 53) as f64).ln()
        };
        candidates
            .iter()
            .max_by(|a, b| score(a).total_cmp(&score(b)))
            .map(|one| one.index)
    }
}

/// FNV-1a, mixed: the same in every version, so that clients keep their targets.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

/// The last step of SplitMix64, which spreads every bit over all of them.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn balancer(balance: Balance, weights: &[u32]) -> Balancer {
        let names: Vec<String> = (0..weights.len())
            .map(|n| format!("10.0.0.{n}:80"))
            .collect();
        let targets = names
            .iter()
            .map(String::as_str)
            .zip(weights.iter().copied());
        Balancer::new(balance, targets)
    }

    fn idle(indices: impl IntoIterator<Item = usize>) -> Vec<Candidate> {
        indices
            .into_iter()
            .map(|index| Candidate { index, active: 0 })
            .collect()
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
    }

    #[test]
    fn turns_are_smooth() {
        let balancer = balancer(Balance::RoundRobin, &[3, 1]);
        let turns: Vec<_> = (0..8)
            .map(|_| balancer.pick(CLIENT, &idle([0, 1])).unwrap())
            .collect();
        assert_eq!(turns, [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn nobody_is_picked_where_nobody_is_left() {
        for balance in Balance::value_variants() {
            assert_eq!(balancer(*balance, &[1, 1]).pick(CLIENT, &[]), None);
        }
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_picked_and_equals_take_turns() {
        let balancer = balancer(Balance::LeastConnections, &[1, 4, 1]);
        let loads = |loads: [u64; 3]| {
            let candidates: Vec<_> = (0..)
                .zip(loads)
                .map(|(index, active)| Candidate { index, active })
                .collect();
            balancer.pick(CLIENT, &candidates).unwrap()
        };
        assert_eq!(loads([2, 7, 2]), 1);
        assert_eq!(loads([1, 5, 3]), 0);
        assert_ne!(loads([1, 8, 1]), loads([1, 8, 1]));
    }

    #[test]
    fn a_lost_target_moves_its_own_clients_only() {
        let balancer = balancer(Balance::SourceHash, &[1, 1, 1]);
        let mut moved = [0; 3];
        for number in 0..3_000 {
            let before = balancer.pick(client(number), &idle([0, 1, 2])).unwrap();
            let after = balancer.pick(client(number), &idle([0, 1])).unwrap();
            assert!(before == 2 || before == after);
            moved[after] += u32::from(before == 2);
        }
        assert!(moved[0] > 400 && moved[1] > 400, "{moved:?}");
    }

    #[test]
    fn hashed_clients_are_shared_out_by_weight() {
        let balancer = balancer(Balance::SourceHash, &[1, 3]);
        let heavy = (0..10_000)
            .filter(|number| balancer.pick(client(*number), &idle([0, 1])) == Some(1))
            .count();
        assert!((7_300..7_700).contains(&heavy), "{heavy}");
    }

    proptest! {
        /// Over a whole round every target gets exactly its weight, whatever it was before.
        #[test]
        fn a_round_gives_each_its_weight(weights in prop::collection::vec(1..=256u32, 1..8)) {
            let balancer = balancer(Balance::RoundRobin, &weights);
            let candidates = idle(0..weights.len());
            let mut counts = vec![0; weights.len()];
            for _ in 0..weights.iter().sum::<u32>() {
                counts[balancer.pick(CLIENT, &candidates).unwrap()] += 1;
            }
            prop_assert_eq!(counts, weights);
        }

        #[test]
        fn only_candidates_are_picked(
            weights in prop::collection::vec(1..=256u32, 1..8),
            present: u8,
            bits: u32,
        ) {
            for balance in Balance::value_variants() {
                let balancer = balancer(*balance, &weights);
                let candidates = idle((0..weights.len()).filter(|n| present >> n & 1 == 1));
                let picked = balancer.pick(IpAddr::V4(bits.into()), &candidates);
                prop_assert_eq!(picked.is_none(), candidates.is_empty());
                if let Some(index) = picked {
                    prop_assert!(candidates.iter().any(|one| one.index == index));
                }
            }
        }
    }
}
