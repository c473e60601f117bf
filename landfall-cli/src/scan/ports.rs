//! Ports as nmap's `-p` takes them: `22,80`, `1-1024`, `-`, `60000-`, `http*`, `T:443`.

use std::ops::RangeInclusive;

use super::top;
use crate::system::services::Services;

/// A set of ports. Port 0 is never in it: nobody can listen there.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet {
    /// A bit for each port.
    bits: Box<[u64; 1024]>,
}

impl PortSet {
    /// No port at all.
    pub fn new() -> Self {
        Self {
            bits: Box::new([0; 1024]),
        }
    }

    /// Reads a list. Names are looked up among the services.
    pub fn parse(text: &str, services: &Services) -> Result<Self, String> {
        let mut set = Self::new();
        for part in text.split(',') {
            set.add_part(part.trim(), services)?;
        }
        Ok(set)
    }

    /// One part of a list, perhaps with its protocol before it.
    fn add_part(&mut self, part: &str, services: &Services) -> Result<(), String> {
        let part = match part.split_once(':') {
            None => part,
            Some(("T" | "t", part)) => part,
            Some((protocol @ ("U" | "u" | "S" | "s" | "P" | "p"), _)) => {
                return Err(format!(
                    "`{protocol}:` asks for more than TCP: this is a connect scan, which tells \
                     nothing of UDP, SCTP or other protocols; give TCP ports only"
                ));
            }
            Some((protocol, _)) => {
                return Err(format!(
                    "`{protocol}:` is no protocol: only `T:` (TCP) can be scanned"
                ));
            }
        };
        if part == "top" {
            self.extend(top::ports(top::MOST));
            return Ok(());
        }
        if let Some(inner) = part.strip_prefix('[') {
            let range = inner.strip_suffix(']').ok_or_else(|| not_ports(part))?;
            let range = parse_range(range).ok_or_else(|| not_ports(part))??;
            self.extend(services.ports().filter(|port| range.contains(port)));
            return Ok(());
        }
        match parse_range(part) {
            Some(range) => self.extend(range?),
            None => self.add_named(part, services)?,
        }
        Ok(())
    }

    fn add_named(&mut self, name: &str, services: &Services) -> Result<(), String> {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(not_ports(name));
        }
        let before = self.len();
        let mut is_known = false;
        for port in services.matching(name) {
            is_known = true;
            self.extend([port]);
        }
        if is_known || self.len() > before {
            return Ok(());
        }
        Err(format!(
            "no TCP service is called `{name}` in {}: give the number of its port",
            Services::path().display()
        ))
    }

    fn extend(&mut self, ports: impl IntoIterator<Item = u16>) {
        for port in ports.into_iter().filter(|&port| port != 0) {
            self.bits[usize::from(port) / 64] |= 1 << (port % 64);
        }
    }

    /// Takes the ports of another set away.
    pub fn remove(&mut self, other: &Self) {
        for (bits, others) in self.bits.iter_mut().zip(other.bits.iter()) {
            *bits &= !others;
        }
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.bits[usize::from(port) / 64] & (1 << (port % 64)) != 0
    }

    /// How many ports there are.
    pub fn len(&self) -> u32 {
        self.bits.iter().map(|bits| bits.count_ones()).sum()
    }

    /// The ports, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (1..=u16::MAX).filter(|&port| self.contains(port))
    }

    /// The set in the shortest form that can be read again: `22,80-90`.
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut ports = self.iter().peekable();
        while let Some(first) = ports.next() {
            let mut last = first;
            while let Some(next) = ports.next_if(|&next| next == last + 1) {
                last = next;
            }
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&first.to_string());
            if last > first {
                text.push_str(&format!("-{last}"));
            }
        }
        text
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::new();
        set.extend(ports);
        set
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

/// Reads a number, or a range whose ends may be left out. `None`: it is neither, so a name.
fn parse_range(text: &str) -> Option<Result<RangeInclusive<u16>, String>> {
    let is_numeric = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'-');
    if text.is_empty() || !is_numeric {
        return None;
    }
    let (first, last) = match text.split_once('-') {
        None => (text, text),
        Some(("", "")) => ("1", "65535"),
        Some(("", last)) => ("1", last),
        Some((first, "")) => (first, "65535"),
        Some(ends) => ends,
    };
    Some(read_ends(first, last).map_err(|problem| format!("`{text}`: {problem}")))
}

fn read_ends(first: &str, last: &str) -> Result<RangeInclusive<u16>, String> {
    let read = |text: &str| match text.parse::<u16>() {
        Ok(0) => Err(String::from("nobody can listen on port 0")),
        Ok(port) => Ok(port),
        Err(_) if text.contains('-') => Err(String::from("a range has two ends, as in 1-1024")),
        Err(_) => Err(format!("{text} is more than 65535, the highest port")),
    };
    let (first, last) = (read(first)?, read(last)?);
    match first <= last {
        true => Ok(first..=last),
        false => Err(format!(
            "the range ends before it begins; write {last}-{first}"
        )),
    }
}

fn not_ports(text: &str) -> String {
    format!("`{text}` is not a list of ports: write 22,80,443 or 1-1024, - for all, or http*")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Services {
        Services::parse("ssh 22/tcp\nhttp 80/tcp www\nhttp-alt 8080/tcp\nx11-1 6001/tcp\n")
    }

    fn read(text: &str) -> Result<String, String> {
        PortSet::parse(text, &services()).map(|set| set.show())
    }

    #[test]
    fn lists_and_ranges_are_read_as_nmap_reads_them() {
        for (text, ports) in [
            ("22", "22"),
            ("80,22,22", "22,80"),
            ("1-1024,8080", "1-1024,8080"),
            ("-", "1-65535"),
            ("-100", "1-100"),
            ("60000-", "60000-65535"),
            ("T:80,443", "80,443"),
            ("20-22, 21-25", "20-25"),
        ] {
            assert_eq!(read(text), Ok(String::from(ports)), "{text}");
        }
    }

    #[test]
    fn names_and_patterns_are_looked_up() {
        assert_eq!(read("ssh,www"), Ok(String::from("22,80")));
        assert_eq!(read("http*"), Ok(String::from("80,8080")));
        assert_eq!(read("x11-1"), Ok(String::from("6001")));
        assert_eq!(read("[-1024]"), Ok(String::from("22,80")));
        assert!(read("gopher").unwrap_err().contains("`gopher`"));
    }

    #[test]
    fn what_is_not_tcp_is_refused_with_the_reason() {
        for text in ["U:53", "T:80,U:53", "S:9"] {
            assert!(read(text).unwrap_err().contains("connect scan"), "{text}");
        }
        assert!(read("X:1").unwrap_err().contains("only `T:`"));
    }

    #[test]
    fn mistakes_are_told_apart() {
        for (text, part) in [
            ("0", "port 0"),
            ("0-5", "port 0"),
            ("65536", "65535"),
            ("99999999999999999999", "65535"),
            ("90-80", "write 80-90"),
            ("1-2-3", "two ends"),
            ("", "not a list"),
            ("22,,80", "not a list"),
            ("22 80", "not a list"),
            ("[1-5", "not a list"),
            ("--", "two ends"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn the_word_top_is_the_whole_list() {
        let set = PortSet::parse("top", &services()).unwrap();
        assert_eq!(set.len(), top::MOST);
    }
}
