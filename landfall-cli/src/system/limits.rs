//! Limits of this machine, checked before the work starts: what is needed, and what there is.

use std::fmt;
#[cfg(unix)]
use std::fs;
#[cfg(unix)]
use std::path::Path;

use landfall::net::MOST_READY;
#[cfg(unix)]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[cfg(unix)]
use super::process::kib_field;
use crate::exit::Failure;
use crate::units::{grouped, show_bytes};

/// Clients that a listener takes in before there is room for them, and some more until it has stopped.
pub const MOST_WAITING: u64 = MOST_READY as u64 + 8;

/// Sockets of those clients, of so many listeners. Of many, only some have as many clients waiting: half of
/// the sockets that there are is enough for them.
pub fn waiting(listeners: u64, sockets: u64) -> u64 {
    (listeners * MOST_WAITING).min(MOST_WAITING.max(sockets / 2))
}

/// Something there is too little of.
#[derive(Debug, PartialEq, Eq)]
pub struct Shortage {
    resource: &'static str,
    needed: String,
    available: String,
    /// Where that comes from; may be empty.
    reason: String,
    remedy: String,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resource,
            needed,
            available,
            reason,
            remedy,
        } = self;
        write!(f, "{resource}: {needed} needed, {available} available")?;
        if !reason.is_empty() {
            write!(f, " ({reason})")?;
        }
        write!(f, "; {remedy}")
    }
}

/// Refuses work for which something is too short, naming all of it.
pub fn refuse_if_short<const N: usize>(
    work: &str,
    checks: [Option<Shortage>; N],
) -> Result<(), Failure> {
    let shortages: Vec<String> = checks
        .iter()
        .flatten()
        .map(|shortage| format!("\n  {shortage}"))
        .collect();
    if shortages.is_empty() {
        return Ok(());
    }
    Err(Failure::local_limit(format!(
        "{work} is more than this machine allows{}",
        shortages.concat()
    )))
}

/// Compares a number of sockets with what this process can hold open.
pub fn check_sockets(needed: u64, capacity: u64, limit: u64) -> Option<Shortage> {
    (needed > capacity).then(|| Shortage {
        resource: "sockets",
        needed: grouped(needed),
        available: grouped(capacity),
        reason: whence(capacity, limit),
        remedy: String::from("raise the hard limit (`ulimit -Hn`), or ask for fewer connections"),
    })
}

/// Compares a number of descriptors with the limit on them.
pub fn check_descriptors(needed: u64, limit: u64) -> Option<Shortage> {
    (needed > limit).then(|| Shortage {
        resource: "descriptors",
        needed: grouped(needed),
        available: grouped(limit),
        reason: String::new(),
        remedy: String::from("raise the hard limit (`ulimit -Hn`), or listen on fewer ports"),
    })
}

/// How the capacity of a port follows from the limit on descriptors.
fn whence(capacity: u64, limit: u64) -> String {
    let limit_text = grouped(limit);
    match capacity.checked_div(limit) {
        // Tables in the system, each bounded by the limit by itself.
        Some(lanes @ 2..) => {
            format!(
                "{lanes} lanes of the port, each with as many as the descriptor limit of {limit_text}"
            )
        }
        _ if capacity < limit => {
            format!("the descriptor limit of {limit_text}, less what else needs one")
        }
        _ => format!("the descriptor limit is {limit_text}"),
    }
}

/// Compares a number of connections with the local ports their source addresses have.
pub fn check_ports(
    needed: u64,
    capacity: u64,
    range: &std::ops::RangeInclusive<u16>,
) -> Option<Shortage> {
    (needed > capacity).then(|| Shortage {
        resource: "local ports",
        needed: grouped(needed),
        available: grouped(capacity),
        reason: format!(
            "net.ipv4.ip_local_port_range is {} to {}",
            range.start(),
            range.end()
        ),
        remedy: String::from(
            "give more addresses of this machine with --source-ip, or widen the range",
        ),
    })
}

/// Compares an estimate of memory with what the system says it can give.
pub fn check_memory(needed: u64, available: Option<u64>) -> Option<Shortage> {
    available
        .filter(|&available| needed > available)
        .map(|available| Shortage {
            resource: "memory",
            needed: format!("about {}", show_bytes(needed)),
            available: show_bytes(available),
            reason: String::new(),
            remedy: String::from("ask for fewer connections"),
        })
}

#[cfg(unix)]
/// Raises the soft limit on descriptors to the hard one, which needs no privilege, and returns what
/// it is then.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None stands for no limit.
    let soft = current.unwrap_or(u64::MAX);
    let hard = maximum.unwrap_or(u64::MAX);
    let raised = soft < hard
        && setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )
        .is_ok();
    if raised { hard } else { soft }
}

#[cfg(unix)]
/// The memory that can be taken without swapping: what the system has, within the bound of this
/// process's control group. `None` if the system does not say.
pub fn available_memory() -> Option<u64> {
    let system = kib_field("/proc/meminfo", "MemAvailable:").ok();
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| group_headroom(&text));
    match (system, group) {
        (Some(system), Some(group)) => Some(system.min(group)),
        (system, group) => system.or(group),
    }
}

#[cfg(unix)]
/// What the control group (version 2, the line `0::/path`) leaves: its bound less what it uses.
fn group_headroom(membership: &str) -> Option<u64> {
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new("/sys/fs/cgroup").join(path);
    let read = |file: &str| {
        fs::read_to_string(group.join(file))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    // `memory.max` reads `max` when there is no bound.
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

/// There is no limit on sockets of one process.
#[cfg(windows)]
pub fn raise_descriptor_limit() -> u64 {
    u64::MAX
}

/// Memory is not counted beforehand: a pagefile makes room.
#[cfg(windows)]
pub fn available_memory() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_is_no_shortage() {
        assert_eq!(check_sockets(20_000, 20_000, 20_000), None);
        assert_eq!(check_ports(28_232, 28_232, &(32_768..=60_999)), None);
        assert_eq!(check_memory(1 << 30, Some(1 << 30)), None);
        assert_eq!(check_memory(u64::MAX, None), None);
    }

    #[test]
    fn a_shortage_names_what_is_needed_what_there_is_and_what_to_do() {
        let sockets = check_sockets(50_000, 40_000, 20_000).unwrap().to_string();
        assert_eq!(
            sockets,
            "sockets: 50,000 needed, 40,000 available (2 lanes of the port, each with as many as \
             the descriptor limit of 20,000); raise the hard limit (`ulimit -Hn`), or ask for \
             fewer connections"
        );
        let of_readiness = check_sockets(20_000, 19_936, 20_000).unwrap().to_string();
        assert!(
            of_readiness
                .contains("19,936 available (the descriptor limit of 20,000, less what else"),
            "{of_readiness}"
        );
        let one_lane = check_sockets(20_001, 20_000, 20_000).unwrap().to_string();
        assert!(
            one_lane.contains("20,000 available (the descriptor limit is 20,000)"),
            "{one_lane}"
        );
        let ports = check_ports(30_000, 28_232, &(32_768..=60_999))
            .unwrap()
            .to_string();
        assert!(
            ports.contains("30,000 needed")
                && ports.contains("32768 to 60999")
                && ports.contains("--source-ip")
        );
        let memory = check_memory(3 << 30, Some(2 << 30)).unwrap().to_string();
        assert!(
            memory.contains("about 3.00 GiB needed, 2.00 GiB available"),
            "{memory}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_descriptor_limit_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise_descriptor_limit(), hard);
        assert_eq!(
            getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            hard
        );
    }

    #[cfg(unix)]
    #[test]
    fn this_machine_says_what_memory_it_has() {
        assert!(available_memory().unwrap() > 1 << 20);
    }
}
