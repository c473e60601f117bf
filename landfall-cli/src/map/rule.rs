//! Rules as they are written: `LISTEN=TARGET[,TARGET...]`, each of them `HOST:PORT` or
//! `HOST:FIRST-LAST`, a target also with its weight, `HOST:PORT*3`.

use crate::units::{advice_for_port, port_of};

/// The greatest weight of a target, as HAProxy has it.
const MOST_WEIGHT: u32 = 256;

/// One address to listen on, and where its connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    /// `HOST:PORT`; port 0 lets the system choose.
    pub listen: String,
    /// One or more.
    pub targets: Vec<TargetText>,
}

/// A target as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetText {
    /// `HOST:PORT`.
    pub address: String,
    /// Its share beside the other targets.
    pub weight: u32,
}

/// A host and one port, or several in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports<'a> {
    host: &'a str,
    first: u16,
    count: u16,
}

/// Reads a rule of the command line. With a range of ports it stands for many.
pub fn parse_rule(text: &str) -> Result<Vec<RuleText>, String> {
    let (listen, targets) = text.split_once('=').ok_or_else(|| {
        format!(
            "`{text}` is no rule: write LISTEN=TARGET[,TARGET...], as in \
             127.0.0.1:9000=127.0.0.1:7000"
        )
    })?;
    let targets: Vec<&str> = targets.split(',').map(str::trim).collect();
    if targets.contains(&"") {
        return Err(format!(
            "`{text}` has an empty target: write one after `=`, and one after each comma"
        ));
    }
    expand(&Ports::parse(listen.trim())?, &targets)
}

/// Makes one rule for each port that is listened on. A target with as many ports gets them one by
/// one, a target with one port gets all.
pub fn expand(listen: &Ports<'_>, targets: &[impl AsRef<str>]) -> Result<Vec<RuleText>, String> {
    if listen.first == 0 && listen.count > 1 {
        return Err(String::from(
            "port 0 lets the system choose one: it cannot begin a range",
        ));
    }
    if targets.is_empty() {
        return Err(format!("{} has no target", listen.nth(0)));
    }
    let targets = targets
        .iter()
        .map(|target| parse_target(target.as_ref().trim(), listen))
        .collect::<Result<Vec<_>, _>>()?;
    for (place, (ports, _)) in targets.iter().enumerate() {
        if targets[..place].iter().any(|(other, _)| ports.meet(other)) {
            let target = ports.shown();
            return Err(format!(
                "{} has the target {target} twice, which could not be told apart: give it once, \
                 with a weight, as in {target}*2",
                listen.shown()
            ));
        }
    }
    let rule = |index| RuleText {
        listen: listen.nth(index),
        targets: targets
            .iter()
            .map(|(ports, weight)| TargetText {
                address: ports.nth(index),
                weight: *weight,
            })
            .collect(),
    };
    Ok((0..listen.count).map(rule).collect())
}

fn parse_target<'a>(text: &'a str, listen: &Ports<'_>) -> Result<(Ports<'a>, u32), String> {
    let (address, weight) = match text.rsplit_once('*') {
        Some((address, weight)) => (address, parse_weight(text, weight)?),
        None => (text, 1),
    };
    let ports = Ports::parse(address)?;
    if ports.first == 0 {
        return Err(format!("`{address}`: nobody can listen on port 0"));
    }
    if ports.count != 1 && ports.count != listen.count {
        return Err(format!(
            "`{address}` has {} ports and `{}` has {}: give the target as many, or one",
            ports.count,
            listen.shown(),
            listen.count
        ));
    }
    Ok((ports, weight))
}

fn parse_weight(target: &str, weight: &str) -> Result<u32, String> {
    match weight.parse() {
        Ok(number @ 1..=MOST_WEIGHT) if is_number(weight) => Ok(number),
        _ => Err(format!(
            "`{target}`: a weight is a whole number from 1 to {MOST_WEIGHT}, as in HOST:PORT*3"
        )),
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|digit| digit.is_ascii_digit())
}

impl<'a> Ports<'a> {
    /// Reads `HOST:PORT` or `HOST:FIRST-LAST`.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let refuse = || {
            let advice = advice_for_port(text);
            let advice = advice.as_deref();
            let advice =
                advice.unwrap_or("write 127.0.0.1:7000, [::1]:7000 or example.net:7000-7009");
            format!("`{text}` is not HOST:PORT or HOST:FIRST-LAST: {advice}")
        };
        let (host, ports) = text.rsplit_once(':').ok_or_else(refuse)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |port: &str| {
            port_of(&format!("{host}:{port}")).map_err(|problem| match is_number(port) {
                true => problem,
                false => refuse(),
            })
        };
        let (first, last) = (port(first)?, port(last)?);
        let count = last
            .checked_sub(first)
            .and_then(|distance| distance.checked_add(1))
            .ok_or_else(|| match first > last {
                true => format!("`{text}`: the range ends before it begins"),
                false => format!("`{text}`: port 0 lets the system choose one"),
            })?;
        Ok(Self { host, first, count })
    }

    /// One of the ports, or the only one.
    fn nth(&self, index: u16) -> String {
        let offset = if self.count == 1 { 0 } else { index };
        format!("{}:{}", self.host, self.first + offset)
    }

    /// Whether a rule could have the same target by both, as a range goes port by port and one port is for
    /// all.
    fn meet(&self, other: &Self) -> bool {
        let one = [self, other].map(|ports| (ports.first, ports.first + (ports.count - 1)));
        let [(first, last), (other_first, other_last)] = one;
        self.host == other.host
            && match self.count == other.count {
                true => first == other_first,
                false => first <= other_last && other_first <= last,
            }
    }

    fn shown(&self) -> String {
        match self.count {
            1 => self.nth(0),
            count => format!("{}-{}", self.nth(0), self.first + (count - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> RuleText {
        let rules = parse_rule(text).unwrap();
        assert_eq!(rules.len(), 1, "{rules:?}");
        rules.into_iter().next().unwrap()
    }

    fn target(address: &str, weight: u32) -> TargetText {
        TargetText {
            address: address.to_owned(),
            weight,
        }
    }

    #[test]
    fn a_rule_has_one_target_or_several_with_weights() {
        let rule = one("127.0.0.1:9000=127.0.0.1:7000");
        assert_eq!(rule.listen, "127.0.0.1:9000");
        assert_eq!(rule.targets, [target("127.0.0.1:7000", 1)]);
        let rule = one("[::]:80=example.net:8080*3, [::1]:8081");
        assert_eq!(rule.listen, "[::]:80");
        assert_eq!(
            rule.targets,
            [target("example.net:8080", 3), target("[::1]:8081", 1)]
        );
    }

    #[test]
    fn ranges_go_port_by_port_or_onto_one_port() {
        let rules = parse_rule("127.0.0.1:9000-9002=127.0.0.1:7000-7002,127.0.0.1:80*2").unwrap();
        let shown: Vec<_> = rules
            .iter()
            .map(|rule| (rule.listen.as_str(), rule.targets[0].address.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("127.0.0.1:9000", "127.0.0.1:7000"),
                ("127.0.0.1:9001", "127.0.0.1:7001"),
                ("127.0.0.1:9002", "127.0.0.1:7002"),
            ]
        );
        assert!(
            rules
                .iter()
                .all(|rule| rule.targets[1] == target("127.0.0.1:80", 2))
        );
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        let wrong = [
            ("127.0.0.1:9000", "LISTEN=TARGET"),
            ("127.0.0.1:9000=", "empty target"),
            (":80=", "`:80=` has an empty target"),
            (":80=127.0.0.1:80", "`:80` is not HOST:PORT"),
            (
                "127.0.0.1:99999=127.0.0.1:80",
                "`127.0.0.1:99999`: 99999 is no port",
            ),
            ("127.0.0.1:80-65536=127.0.0.1:80", "65536 is no port"),
            ("127.0.0.1:80=127.0.0.1:99999*3", "99999 is no port"),
            ("=127.0.0.1:7000", "HOST:PORT"),
            (
                "9000=127.0.0.1:7000",
                "HOST:PORT or HOST:FIRST-LAST: write 127.0.0.1:9000, or 0.0.0.0:9000 to",
            ),
            ("80-81=127.0.0.1:7000", "write 127.0.0.1:80-81, or"),
            ("127.0.0.1:9000=127.0.0.1:7000,", "empty target"),
            (
                "127.0.0.1:9000-9001=127.0.0.1:7-8,127.0.0.1:8",
                "127.0.0.1:9000-9001 has the target 127.0.0.1:8 twice",
            ),
            (
                "127.0.0.1:9000=127.0.0.1:7,127.0.0.1:8,127.0.0.1:7*3",
                "127.0.0.1:9000 has the target 127.0.0.1:7 twice, which could not be told apart",
            ),
            ("127.0.0.1:9000= ,127.0.0.1:7000", "empty target"),
            ("127.0.0.1:9000=127.0.0.1:0", "port 0"),
            ("127.0.0.1:0-3=127.0.0.1:7", "port 0"),
            ("127.0.0.1:0-65535=127.0.0.1:7", "port 0"),
            ("127.0.0.1:9001-9000=127.0.0.1:7", "ends before it begins"),
            ("127.0.0.1:9000=127.0.0.1:7000-7001", "as many, or one"),
            ("127.0.0.1:9000-9002=127.0.0.1:7000-7001", "has 3"),
            ("127.0.0.1:9000=127.0.0.1:7000*0", "weight"),
            ("127.0.0.1:9000=127.0.0.1:7000*+3", "weight"),
            ("127.0.0.1:9000=127.0.0.1:7000*257", "weight"),
            ("127.0.0.1:9000=127.0.0.1:7000*", "weight"),
            ("127.0.0.1:9000-=127.0.0.1:7000", "HOST:PORT"),
            ("::1:9000=127.0.0.1:7000", "HOST:PORT"),
        ];
        for (text, reason) in wrong {
            let refusal = parse_rule(text).unwrap_err();
            assert!(refusal.contains(reason), "{text}: {refusal}");
        }
    }

    proptest! {
        /// Never a panic, and what is taken makes sense.
        #[test]
        fn any_text_is_a_rule_or_refused(text in "[0-9a-z.:,=*\\-\\[\\]]{0,40}") {
            if let Ok(rules) = parse_rule(&text) {
                prop_assert!(!rules.is_empty());
                for rule in &rules {
                    prop_assert!(port_of(&rule.listen).is_ok());
                    for target in &rule.targets {
                        prop_assert!(port_of(&target.address).is_ok_and(|port| port > 0));
                        prop_assert!((1..=MOST_WEIGHT).contains(&target.weight));
                    }
                }
            }
        }

        #[test]
        fn a_range_has_each_of_its_ports_once(first in 1..=65_535u16, more in 0..300u16, to in 1..65_000u16) {
            let last = first.saturating_add(more);
            let count = last - first + 1;
            let text = format!("127.0.0.1:{first}-{last}=127.0.0.1:{to}-{}", to + (count - 1));
            let rules = parse_rule(&text).unwrap();
            prop_assert_eq!(rules.len(), usize::from(count));
            for (offset, rule) in (0..).zip(&rules) {
                prop_assert_eq!(port_of(&rule.listen), Ok(first + offset));
                prop_assert_eq!(port_of(&rule.targets[0].address), Ok(to + offset));
            }
        }
    }
}
