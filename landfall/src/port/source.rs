//! What can be associated with a port.

use std::net::{TcpListener, TcpStream, UdpSocket};

use socket2::Socket;

use super::accepted::Accepted;

/// A socket on its way into a port: an ordinary one of the standard library, one made with
/// `socket2`, or a connection that the port accepted.
#[derive(Debug)]
pub struct Source(pub(crate) SourceKind);

impl Source {
    /// The socket, to go on without the port; `None` for a connection that a port accepted, which
    /// stays with it.
    pub fn into_socket(self) -> Option<Socket> {
        match self.0 {
            SourceKind::Socket(socket) => Some(socket),
            SourceKind::Accepted(_) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) enum SourceKind {
    Socket(Socket),
    Accepted(Accepted),
}

impl From<Socket> for Source {
    fn from(socket: Socket) -> Self {
        Source(SourceKind::Socket(socket))
    }
}

impl From<TcpStream> for Source {
    fn from(socket: TcpStream) -> Self {
        Socket::from(socket).into()
    }
}

impl From<TcpListener> for Source {
    fn from(socket: TcpListener) -> Self {
        Socket::from(socket).into()
    }
}

impl From<UdpSocket> for Source {
    fn from(socket: UdpSocket) -> Self {
        Socket::from(socket).into()
    }
}

impl From<Accepted> for Source {
    fn from(accepted: Accepted) -> Self {
        Source(SourceKind::Accepted(accepted))
    }
}
