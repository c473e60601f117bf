//! The hosts of a scan: what the targets stand for, less what is excluded.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use super::args::ScanArgs;
use super::targets::{Addresses, Target, words_of_list};
use crate::exit::{Exit, Failure};
use crate::output::Messages;

/// The longest list of targets that is read, in bytes.
const MOST_LIST: u64 = 64 << 20;

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its address.
    pub address: IpAddr,
    /// The name it was given by.
    pub name: Option<Arc<str>>,
    /// Whether it was asked for by itself, not as one of many.
    pub is_single: bool,
}

/// All hosts. Those of a block or range are not kept one by one.
#[derive(Debug, Default)]
pub struct Hosts {
    wanted: Vec<Wanted>,
    excluded: Vec<Addresses>,
    /// Where single addresses stand first among the wanted.
    singles: HashMap<IpAddr, usize>,
    /// Where blocks and ranges stand.
    many: Vec<usize>,
    /// How many names have no address.
    pub unknown_names: u32,
}

#[derive(Debug)]
struct Wanted {
    addresses: Addresses,
    name: Option<Arc<str>>,
}

impl Hosts {
    /// Reads the targets and looks names up, each once. A name without an address is told, and
    /// passed over.
    pub fn find(args: &ScanArgs, messages: Messages) -> Result<Self, Failure> {
        let mut hosts = Self::default();
        for text in all_words(&args.targets, &args.input)? {
            let target = Target::parse(&text).map_err(Failure::usage)?;
            let found = resolve(&target, args.ipv6).and_then(|found| of_family(found, &text, args));
            match found {
                Ok(found) => {
                    found.note_others(&text, messages);
                    hosts.add(found.addresses, &target);
                }
                Err(problem) => {
                    hosts.unknown_names += 1;
                    Messages::error(problem);
                }
            }
        }
        for text in all_words(&args.exclude, &args.exclude_file)? {
            let target = Target::parse(&text)
                .map_err(|problem| Failure::usage(format!("--exclude: {problem}")))?;
            // To scan what was to be left out is worse than not to scan.
            let found = resolve(&target, args.ipv6)
                .map_err(|problem| Failure::failed(format!("--exclude: {problem}")))?;
            hosts.excluded.push(found.addresses);
        }
        match (hosts.wanted.is_empty(), hosts.unknown_names) {
            (false, _) => Ok(hosts),
            (true, 0) => Err(Failure::usage(
                "nothing to scan: name a target, as in `landfall scan localhost`",
            )),
            (true, _) => Err(Failure::failed(
                "nothing to scan: no target has an address that is wanted",
            )),
        }
    }

    fn add(&mut self, addresses: Addresses, target: &Target) {
        let place = self.wanted.len();
        match addresses {
            Addresses::One(address) => {
                self.singles.entry(address).or_insert(place);
            }
            Addresses::Block { .. } | Addresses::Octets(_) => self.many.push(place),
        }
        let name = match target {
            Target::Name(name, None) => Some(name.as_str().into()),
            Target::Name(_, Some(_)) | Target::Addresses(_) => None,
        };
        self.wanted.push(Wanted { addresses, name });
    }

    /// How many there are, those counted that are excluded or there twice.
    pub fn most(&self) -> u64 {
        self.wanted
            .iter()
            .map(|wanted| wanted.addresses.len())
            .fold(0, u64::saturating_add)
    }

    /// The hosts in the order of the targets, each once; `None` for one to be left out.
    pub fn iter(&self) -> impl Iterator<Item = Option<Host>> + '_ {
        self.wanted
            .iter()
            .enumerate()
            .flat_map(move |(place, wanted)| {
                (0..wanted.addresses.len()).map(move |index| {
                    let address = wanted.addresses.nth(index)?;
                    (!self.is_left_out(place, address)).then(|| Host {
                        address,
                        name: wanted.name.clone(),
                        is_single: matches!(wanted.addresses, Addresses::One(_)),
                    })
                })
            })
    }

    /// Whether an address of the target at this place is excluded, or was one of an earlier target.
    fn is_left_out(&self, place: usize, address: IpAddr) -> bool {
        let came_alone = self
            .singles
            .get(&address)
            .is_some_and(|&first| first < place);
        let came_with_others = self
            .many
            .iter()
            .take_while(|&&many| many < place)
            .any(|&many| self.wanted[many].addresses.contains(address));
        came_alone
            || came_with_others
            || self
                .excluded
                .iter()
                .any(|excluded| excluded.contains(address))
    }
}

/// The addresses behind a target.
struct Found {
    addresses: Addresses,
    /// Others that its name has.
    others: Vec<IpAddr>,
}

impl Found {
    fn note_others(&self, text: &str, messages: Messages) {
        let others: Vec<_> = self.others.iter().map(IpAddr::to_string).collect();
        if let (Some(first), false) = (self.addresses.nth(0), others.is_empty()) {
            messages.note(format_args!(
                "{text} is scanned at {first}; it has other addresses: {}",
                others.join(", ")
            ));
        }
    }
}

/// Finds the addresses behind a target. Of several for a name the first is taken, as by nmap.
fn resolve(target: &Target, prefers_ipv6: bool) -> Result<Found, String> {
    let (name, bits) = match target {
        Target::Addresses(addresses) => {
            return Ok(Found {
                addresses: addresses.clone(),
                others: Vec::new(),
            });
        }
        Target::Name(name, bits) => (name, *bits),
    };
    let mut others: Vec<IpAddr> = (name.as_str(), 0)
        .to_socket_addrs()
        .map_err(|error| format!("cannot find the address of {name}: {error}"))?
        .map(|address| address.ip())
        .collect();
    let first = others
        .iter()
        .find(|address| address.is_ipv6() == prefers_ipv6)
        .or(others.first())
        .copied()
        .ok_or_else(|| format!("{name} has no address"))?;
    others.dedup();
    others.retain(|&address| address != first);
    let addresses =
        Addresses::block(first, bits).map_err(|problem| format!("{name}: {problem}"))?;
    Ok(Found { addresses, others })
}

/// Refuses addresses of another family than the flags ask for.
fn of_family(found: Found, text: &str, args: &ScanArgs) -> Result<Found, String> {
    let (is_unwanted, wanted, flag) = match found.addresses.is_ipv6() {
        true => (args.ipv4, "IPv4", "-4"),
        false => (args.ipv6, "IPv6", "-6"),
    };
    match is_unwanted {
        true => Err(format!(
            "{text} resolves, but not to an {wanted} address; leave {flag} out to scan it"
        )),
        false => Ok(found),
    }
}

/// The targets of the command line and of files.
fn all_words(given: &[String], files: &[impl AsRef<Path>]) -> Result<Vec<String>, Failure> {
    let mut words: Vec<String> = given
        .iter()
        .flat_map(|text| text.split_ascii_whitespace())
        .map(str::to_owned)
        .collect();
    for path in files {
        let text = read_list(path.as_ref())?;
        words.extend(words_of_list(&text).map(str::to_owned));
    }
    Ok(words)
}

fn read_list(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().take(MOST_LIST + 1).read_to_string(&mut text),
        false => {
            fs::File::open(path).and_then(|file| file.take(MOST_LIST + 1).read_to_string(&mut text))
        }
    };
    let path = path.display();
    match read {
        Ok(length) if length as u64 > MOST_LIST => Err(Failure::usage(format!(
            "the list of targets {path} is longer than {} MiB",
            MOST_LIST >> 20
        ))),
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::new(
            match Exit::of_system(&error) {
                Exit::Failed => Exit::Usage,
                exit => exit,
            },
            format!("cannot read targets from {path}: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(wanted: &[&str], excluded: &[&str]) -> Hosts {
        let addresses = |text: &&str| match Target::parse(text).unwrap() {
            Target::Addresses(addresses) => addresses,
            Target::Name(name, _) => panic!("{name} is a name"),
        };
        let mut hosts = Hosts::default();
        for text in wanted {
            hosts.add(addresses(text), &Target::parse(text).unwrap());
        }
        hosts.excluded = excluded.iter().map(addresses).collect();
        hosts
    }

    fn listed(hosts: &Hosts) -> Vec<String> {
        hosts
            .iter()
            .flatten()
            .map(|host| host.address.to_string())
            .collect()
    }

    #[test]
    fn what_is_excluded_is_left_out() {
        let hosts = hosts(&["10.0.0.0/29"], &["10.0.0.0-3", "10.0.0.7", "10.0.0.5/32"]);
        assert_eq!(listed(&hosts), ["10.0.0.4", "10.0.0.6"]);
        assert_eq!(hosts.most(), 8);
    }

    #[test]
    fn what_several_targets_stand_for_comes_once() {
        let hosts = hosts(&["10.0.0.1", "10.0.0.0/30", "10.0.0.1", "10.0.0.3-4"], &[]);
        assert_eq!(
            listed(&hosts),
            ["10.0.0.1", "10.0.0.0", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
        );
    }
}
