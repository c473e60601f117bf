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

/// Tries every target once that is not down, within the rule's time. What is left of it is shared
/// among those left, so that one that is silent does not take it all. Those for which none is left are
/// not tried, and nothing is held against them. One worker then waits for both, the target and
/// `beside`, the client.
pub async fn connect(
    control: &Control,
    mapping: &Mapping,
    client: IpAddr,
    beside: Option<&TcpStream>,
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
        let left_of_time = settings.connect_timeout.saturating_sub(began.elapsed());
        if left_of_time.is_zero() {
            failure.state = state::CONNECT_TIMEOUT;
            break;
        }
        // The one picked may be down by now, and is tried all the same.
        let time = left_of_time / mapping.targets.left(&tried).max(1) as u32;
        failure.retries = tried.len();
        failure.target = Some(Arc::clone(target));
        tried.push(index);
        // Counted from now on, for those that choose by it.
        let open = target.counters.open();
        let error = match connect_to(control, &target.addresses(), time, beside).await {
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
    use std::net::TcpListener;

    use landfall::Runtime;

    use super::*;

    #[test]
    fn a_connection_to_itself_is_told_from_others() {
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let (own, listener) = (socket().unwrap(), TcpListener::bind("127.0.0.1:0"));
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

/// With a clock that is fine enough, and listeners that can be silent.
#[cfg(all(test, target_os = "linux"))]
mod tests_of_time {
    use std::net::{Ipv4Addr, TcpListener};

    use landfall::Runtime;

    use super::*;
    use crate::map::args::Settings;
    use crate::map::mapping::Rule;
    use crate::map::rule::parse_rule;
    use crate::map::test_settings;
    use crate::output::{Log, Messages, Verbosity};

    /// How a client fares that has so long to be connected to one of these. The targets come as they
    /// are found, for `prepare`.
    fn failure(
        targets: &[String],
        connect_timeout: Duration,
        prepare: impl Fn(usize, &Target, &Settings),
    ) -> (Failure, Vec<u64>) {
        let settings = Settings {
            connect_timeout,
            ..test_settings()
        };
        let text = format!("127.0.0.1:0={}", targets.join(","));
        let rule = Rule {
            name: String::from("test"),
            text: parse_rule(&text).unwrap().remove(0),
            settings,
        };
        let mapping = Mapping::new(rule, None).unwrap();
        for (index, target) in mapping.targets.iter().enumerate() {
            prepare(index, target, mapping.settings());
        }
        let messages = Log::start(Messages::new(Verbosity::Quiet)).unwrap();
        let control = Control::new(messages.clone(), messages, 1..=u16::MAX);
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let failure = Runtime::new()
            .unwrap()
            .block_on(connect(&control, &mapping, client, None))
            .unwrap_err();
        let failed = mapping.targets.iter();
        let failed = failed.map(|target| target.counters.read().failed_connects);
        (failure, failed.collect())
    }

    #[test]
    fn targets_for_which_no_time_is_left_are_not_tried() {
        let targets = [String::from("127.0.0.1:1"), String::from("127.0.0.1:2")];
        let (failure, failed) = failure(&targets, Duration::from_nanos(1), |_, _, _| {});
        assert!(failure.target.is_none(), "{failure:?}");
        assert_eq!(
            (failure.retries, failure.state),
            (0, state::CONNECT_TIMEOUT)
        );
        assert_eq!(failed, [0, 0]);
    }

    /// The system drops what comes for a listener whose queue is full.
    #[test]
    fn targets_that_are_down_have_no_share_of_the_time() {
        let full = TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&full).listen(0).unwrap();
        let silent = full.local_addr().unwrap();
        let _waiting: Vec<_> = (0..4)
            .map(|_| std::net::TcpStream::connect_timeout(&silent, Duration::from_millis(100)))
            .collect();
        let targets: Vec<_> = (1..5)
            .map(|port| format!("127.0.0.1:{port}"))
            .chain([silent.to_string()])
            .collect();
        let began = Instant::now();
        let time = Duration::from_millis(500);
        let (failure, failed) = failure(&targets, time, |index, target, settings| {
            for _ in 0..settings.check_fall {
                target.checked(index == 4, settings, || true);
            }
        });
        assert!(began.elapsed() >= time, "{:?}", began.elapsed());
        assert_eq!(
            (failure.retries, failure.state),
            (0, state::CONNECT_TIMEOUT)
        );
        assert_eq!(failed, [0, 0, 0, 0, 1]);
    }
}
