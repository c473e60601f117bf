//! What a lane keeps of each socket.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::driver::accept_stream::AcceptStream;
use crate::driver::direction::{Direction, Held};
use crate::driver::kind::SocketKind;
use crate::rare_queue::RareQueue;

#[derive(Default)]
pub(super) struct Socket {
    /// `None` once closed. A listener is shared with the accepts in progress.
    pub(super) fd: Option<Arc<OwnedFd>>,
    /// In place of a socket; `None` once closed.
    pub(super) file: Option<Arc<File>>,
    pub(super) kind: SocketKind,
    /// The last call of a kind did not find the system empty-handed: the next one may succeed. Set
    /// by an edge, cleared by a call that came back short, both with the lane locked, so that no
    /// edge between a call and its consequence is lost.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The end of the stream, an error, or what urgent data cut off waits behind the data. Its edge
    /// came with that of the data and comes only once, so a short receive does not mean that nothing is left.
    pub(super) ended: bool,
    /// Among the lane's sockets that may get on.
    pub(super) queued: bool,
    pub(super) closing: bool,
    /// What a send has failed with, on a stream: later ones end with it.
    pub(super) broken: Option<i32>,
    pub(super) receives: Direction,
    /// Sends, and what must keep its order with them: connects and shutdowns.
    pub(super) sends: Direction,
    /// Streams of accepts on a listener; each in turn takes a connection.
    pub(super) accepts: RareQueue<Arc<AcceptStream>>,
    pub(super) held: Held,
}

impl Socket {
    pub(super) fn new(fd: Arc<OwnedFd>, kind: SocketKind) -> Self {
        Socket {
            fd: Some(fd),
            kind,
            // An edge says when there is something to receive, the first one soon after the socket
            // was registered. Sending is worth an attempt at once.
            readable: false,
            writable: true,
            ..Socket::default()
        }
    }
}
