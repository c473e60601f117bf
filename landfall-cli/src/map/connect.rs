//! The way from a client to a target: one after the other, until one lets itself be connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall::net::{ConnectOptions, TcpStream};

use super::control::Control;
use super::log::state;
use super::mapping::Mapping;
use super::targets::{OpenGuard, Target};
use crate::system::errno;
use crate::system::ports::has_met_itself;

/// A target that has been connected to.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: TcpStream,
    /// The target.
    pub target: Arc<Target>,
    /// Counts the connection among its own.
    pub open: OpenGuard,
    /// Targets tried before.
    pub retries: usize,
}

/// No target has been connected to.
#[derive(Debug)]
pub struct Failure {
    /// The last one that was tried.
    pub target: Option<Arc<Target>>,
    /// How many were tried before that.
    pub retries: usize,
    /// How the connection ends.
    pub state: &'static str,
}

/// Tries every target once, within the rule's time. What is left of it is shared among those left,
/// so that one that is silent does not take it all. One worker then waits for both, the target and
/// `beside`, the client.
pub async fn connect(
    control: &Control,
    mapping: &Mapping,
    client: IpAddr,
    beside: &TcpStream,
) -> Result<Connected, Failure> {
    let settings = mapping.settings();
    let began = Instant::now();
    let mut tried = Vec::new();
    let mut failure = Failure {
        target: None,
        retries: 0,
        state: state::NO_TARGET,
    };
    while let Some((index, target)) = mapping.targets.pick(client, &tried) {
        let left = mapping.targets.count() - tried.len();
        let left_of_time = settings.connect_timeout.saturating_sub(began.elapsed());
        let time = left_of_time / left.max(1) as u32;
        failure.retries = tried.len();
        failure.target = Some(Arc::clone(target));
        tried.push(index);
        // Counted from now on, for those that choose by it.
        let open = target.counters.open();
        let error = match connect_to(control, &target.addresses(), time, Some(beside)).await {
            Ok(stream) => {
                let change = target.connected();
                control.tell(mapping, target, change, "a client got through");
                return Ok(Connected {
                    stream,
                    target: Arc::clone(target),
                    open,
                    retries: failure.retries,
                });
            }
            Err(error) => error,
        };
        if errno::code(&error).is_some_and(errno::is_local_limit) {
            // Not the target's fault. Another one may fare better: local ports, and addresses to connect
            // from, run out for one target at a time.
            control
                .messages
                .note(format_args!("no connection to {}: {error}", target.name));
            failure.state = state::NO_RESOURCE;
            continue;
        }
        failure.state = match error.kind() {
            io::ErrorKind::TimedOut => state::CONNECT_TIMEOUT,
            _ => state::NO_TARGET,
        };
        control.failed(mapping, target, &error);
    }
    Err(failure)
}

/// Connects to the first of the addresses that takes the connection.
pub async fn connect_to(
    control: &Control,
    addresses: &[SocketAddr],
    time: Duration,
    beside: Option<&TcpStream>,
) -> io::Result<TcpStream> {
    let options = ConnectOptions::new().nodelay(true).timeout(time);
    let stream = match beside {
        Some(other) => options.connect_beside(other, addresses).await?,
        None => options.connect(addresses).await?,
    };
    match can_meet_itself(control, addresses) && has_met_itself(&stream) {
        // Nobody listens there.
        true => Err(io::Error::from_raw_os_error(errno::CONNREFUSED)),
        false => Ok(stream),
    }
}

/// A connect to a port of this machine at which nobody listens may be given that very port, and so
/// be connected to itself.
fn can_meet_itself(control: &Control, addresses: &[SocketAddr]) -> bool {
    addresses
        .iter()
        .any(|address| control.local_ports.contains(&address.port()))
}

#[cfg(test)]
mod tests {
    use landfall::Runtime;

    use super::*;

    #[test]
    fn a_connection_to_itself_is_told_from_others() {
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let (own, listener) = (
            socket().unwrap(),
            std::net::TcpListener::bind("127.0.0.1:0"),
        );
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        own.bind(&any.into()).unwrap();
        // Bound, and connected to where it is bound: what a connect may come to by chance.
        own.connect(&own.local_addr().unwrap()).unwrap();
        let address = listener.as_ref().unwrap().local_addr().unwrap();
        let other = std::net::TcpStream::connect(address).unwrap();
        Runtime::new().unwrap().block_on(async {
            assert!(has_met_itself(&TcpStream::from_std(own.into()).unwrap()));
            assert!(!has_met_itself(&TcpStream::from_std(other).unwrap()));
        });
    }
}
