//! What can be associated with a port.

use std::fs::File;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use socket2::Socket;

use super::accepted::Accepted;
use crate::driver::Origin;

/// A socket or file on its way into a port: an ordinary one of the standard library (on Unix its
/// Unix sockets too), a socket made with `socket2`, or a connection that the port accepted.
///
/// On Windows a file must have been opened with `FILE_FLAG_OVERLAPPED` (0x4000_0000, by
/// `OpenOptionsExt::custom_flags`), or the port refuses it; [`fs::options`](crate::fs::options) sees
/// to that.
#[derive(Debug)]
pub struct Source(pub(crate) SourceKind);

impl Source {
    /// A new socket of TCP in its blocking mode, which is to be connected.
    pub(crate) fn new_tcp(socket: Socket) -> Self {
        Source(SourceKind::Socket(socket, Origin::NewTcp))
    }

    /// The socket, to go on without the port; `None` for a connection that a port accepted, which
    /// stays with it, and for a file.
    pub fn into_socket(self) -> Option<Socket> {
        match self.0 {
            SourceKind::Socket(socket, _) => Some(socket),
            SourceKind::Accepted(_) | SourceKind::File(_) => None,
        }
    }

    /// The file, to go on without the port; `None` for a socket.
    pub fn into_file(self) -> Option<Arc<File>> {
        match self.0 {
            SourceKind::File(file) => Some(file),
            SourceKind::Socket(..) | SourceKind::Accepted(_) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) enum SourceKind {
    Socket(Socket, Origin),
    Accepted(Accepted),
    File(Arc<File>),
}

impl From<Socket> for Source {
    fn from(socket: Socket) -> Self {
        Source(SourceKind::Socket(socket, Origin::Program))
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

impl From<File> for Source {
    fn from(file: File) -> Self {
        Arc::new(file).into()
    }
}

impl From<Arc<File>> for Source {
    fn from(file: Arc<File>) -> Self {
        Source(SourceKind::File(file))
    }
}
