//! What is to be done, worked out from the command line and checked against the machine before
//! anything begins.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use super::args::LoadArgs;
use super::content::Content;
use super::report::Mode;
use super::schedule::{End, Pace, Schedule};
use crate::exit::Failure;
use crate::system::ports::{LocalPorts, Sources};
use crate::units::{Rate, port_of};

/// A load that can be run.
#[derive(Debug)]
pub struct Plan {
    /// Where to connect.
    pub target: SocketAddr,
    /// Where to connect from.
    pub sources: Sources,
    /// How many connections.
    pub connections: u32,
    /// When each message is sent.
    pub schedule: Schedule,
    /// The bytes of the messages.
    pub content: Content,
    /// The size of a message in bytes, at least 1.
    pub size: u64,
    /// What is done with answers.
    pub mode: Mode,
    /// The longest wait for anything the target does.
    pub timeout: Duration,
    /// How fast connects are begun.
    pub connect_rate: Option<Rate>,
    /// How many may be under way.
    pub max_connecting: u32,
}

impl Plan {
    /// Works out the plan.
    pub fn new(args: &LoadArgs, ports: &LocalPorts) -> Result<Self, Failure> {
        let target = resolve(&args.target, args.timeout)?;
        check_sources(target, &args.source_ip)?;
        let (content, size) = content_of(args)?;
        if args.timeout.is_zero() {
            return Err(Failure::usage(
                "--timeout 0s leaves the target no time at all: give it some, as in 10s",
            ));
        }
        Ok(Self {
            target,
            sources: Sources::choose(target.ip(), &args.source_ip, args.connections, ports),
            connections: args.connections,
            schedule: schedule_of(args),
            content,
            size,
            mode: match (args.discard, args.no_verify) {
                (true, _) => Mode::Discard,
                (false, true) => Mode::EchoUnverified,
                (false, false) => Mode::Echo,
            },
            timeout: args.timeout,
            connect_rate: args.connect_rate.0,
            max_connecting: args.max_connecting,
        })
    }
}

fn schedule_of(args: &LoadArgs) -> Schedule {
    let pace = match args.rate.0 {
        Some(rate) => Pace::Total(rate),
        None if args.interval.is_zero() => Pace::BackToBack,
        None => Pace::Every(args.interval),
    };
    let end = match args.duration.0 {
        Some(duration) => End::After(duration),
        None => End::Messages(args.messages),
    };
    Schedule {
        connections: args.connections,
        pace,
        end,
    }
}

fn content_of(args: &LoadArgs) -> Result<(Content, u64), Failure> {
    if let Some(message) = &args.message {
        let content = Content::from_argument(message)?;
        let size = match &content {
            Content::Text(text) => text.len() as u64,
            Content::Pattern { .. } => args.size,
        };
        return Ok((content, size));
    }
    if args.size == 0 {
        return Err(Failure::usage(
            "--size 0 would send nothing: a message has at least 1 byte",
        ));
    }
    // A seed of its own for every run, so that bytes left over from another one are not taken for
    // an answer.
    let seed = RandomState::new().hash_one(std::process::id());
    Ok((Content::Pattern { seed }, args.size))
}

/// Finds the address behind `HOST:PORT`. Of several, the first that lets itself be connected to, so
/// that `localhost` works wherever the target listens.
fn resolve(target: &str, timeout: Duration) -> Result<SocketAddr, Failure> {
    if port_of(target).map_err(Failure::usage)? == 0 {
        return Err(Failure::usage(format!(
            "`{target}`: nobody can listen on port 0"
        )));
    }
    let addresses: Vec<SocketAddr> = target
        .to_socket_addrs()
        .map_err(|error| {
            Failure::of_system(&format!("cannot find the address of {target}"), &error)
        })?
        .collect();
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, timeout).is_ok();
    let chosen = match addresses.as_slice() {
        [only] => Some(only),
        several => several.iter().find(answers).or(several.first()),
    };
    chosen
        .copied()
        .ok_or_else(|| Failure::failed(format!("{target} has no address")))
}

/// Refuses source addresses that are not this machine's, or of another family than the target.
fn check_sources(target: SocketAddr, sources: &[IpAddr]) -> Result<(), Failure> {
    for source in sources {
        if source.is_ipv4() != target.is_ipv4() {
            return Err(Failure::usage(format!(
                "--source-ip {source} cannot reach {target}: one is IPv4, the other IPv6"
            )));
        }
        // A datagram socket, since that takes nothing from the ports of TCP.
        UdpSocket::bind((*source, 0)).map_err(|error| {
            Failure::usage(format!(
                "--source-ip {source} cannot be used: is it an address of this machine? ({error})"
            ))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    #[test]
    fn a_target_needs_a_host_and_a_port() {
        for wrong in ["localhost", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http"] {
            let refusal = resolve(wrong, TIMEOUT).unwrap_err().to_string();
            assert!(refusal.contains("HOST:PORT"), "{wrong}: {refusal}");
        }
        assert!(
            resolve("127.0.0.1:0", TIMEOUT)
                .unwrap_err()
                .to_string()
                .contains("port 0")
        );
        assert_eq!(
            resolve("127.0.0.1:7000", TIMEOUT).unwrap(),
            "127.0.0.1:7000".parse().unwrap()
        );
        assert_eq!(
            resolve("[::1]:7000", TIMEOUT).unwrap(),
            "[::1]:7000".parse().unwrap()
        );
    }

    #[test]
    fn a_name_leads_to_whichever_address_answers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = resolve(&format!("localhost:{port}"), TIMEOUT).unwrap();
        assert_eq!(address, listener.local_addr().unwrap());
    }

    #[test]
    fn a_source_must_be_of_this_machine_and_of_the_targets_family() {
        let target = "127.0.0.1:7000".parse().unwrap();
        let refusal = |source: &str| {
            check_sources(target, &[source.parse().unwrap()])
                .unwrap_err()
                .to_string()
        };
        // 192.0.2.0/24 is set apart for documentation (RFC 5737), so no machine has it.
        assert!(refusal("192.0.2.1").contains("address of this machine"));
        assert!(refusal("::1").contains("IPv6"));
        assert!(check_sources(target, &["127.0.0.2".parse().unwrap()]).is_ok());
    }
}
