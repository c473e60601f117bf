//! The system's list of services: which name goes with which TCP port.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

/// The names of TCP services, by port. Of several for one port the first in the list counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    by_port: BTreeMap<u16, String>,
    /// Names and aliases, in lower case.
    by_name: BTreeMap<String, u16>,
}

impl Services {
    /// Reads the system's list: `/etc/services`, or the file of that form that Windows has.
    pub fn read() -> io::Result<Self> {
        // Comments may hold anything.
        fs::read(Self::path()).map(|text| Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Where the list is.
    pub fn path() -> PathBuf {
        if cfg!(windows) {
            let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
            PathBuf::from(root).join(r"System32\drivers\etc\services")
        } else {
            PathBuf::from("/etc/services")
        }
    }

    /// Reads lines of the form of services(5): `http 80/tcp www # comment`. What has another form
    /// is passed over, as the system does.
    pub fn parse(text: &str) -> Self {
        let mut services = Self::default();
        for line in text.lines() {
            services.add(line);
        }
        services
    }

    fn add(&mut self, line: &str) {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(place)) = (words.next(), words.next()) else {
            return;
        };
        let Some((port, "tcp")) = place.split_once('/') else {
            return;
        };
        let Ok(port) = port.parse() else {
            return;
        };
        self.by_port.entry(port).or_insert_with(|| name.to_owned());
        for name in std::iter::once(name).chain(words) {
            self.by_name
                .entry(name.to_ascii_lowercase())
                .or_insert(port);
        }
    }

    /// What the service on a port is called.
    pub fn name(&self, port: u16) -> Option<&str> {
        self.by_port.get(&port).map(String::as_str)
    }

    /// The ports that have a name.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.by_port.keys().copied()
    }

    /// The ports of the services whose name, or alias, fits a pattern: `*` stands for any
    /// characters, `?` for one, and case does not matter.
    pub fn matching(&self, pattern: &str) -> impl Iterator<Item = u16> {
        let pattern = pattern.to_ascii_lowercase();
        self.by_name
            .iter()
            .filter(move |(name, _)| fits(pattern.as_bytes(), name.as_bytes()))
            .map(|(_, port)| *port)
    }
}

/// Whether a text fits a pattern. On a mismatch only the last `*` has to take one character more,
/// so the time is bounded by the product of the lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last_star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else {
                    return false;
                };
                last_star = Some((star, taken + 1));
                p = star + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
# A comment
http\t80/tcp\twww\t# World-wide web
http 80/udp
http-alt 8080/tcp webcache
domain 53/tcp
domain 53/udp
nonsense
late 80/tcp
broken 99999/tcp
";

    #[test]
    fn the_first_name_of_a_port_counts_and_aliases_are_known() {
        let services = Services::parse(LIST);
        assert_eq!(services.name(80), Some("http"));
        assert_eq!(services.name(81), None);
        assert_eq!(services.ports().collect::<Vec<_>>(), [53, 80, 8080]);
        assert_eq!(services.matching("WWW").collect::<Vec<_>>(), [80]);
    }

    #[test]
    fn patterns_fit_as_in_a_shell() {
        let services = Services::parse(LIST);
        assert_eq!(services.matching("http*").collect::<Vec<_>>(), [80, 8080]);
        assert_eq!(services.matching("*main").collect::<Vec<_>>(), [53]);
        assert_eq!(services.matching("?ttp").collect::<Vec<_>>(), [80]);
        assert_eq!(services.matching("h*p*t").collect::<Vec<_>>(), [8080]);
        assert_eq!(services.matching("nobody").count(), 0);
        assert!(fits(b"**", b"") && !fits(b"?", b""));
    }
}
