//! A connection that an accept brought.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Shared;
use crate::buffer::Buffer;
use crate::driver::SocketRef;

/// A connection accepted by the port and not yet associated with a key.
///
/// [`CompletionPort::associate`](crate::port::CompletionPort::associate) makes a handle of it; it
/// stays with the port that accepted it. Dropped, it is closed.
pub struct Accepted {
    pub(crate) shared: Arc<Shared>,
    /// `None` once a handle has taken it over.
    pub(crate) socket: Option<SocketRef>,
    /// Known when the accept brought it.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) first_data: Option<Buffer>,
}

impl Accepted {
    /// The client's address. Free where the accept brought it, a few system calls otherwise.
    ///
    /// # Errors
    ///
    /// What the system answers: the client may be gone already.
    /// [`Unsupported`](std::io::ErrorKind::Unsupported) on a Unix socket; a
    /// [`Handle`](crate::port::Handle) of it tells.
    pub fn peer_addr(&self) -> std::io::Result<SocketAddr> {
        match self.peer {
            Some(peer) => Ok(peer),
            None => super::os::peer_addr(self.shared.driver.as_ref(), self.socket()),
        }
    }

    /// The address that the client connected to.
    ///
    /// Costs a few system calls when the listener is bound to the unspecified address; ask the
    /// listener's handle when it is bound to one address.
    ///
    /// # Errors
    ///
    /// What the system answers when asked for the name of the socket.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        super::os::local_addr(self.shared.driver.as_ref(), self.socket())
    }

    fn socket(&self) -> SocketRef {
        self.socket
            .expect("an accepted connection has a socket until it is associated")
    }

    /// The bytes that came with the connection, when the accept asked for them
    /// ([`Accept::first_data`](crate::port::Accept::first_data)).
    pub fn first_data(&mut self) -> Option<Buffer> {
        self.first_data.take()
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.shared.release(socket);
        }
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
