//! The other ends of the connections, which belong to the test.

use std::collections::VecDeque;
use std::sync::Arc;

use super::socket::Role;
use super::{Shared, State};
use crate::port::CompletionKind;

/// One connection, as the network sees it.
#[derive(Default)]
pub(super) struct Connection {
    pub(super) to_port: Stream,
    pub(super) to_peer: Stream,
    /// Cut. What is on its way to the port may or may not still come.
    pub(super) reset: bool,
    /// The port's side has been told; it sees an ordinary end from then on.
    pub(super) reset_told: bool,
    /// The port's side is closed: what comes is answered by a reset.
    pub(super) port_closed: bool,
    /// Likewise the peer's.
    pub(super) peer_closed: bool,
}

/// One direction.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) bytes: VecDeque<u8>,
    pub(super) ended: bool,
    /// Bytes that ever went in, and that came out.
    pub(super) pushed: usize,
    pub(super) pulled: usize,
}

impl Stream {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.pushed += bytes.len();
    }

    pub(super) fn pull(&mut self, most: usize) -> Vec<u8> {
        let count = most.min(self.bytes.len());
        self.pulled += count;
        self.bytes.drain(..count).collect()
    }
}

/// How far a peer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// So many bytes.
    Bytes(usize),
    /// The other side has ended its stream, in order.
    Ended,
    /// The connection has been cut.
    Cut,
}

/// What a test sees of a simulation. Clones are the same.
#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

impl Network {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Network(shared)
    }

    /// Has the system do one of the things that it can do now; `false`: there is none.
    pub(crate) fn advance(&self) -> bool {
        self.0.locked(|state| state.advance(&self.0.buffers))
    }

    /// Fails the next operation of a kind that gets on.
    pub(crate) fn fail_next(&self, kind: CompletionKind, code: i32) {
        self.0.locked(|state| state.commanded.push((kind, code)));
    }

    /// Refuses the next submissions for want of a place in the queue.
    pub(crate) fn refuse_next(&self, count: usize) {
        self.0.locked(|state| state.to_refuse += count);
    }

    /// Has pooled memory run out, or come back.
    pub(crate) fn starve(&self, starved: bool) {
        self.0.locked(|state| state.starved = starved);
    }

    /// A connection to one of the listeners, to be accepted; `None` while there is none.
    pub(crate) fn connect(&self, any: usize) -> Option<usize> {
        self.0.locked(|state| {
            let sockets = state.sockets.iter_mut().filter(|(_, s)| !s.closing);
            let mut backlogs: Vec<_> = sockets
                .filter_map(|(_, socket)| match &mut socket.role {
                    Role::Listener(backlog) => Some(backlog),
                    _ => None,
                })
                .collect();
            let chosen = any.checked_rem(backlogs.len())?;
            let backlog = &mut backlogs[chosen];
            state.connections.push(Connection::default());
            let connection = state.connections.len() - 1;
            backlog.push_back(connection);
            Some(connection)
        })
    }

    /// The next connection that the port's side has made.
    pub(crate) fn outgoing(&self) -> Option<usize> {
        self.0.locked(|state| state.outgoing.pop_front())
    }

    /// Sends as much as the window takes.
    pub(crate) fn write(&self, connection: usize, bytes: &[u8]) -> Flow {
        self.0.locked(|state| {
            let window = state.world.window;
            let connection = &mut state.connections[connection];
            if connection.reset || connection.port_closed {
                return Flow::Cut;
            }
            let room = window.saturating_sub(connection.to_port.bytes.len());
            let count = room.min(bytes.len());
            connection.to_port.push(&bytes[..count]);
            Flow::Bytes(count)
        })
    }

    /// Receives what has come, at most so many bytes.
    pub(crate) fn read(&self, connection: usize, most: usize) -> (Flow, Vec<u8>) {
        self.0.locked(|state| {
            let connection = &mut state.connections[connection];
            let bytes = connection.to_peer.pull(most);
            let flow = match () {
                () if !bytes.is_empty() => Flow::Bytes(bytes.len()),
                () if connection.reset => Flow::Cut,
                () if connection.to_peer.ended => Flow::Ended,
                () => Flow::Bytes(0),
            };
            (flow, bytes)
        })
    }

    /// Ends the peer's stream, in order.
    pub(crate) fn shut(&self, connection: usize) {
        self.0
            .locked(|state| state.connections[connection].to_port.ended = true);
    }

    pub(crate) fn reset(&self, connection: usize) {
        self.0.locked(|state| {
            let keeps = state.rng.bool();
            state.connections[connection].cut(keeps);
        });
    }

    /// Closes the peer's socket, as a process does that ends: what comes is answered by a reset.
    pub(crate) fn close(&self, connection: usize) {
        self.0.locked(|state| {
            let connection = &mut state.connections[connection];
            connection.to_port.ended = true;
            connection.peer_closed = true;
            if !connection.to_peer.bytes.is_empty() {
                connection.cut(true);
            }
        });
    }

    /// Bytes that the port's side has ever received and sent.
    pub(crate) fn carried(&self) -> (usize, usize) {
        let state = self.0.state.lock();
        let received = state.connections.iter().map(|c| c.to_port.pulled).sum();
        (
            received,
            state.connections.iter().map(|c| c.to_peer.pushed).sum(),
        )
    }

    /// What is left in the driver, in words; nothing when nothing is.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let state = self.0.state.lock();
        let ready: usize = state.ready.iter().map(VecDeque::len).sum();
        let pieces = state.world.buffers.count;
        let counts = [
            ("sockets", state.sockets.len()),
            ("operations", state.ops.len()),
            ("completions", ready),
            ("pooled buffers", pieces - self.0.buffers.free()),
        ];
        let left = counts.into_iter().filter(|(_, count)| *count > 0);
        left.map(|(what, count)| format!("{count} {what}"))
            .collect()
    }

    /// Whether the driver itself is gone.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Connection {
    /// Cuts it. Bytes on their way to the port are lost unless it `keeps` them, and then come
    /// before the error.
    pub(super) fn cut(&mut self, keeps: bool) {
        self.reset = true;
        if !keeps {
            self.to_port.bytes.clear();
        }
    }
}

impl State {
    /// Closes a socket's side of whatever it is.
    pub(super) fn hang_up(&mut self, socket: u32) {
        let socket = &mut self.sockets[socket as usize];
        match std::mem::replace(&mut socket.role, Role::Closed) {
            Role::Stream(connection) => {
                let connection = &mut self.connections[connection];
                connection.port_closed = true;
                connection.to_peer.ended = true;
                connection.to_port.bytes.clear();
                connection.reset |= socket.resets_at_close;
            }
            Role::Listener(backlog) => {
                for connection in backlog {
                    self.connections[connection].reset = true;
                }
            }
            Role::Unconnected | Role::Closed => {}
        }
    }
}
