//! One client's connection, from its coming to its line in the log.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use landfall::buffer::Buffer;
use landfall::net::TcpStream;
use landfall::net::relay::{RelayCounters, Start};

use super::access::{Refusal, SourceGuard, any_contains};
use super::connect::{Connected, connect};
use super::control::Control;
use super::log::{Line, state, state_of};
use super::mapping::Mapping;
use super::proxy::{Ends, read_header, with_header};
use super::room::Place;
use super::targets::{OpenGuard, Target};

/// A client's connection. Wherever it ends, it leaves its line in the log.
#[derive(Debug)]
pub struct Session {
    control: Arc<Control>,
    mapping: Arc<Mapping>,
    peer: SocketAddr,
    ends: Ends,
    came: SystemTime,
    began: Instant,
    target: Option<Arc<Target>>,
    connecting: Option<Duration>,
    retries: usize,
    relayed: Arc<RelayCounters>,
    datagrams: [u64; 2],
    state: &'static str,
    source: Option<SourceGuard>,
    /// Of the process and the rule.
    _open: [OpenGuard; 2],
    open_target: Option<OpenGuard>,
    /// Of a session of UDP.
    room: Option<Place>,
}

impl Session {
    /// Begins with a client that has come.
    pub fn begin(control: &Arc<Control>, mapping: Arc<Mapping>, peer: SocketAddr) -> Self {
        control.total.came();
        mapping.counters.came();
        Self {
            _open: [control.total.open(), mapping.counters.open()],
            control: Arc::clone(control),
            mapping,
            peer,
            ends: Ends {
                client: peer,
                destination: None,
            },
            came: SystemTime::now(),
            began: Instant::now(),
            target: None,
            connecting: None,
            retries: 0,
            relayed: Arc::default(),
            datagrams: [0, 0],
            state: state::KILLED_CONNECTING,
            source: None,
            open_target: None,
            room: None,
        }
    }

    /// Begins with a client that has connected, unless it is refused, which costs nothing else.
    pub fn admit(control: &Arc<Control>, mapping: Arc<Mapping>, peer: SocketAddr) -> Option<Self> {
        let mut session = Self::begin(control, mapping, peer);
        let settings = session.mapping.settings();
        let admitted = match settings.accept_proxy {
            // Whom it speaks for is seen later.
            true if any_contains(&settings.proxy_from, peer.ip()) => Ok(()),
            true => Err(Refusal::NoProxy),
            false => session.enter(peer.ip()),
        };
        match admitted {
            Ok(()) => Some(session),
            Err(refusal) => {
                session.refuse(&refusal);
                None
            }
        }
    }

    /// Applies what the rule says of clients.
    fn enter(&mut self, client: IpAddr) -> Result<(), Refusal> {
        self.source = Some(self.mapping.admit(client)?);
        Ok(())
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.state = match refusal {
            Refusal::NoHeaderInTime => state::HEADER_TIMEOUT,
            Refusal::LeftBeforeHeader => state::CLIENT_LEFT_BEFORE_HEADER,
            _ => state::REFUSED,
        };
        let (rule, client) = (&self.mapping.rule.name, self.ends.client);
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        self.control
            .messages
            .detail(format_args!("{rule} refuses {client}: {refusal}"));
        self.mapping.counters.refused();
        self.control.total.refused();
    }

    /// The client's datagrams go to a target.
    pub fn reach(&mut self, target: Arc<Target>, source: SourceGuard, room: Place) {
        target.counters.came();
        self.open_target = Some(target.counters.open());
        self.target = Some(target);
        self.connecting = Some(Duration::ZERO);
        self.source = Some(source);
        self.room = Some(room);
        self.state = state::KILLED;
    }

    /// How it ends.
    pub fn end(&mut self, state: &'static str) {
        self.state = state;
    }

    /// The target is not there.
    pub fn server_failed(&self, target: &Target, reason: &io::Error) {
        self.control.failed(&self.mapping, target, reason);
    }

    /// Bytes of datagrams that have gone to the target, and to the client.
    pub fn passed_datagrams(&mut self, to_server: u64, to_client: u64) {
        self.datagrams = [to_server, to_client];
    }

    /// Serves the client.
    pub async fn serve(mut self, client: TcpStream) {
        let Some((client, first)) = self.identify(client).await else {
            return;
        };
        let Some(server) = self.connect(&client).await else {
            return;
        };
        self.relay(client, first, server).await;
    }

    /// Reads who the client is, if a proxy is to say so.
    async fn identify(&mut self, client: TcpStream) -> Option<(TcpStream, Buffer)> {
        if !self.mapping.settings().accept_proxy {
            return Some((client, Buffer::default()));
        }
        let announced = match read_header(client, self.peer, self.mapping.settings()).await {
            Ok(announced) => {
                self.ends = announced.ends;
                let entered = self.enter(self.ends.client.ip());
                entered.map(|()| (announced.stream, announced.first))
            }
            Err(refusal) => Err(refusal),
        };
        announced.map_err(|refusal| self.refuse(&refusal)).ok()
    }

    async fn connect(&mut self, client: &TcpStream) -> Option<TcpStream> {
        let source = self.ends.client.ip();
        let began = Instant::now();
        match connect(&self.control, &self.mapping, source, Some(client)).await {
            Ok(connected) => {
                let Connected {
                    stream,
                    target,
                    open,
                    retries,
                } = connected;
                target.counters.came();
                self.connecting = Some(began.elapsed());
                self.target = Some(target);
                self.open_target = Some(open);
                self.retries = retries;
                Some(stream)
            }
            Err(failure) => {
                self.target = failure.target;
                self.retries = failure.retries;
                self.state = failure.state;
                None
            }
        }
    }

    async fn relay(&mut self, client: TcpStream, first: Buffer, server: TcpStream) {
        self.state = state::KILLED;
        let settings = self.mapping.settings();
        let Ok(to_server) = with_header(settings.send_proxy, self.ends, &client, first) else {
            // It has no address any more.
            self.state = state::CLIENT_CUT;
            return;
        };
        let relay = self
            .control
            .relay
            .clone()
            .zero_copy(settings.zero_copy.for_relay())
            .idle_timeout(settings.idle_timeout.0)
            .half_close_timeout(settings.half_close_timeout.0);
        let start = Start {
            to_server,
            counters: Arc::clone(&self.relayed),
            ..Start::default()
        };
        let relayed = relay.run_from(start, client, server).await;
        self.state = state_of(&relayed.end, relayed.first_end);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let to_server = self.relayed.to_server() + self.datagrams[0];
        let to_client = self.relayed.to_client() + self.datagrams[1];
        self.control
            .zero_copied
            .fetch_add(self.relayed.spliced(), Ordering::Relaxed);
        let target = self.target.as_deref();
        for counters in [&self.control.total, &self.mapping.counters]
            .into_iter()
            .chain(target.map(|target| &target.counters))
        {
            counters.passed(to_server, to_client);
        }
        drop(self.open_target.take());
        // Whoever reads the line finds its place free.
        drop((self.room.take(), self.source.take()));
        let rule = self.mapping.counters.read().active;
        let line = Line {
            client: self.ends.client,
            came: self.came,
            rule: &self.mapping.rule.name,
            target: target.map(|target| target.name.as_str()),
            connecting: self.connecting,
            total: self.began.elapsed(),
            bytes: to_client,
            state: self.state,
            open: [
                self.control.total.read().active,
                rule,
                rule.saturating_sub(1),
                target.map_or(0, |target| target.counters.read().active),
            ],
            retries: self.retries,
        };
        self.control.log.note(line);
    }
}
