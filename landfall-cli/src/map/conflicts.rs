//! Rules that cannot be in force together: two that listen on one port, and those that lead round in a
//! circle.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What matters of a rule here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Its name.
    pub name: String,
    /// Whether it is for datagrams.
    pub is_udp: bool,
    /// Where it can listen.
    pub listen: Vec<SocketAddr>,
    /// Where its targets are.
    pub targets: Vec<SocketAddr>,
}

/// The rules that listen on each port, by their places.
type Listening = HashMap<(bool, u16), Vec<usize>>;

/// Refuses rules of which some cannot be in force together, and names these.
pub fn check(rules: &[Ends]) -> Result<(), String> {
    let mut listening = Listening::new();
    for (index, rule) in rules.iter().enumerate() {
        // Port 0 is another one each time.
        for address in rule.listen.iter().filter(|address| address.port() != 0) {
            let others = listening.entry((rule.is_udp, address.port())).or_default();
            let same = |other: &&usize| {
                let theirs = rules[**other].listen.iter();
                **other != index && theirs.clone().any(|their| overlap(their, address))
            };
            if let Some(other) = others.iter().find(same) {
                return Err(format!(
                    "rules {} and {} both listen on {address}: give one of them another port",
                    rules[*other].name, rule.name
                ));
            }
            others.push(index);
        }
    }
    let next: Vec<_> = rules
        .iter()
        .map(|rule| followers(rule, rules, &listening))
        .collect();
    let Some(circle) = circle(&next) else {
        return Ok(());
    };
    let names = circle.iter().chain(circle.first());
    let names: Vec<_> = names.map(|index| rules[*index].name.as_str()).collect();
    Err(format!(
        "clients would be passed on for ever: {}; give one of these rules another target",
        names.join(" to ")
    ))
}

/// Whether one socket at most can listen on both.
pub fn overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let is_any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (is_any || a.ip() == b.ip())
}

/// The rules that a rule's targets are the beginning of.
fn followers(rule: &Ends, rules: &[Ends], listening: &Listening) -> Vec<usize> {
    let mut followers = Vec::new();
    for target in &rule.targets {
        let others = listening.get(&(rule.is_udp, target.port()));
        followers.extend(others.into_iter().flatten().copied().filter(|other| {
            let mut listen = rules[*other].listen.iter();
            listen.any(|address| reaches(target, address))
        }));
    }
    followers
}

/// Whether a connection to the one address comes in by the other one, as far as can be told: this
/// machine's own addresses are not asked for, but for those that every machine has.
fn reaches(target: &SocketAddr, listen: &SocketAddr) -> bool {
    let target_ip = match target.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let is_for_all = listen.ip().is_unspecified() && target.is_ipv4() == listen.is_ipv4();
    target.port() == listen.port()
        && (target_ip == listen.ip() || is_for_all && target_ip.is_loopback())
}

/// A circle, if there is one, in a graph in which one place leads to the next ones.
fn circle(next: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut is_done = vec![false; next.len()];
    for start in 0..next.len() {
        // The way here, and how many of each place's next ones have been followed.
        let mut way = vec![(start, 0)];
        while let Some((place, followed)) = way.last_mut() {
            let to = next[*place].get(*followed).copied();
            *followed += 1;
            match to {
                Some(to) if is_done[to] => {}
                Some(to) => match way.iter().position(|(place, _)| *place == to) {
                    Some(first) => {
                        return Some(way[first..].iter().map(|(place, _)| *place).collect());
                    }
                    None => way.push((to, 0)),
                },
                None => {
                    is_done[*place] = true;
                    way.pop();
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name: listen > target`, UDP with a `u` before it.
    fn checked(rules: &[&str]) -> Result<(), String> {
        let rules: Vec<_> = rules
            .iter()
            .map(|rule| {
                let (name, ends) = rule.split_once(": ").unwrap();
                let (listen, targets) = ends.split_once(" > ").unwrap();
                let addresses =
                    |text: &str| text.split(' ').map(|one| one.parse().unwrap()).collect();
                Ends {
                    name: name.to_owned(),
                    is_udp: name.starts_with('u'),
                    listen: addresses(listen),
                    targets: addresses(targets),
                }
            })
            .collect();
        check(&rules)
    }

    #[test]
    fn two_rules_cannot_listen_on_one_port() {
        let a = "a: 127.0.0.1:80 > 10.0.0.1:80";
        for other in ["127.0.0.1:80", "0.0.0.0:80", "[::1]:80 127.0.0.1:80"] {
            let b = format!("b: {other} > 10.0.0.1:80");
            for rules in [[a, &b], [&b, a]] {
                let refusal = checked(&rules).unwrap_err();
                assert!(
                    refusal.contains(" a") && refusal.contains(" b"),
                    "{refusal}"
                );
                assert!(refusal.contains("both listen on"), "{refusal}");
            }
            checked(&[a, &b.replace("b:", "u:")]).unwrap();
        }
        for other in ["127.0.0.2:80", "127.0.0.1:81", "[::1]:80", "[::]:80"] {
            checked(&[a, &format!("b: {other} > 10.0.0.1:80")]).unwrap();
        }
        let any = "c: 127.0.0.1:0 > 10.0.0.1:80";
        checked(&[any, any, "d: 127.0.0.1:80 127.0.0.1:80 > 10.0.0.1:80"]).unwrap();
    }

    #[test]
    fn rules_do_not_lead_in_a_circle() {
        let wrong: [(&[&str], &str); 5] = [
            (&["a: 127.0.0.1:80 > 10.0.0.1:80 127.0.0.1:80"], ": a to a;"),
            (&["a: 0.0.0.0:80 > 127.0.0.2:80"], ": a to a;"),
            (&["a: [::]:80 > [::]:80"], ": a to a;"),
            (&["u: 127.0.0.1:80 > 127.0.0.1:80"], ": u to u;"),
            (
                &[
                    "a: 127.0.0.1:1 > 127.0.0.1:2",
                    "b: 127.0.0.1:2 > 127.0.0.1:9 127.0.0.1:3",
                    "c: 127.0.0.1:3 > 127.0.0.1:2",
                ],
                ": b to c to b;",
            ),
        ];
        for (rules, names) in wrong {
            let refusal = checked(rules).unwrap_err();
            assert!(refusal.contains(names), "{refusal}");
        }
        checked(&["a: 127.0.0.1:80 > 127.0.0.2:80"]).unwrap();
        checked(&["a: 0.0.0.0:80 > 10.0.0.1:80 [::1]:80"]).unwrap();
        let diamond = [
            "a: 127.0.0.1:1 > 127.0.0.1:2 127.0.0.1:3",
            "b: 127.0.0.1:2 > 127.0.0.1:4",
            "c: 127.0.0.1:3 > 127.0.0.1:4",
            "u: 127.0.0.1:4 > 127.0.0.1:1",
            "d: 127.0.0.1:4 > 127.0.0.1:5",
        ];
        checked(&diamond).unwrap();
    }
}
