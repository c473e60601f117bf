//! The two ends of the connection that a proxy passes on.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// What the connection is made of that a proxy passes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    /// TCP, or a stream between Unix sockets.
    Stream,
    /// UDP, or datagrams between Unix sockets. Version 2 only.
    Datagram,
}

/// Whose connection it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Endpoints {
    /// The proxy's own, as for a health check: its ends are those of the connection itself. Version 2
    /// only.
    Local,
    /// The proxy does not say (`UNKNOWN`, `UNSPEC`): the connection's own ends have to do.
    Unknown,
    /// One over IPv4.
    V4 {
        /// What it is made of.
        transport: Transport,
        /// Where it comes from.
        source: SocketAddrV4,
        /// Where it was made to.
        destination: SocketAddrV4,
    },
    /// One over IPv6. Scope and flow label have no place in a header.
    V6 {
        /// What it is made of.
        transport: Transport,
        /// Where it comes from.
        source: SocketAddrV6,
        /// Where it was made to.
        destination: SocketAddrV6,
    },
    /// One between Unix sockets. Version 2 only.
    ///
    /// Each is a path, or a zero and an abstract name, of 108 bytes at most. A name's zeros at its end
    /// cannot be told from what fills the field up, and are not among them.
    Unix {
        /// What it is made of.
        transport: Transport,
        /// Where it comes from.
        source: Vec<u8>,
        /// Where it was made to.
        destination: Vec<u8>,
    },
}

impl Endpoints {
    /// A connection from `source` to `destination`.
    ///
    /// IPv4 addresses in the form that a socket for both families gives them (`::ffff:192.0.2.1`) are
    /// taken for what they are. If only one of the two is IPv4, it goes in that form.
    pub fn new(transport: Transport, source: SocketAddr, destination: SocketAddr) -> Self {
        match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Endpoints::V4 {
                transport,
                source: SocketAddrV4::new(from, source.port()),
                destination: SocketAddrV4::new(to, destination.port()),
            },
            (from, to) => Endpoints::V6 {
                transport,
                source: SocketAddrV6::new(in_ipv6(from), source.port(), 0, 0),
                destination: SocketAddrV6::new(in_ipv6(to), destination.port(), 0, 0),
            },
        }
    }

    /// Where the connection comes from, if that is told and is no Unix socket.
    pub fn source(&self) -> Option<SocketAddr> {
        match self {
            Endpoints::V4 { source, .. } => Some((*source).into()),
            Endpoints::V6 { source, .. } => Some((*source).into()),
            Endpoints::Local | Endpoints::Unknown | Endpoints::Unix { .. } => None,
        }
    }

    /// Where the connection was made to, if that is told and is no Unix socket.
    pub fn destination(&self) -> Option<SocketAddr> {
        match self {
            Endpoints::V4 { destination, .. } => Some((*destination).into()),
            Endpoints::V6 { destination, .. } => Some((*destination).into()),
            Endpoints::Local | Endpoints::Unknown | Endpoints::Unix { .. } => None,
        }
    }
}

fn in_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
