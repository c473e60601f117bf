//! What becomes of operations.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};

use super::State;
use super::network::Connection;
use super::op::{Kind, Op};
use super::socket::{Role, Socket};
use crate::buffer::{Buffer, Pool, PooledBuffer};
use crate::driver::direction::{Direction, may_go_out};
use crate::driver::{ABORTED, SocketRef};
use crate::port::{Accepted, Completion, Payload};

/// Completions held back for a serial handle before its stream of receives is paused.
const MOST_HELD: usize = 2;

/// Errors that end a connection, as seen by whichever operation meets them first.
const FATAL: [i32; 4] = [
    libc::ECONNRESET,
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
    libc::ENETDOWN,
];
/// Errors that pass.
const PASSING: [i32; 2] = [libc::ENOBUFS, libc::ENOMEM];
const NO_CONNECTION: [i32; 4] = [
    libc::ECONNREFUSED,
    libc::ETIMEDOUT,
    libc::ENETUNREACH,
    libc::EADDRNOTAVAIL,
];
const NO_ACCEPT: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];

/// The address of the client at the other end of a connection: its port tells which that is.
fn peer_of(connection: usize) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 1 + connection as u16).into()
}

impl State {
    /// Does one of the things that are possible; `false`: nothing is.
    pub(super) fn advance(&mut self, buffers: &Pool) -> bool {
        let waiting: usize = self.ready.iter().map(VecDeque::len).sum();
        if waiting >= self.world.places {
            return false;
        }
        let mut keys: Vec<u32> = self.ops.iter().map(|(key, _)| key as u32).collect();
        self.rng.shuffle(&mut keys);
        keys.into_iter().any(|key| self.step(key, buffers))
    }

    /// Has one operation get on, if it can.
    fn step(&mut self, key: u32, buffers: &Pool) -> bool {
        let op = &self.ops[key as usize];
        let cancelled = op.cancelled;
        if cancelled && self.rng.bool() {
            self.end(key, ABORTED, 0);
            return true;
        }
        let is_turn = self
            .direction_of(key)
            .is_none_or(|direction| direction.current == Some(key));
        if is_turn && self.fail_as_commanded(key) {
            return true;
        }
        let moved = is_turn
            && match self.ops[key as usize].kind {
                Kind::Accept { .. } => self.accept(key),
                Kind::Connect { .. } => self.connect(key),
                Kind::Shutdown(how) => self.shut(key, how),
                Kind::SetOption(_) => self.set_option(key),
                Kind::Send(_) | Kind::SendVectored(_) => self.send(key),
                Kind::Writable => self.notice_room(key),
                Kind::Receive(_) | Kind::ReceiveStream | Kind::ReceiveOnce | Kind::Readable => {
                    self.receive(key, buffers)
                }
            };
        if !moved && cancelled {
            self.end(key, ABORTED, 0);
        }
        moved || cancelled
    }

    fn fail_as_commanded(&mut self, key: u32) -> bool {
        let kind = self.ops[key as usize].kind.completion_kind();
        let Some(place) = self.commanded.iter().position(|(other, _)| *other == kind) else {
            return false;
        };
        let (_, code) = self.commanded.remove(place);
        self.end(key, code, 0);
        true
    }

    fn fails(&mut self) -> bool {
        self.happens(self.world.faults.failures)
    }

    fn any_of(&mut self, codes: &[i32]) -> i32 {
        codes[self.rng.usize(..codes.len())]
    }

    fn socket_of(&mut self, key: u32) -> &mut Socket {
        &mut self.sockets[self.ops[key as usize].socket as usize]
    }

    fn connection_of(&mut self, key: u32) -> Option<&mut Connection> {
        match self.socket_of(key).role {
            Role::Stream(connection) => Some(&mut self.connections[connection]),
            _ => None,
        }
    }

    /// The queue that an operation stands in, if it has an order with others.
    pub(super) fn direction_of(&mut self, key: u32) -> Option<&mut Direction> {
        let op = &self.ops[key as usize];
        let socket = &mut self.sockets[op.socket as usize];
        match op.kind {
            Kind::Accept { .. } | Kind::SetOption(_) => None,
            Kind::Receive(_) | Kind::ReceiveStream | Kind::ReceiveOnce | Kind::Readable => {
                Some(&mut socket.receives)
            }
            Kind::Send(_)
            | Kind::SendVectored(_)
            | Kind::Writable
            | Kind::Connect { .. }
            | Kind::Shutdown(_) => Some(&mut socket.sends),
        }
    }

    fn accept(&mut self, key: u32) -> bool {
        let Role::Listener(backlog) = &mut self.socket_of(key).role else {
            return false;
        };
        let Some(connection) = backlog.pop_front() else {
            return false;
        };
        if self.fails() {
            if let Role::Listener(backlog) = &mut self.socket_of(key).role {
                backlog.push_front(connection);
            }
            let code = self.any_of(&NO_ACCEPT);
            self.end(key, code, 0);
            return true;
        }
        let socket = self.insert_socket(Role::Stream(connection));
        let op = &self.ops[key as usize];
        let handle = op.ticket.handle().expect("accepts have one");
        let accepted = Accepted {
            shared: handle.shared().clone(),
            socket: Some(socket),
            peer: Some(peer_of(connection)),
            first_data: None,
        };
        let last = matches!(op.kind, Kind::Accept { once: true });
        let mut completion = match last {
            true => self.finished(key, 0, 0),
            false => self.interim(key, 0),
        };
        completion.payload = Payload::Accepted(Box::new(accepted));
        // Accepts have no order, and come on whichever lane took them.
        let lane = self.any_lane();
        self.give(lane, completion);
        true
    }

    fn connect(&mut self, key: u32) -> bool {
        let unlikely = self.happens(self.world.faults.unanswered);
        let Kind::Connect { unanswered } = &mut self.ops[key as usize].kind else {
            return false;
        };
        *unanswered |= unlikely;
        if *unanswered {
            return false;
        }
        let code = match self.fails() {
            true => self.any_of(&NO_CONNECTION),
            false => 0,
        };
        if code == 0 {
            self.connections.push(Connection::default());
            let connection = self.connections.len() - 1;
            self.outgoing.push_back(connection);
            self.socket_of(key).role = Role::Stream(connection);
        }
        self.end(key, code, 0);
        true
    }

    fn shut(&mut self, key: u32, how: Shutdown) -> bool {
        let code = match self.connection_of(key) {
            Some(connection) if !connection.reset => {
                connection.to_peer.ended |= how != Shutdown::Read;
                connection.to_port.ended |= how != Shutdown::Write;
                0
            }
            _ => libc::ENOTCONN,
        };
        self.end(key, code, 0);
        true
    }

    fn set_option(&mut self, key: u32) -> bool {
        if let Some(resets) = self.ops[key as usize].kind.resets_at_close() {
            self.socket_of(key).resets_at_close = resets;
        }
        self.end(key, 0, 0);
        true
    }

    /// The error that a connection's next operation meets, if it does.
    fn failure(&mut self, key: u32) -> Option<i32> {
        if !self.fails() {
            return None;
        }
        let passes = self.rng.bool();
        if passes {
            return Some(self.any_of(&PASSING));
        }
        let code = self.any_of(&FATAL);
        let keeps = self.rng.bool();
        let connection = self.connection_of(key)?;
        connection.cut(keeps);
        connection.reset_told = true;
        Some(code)
    }

    fn send(&mut self, key: u32) -> bool {
        let op = &self.ops[key as usize];
        let (done, unsent) = (op.done, op.kind.unsent(op.done));
        let window = self.world.window;
        if let Some(code) = self.socket_of(key).broken {
            self.end(key, code, done);
            return true;
        }
        let Some(connection) = self.connection_of(key) else {
            self.end(key, libc::ENOTCONN, done);
            return true;
        };
        if connection.reset {
            let told = std::mem::replace(&mut connection.reset_told, true);
            let code = if told { libc::EPIPE } else { libc::ECONNRESET };
            self.end(key, code, done);
            return true;
        }
        if connection.to_peer.ended {
            self.end(key, libc::EPIPE, done);
            return true;
        }
        let room = window.saturating_sub(connection.to_peer.bytes.len());
        if room == 0 && !unsent.is_empty() {
            return false;
        }
        if let Some(code) = self.failure(key) {
            self.end(key, code, done);
            return true;
        }
        let most = room.min(unsent.len());
        let count = match most {
            0 => 0,
            most => self.rng.usize(1..=most),
        };
        if let Some(connection) = self.connection_of(key) {
            connection.to_peer.push(&unsent[..count]);
            // It is told when it sends once more.
            connection.reset |= connection.peer_closed;
        }
        self.ops[key as usize].done += count;
        if count == unsent.len() {
            self.end(key, 0, done + count);
        }
        true
    }

    fn notice_room(&mut self, key: u32) -> bool {
        let window = self.world.window;
        let is_full = self.connection_of(key).is_some_and(|connection| {
            let to_peer = &connection.to_peer;
            !connection.reset && !to_peer.ended && to_peer.bytes.len() >= window
        });
        if !is_full {
            self.end(key, 0, 0);
        }
        !is_full
    }

    fn receive(&mut self, key: u32, buffers: &Pool) -> bool {
        if self.socket_of(key).held.len() >= MOST_HELD {
            return false;
        }
        let Some(connection) = self.connection_of(key) else {
            self.end(key, libc::ENOTCONN, 0);
            return true;
        };
        let available = connection.to_port.bytes.len();
        if available == 0 && connection.reset {
            let told = std::mem::replace(&mut connection.reset_told, true);
            self.end(key, if told { 0 } else { libc::ECONNRESET }, 0);
            return true;
        }
        let ended = connection.to_port.ended;
        if available == 0 && !ended {
            return false;
        }
        if let Some(code) = self.failure(key) {
            self.end(key, code, 0);
            return true;
        }
        if available == 0 {
            self.end(key, 0, 0);
            return true;
        }
        self.receive_some(key, available, buffers);
        true
    }

    fn receive_some(&mut self, key: u32, available: usize, buffers: &Pool) {
        let room = match &self.ops[key as usize].kind {
            Kind::Readable => return self.end(key, 0, 0),
            Kind::Receive(vec) => vec.capacity() - vec.len(),
            _ => buffers.size(),
        };
        let count = self.rng.usize(1..=available.min(room));
        let Some(connection) = self.connection_of(key) else {
            return;
        };
        let bytes = connection.to_port.pull(count);
        if let Kind::Receive(vec) = &mut self.ops[key as usize].kind {
            vec.extend_from_slice(&bytes);
            return self.end(key, 0, count);
        }
        let mut completion = match self.ops[key as usize].kind {
            Kind::ReceiveStream => self.interim(key, count),
            _ => self.finished(key, 0, count),
        };
        let pooled = match self.starved || self.happens(self.world.faults.starved) {
            true => None,
            false => buffers.take(),
        };
        completion.payload = Payload::Buffer(filled(&bytes, pooled));
        self.deliver(completion);
    }

    /// One completion of several.
    fn interim(&mut self, key: u32, bytes: usize) -> Completion {
        let id = self.id(key);
        let op = &mut self.ops[key as usize];
        let kind = op.kind.completion_kind();
        op.ticket.step(id, kind, bytes, Payload::None)
    }

    /// Takes an operation out of the tables; its final completion, with its memory.
    fn finished(&mut self, key: u32, code: i32, bytes: usize) -> Completion {
        let id = self.id(key);
        if let Some(direction) = self.direction_of(key) {
            direction.waiting.retain(|&waiting| waiting != key);
            direction.leave(key);
        }
        let Op {
            ticket,
            kind,
            socket,
            ..
        } = self.ops.remove(key as usize);
        if self.sockets[socket as usize].closing && self.ops_of(socket).is_empty() {
            self.hang_up(socket);
        }
        ticket.finish(id, kind.completion_kind(), code, bytes, kind.payload())
    }

    /// Ends an operation and lets its final completion out.
    fn end(&mut self, key: u32, code: i32, bytes: usize) {
        let bytes = bytes.max(self.ops[key as usize].done);
        let behind = self.behind_a_gap(key, code);
        let completion = self.finished(key, code, bytes);
        self.deliver(completion);
        for key in behind {
            let completion = self.finished(key, code, 0);
            self.deliver(completion);
        }
    }

    /// The sends queued behind one that ends before all of it has gone: they end with it.
    fn behind_a_gap(&mut self, key: u32, code: i32) -> Vec<u32> {
        let op = &self.ops[key as usize];
        if code == 0 || !op.kind.sends_bytes() || code == ABORTED && op.done == 0 {
            return Vec::new();
        }
        let State { ops, sockets, .. } = self;
        let socket = &mut sockets[ops[key as usize].socket as usize];
        socket.broken = Some(code).filter(|&code| code != ABORTED);
        let sends_bytes = |key| ops[key as usize].kind.sends_bytes();
        socket
            .sends
            .take_waiting(|&other| other != key && sends_bytes(other))
    }

    /// Lets a completion out, or holds it back while another of a serial handle is out.
    fn deliver(&mut self, completion: Completion) {
        if self.world.tells {
            eprintln!("{completion:?}");
        }
        let Some(SocketRef { lane, index }) = completion.handle.as_ref().map(|h| h.socket()) else {
            return;
        };
        if may_go_out(&completion) {
            self.give(lane, completion);
        } else {
            self.sockets[index as usize].held.push(completion);
        }
    }

    pub(super) fn give(&mut self, lane: u32, completion: Completion) {
        match self.closed {
            true => self.dropped.push(completion),
            false => self.ready[lane as usize].push_back(completion),
        }
    }

    /// Lets the next held-back completion of a socket out.
    pub(super) fn next_turn(&mut self, index: u32) {
        let Some(socket) = self.sockets.get_mut(index as usize) else {
            return;
        };
        let lane = socket.lane;
        if let Some((completion, _)) = socket.held.next() {
            self.give(lane, completion);
        }
    }

    /// Ends every operation of a closed port.
    pub(super) fn end_everything(&mut self) {
        let keys: Vec<u32> = self.ops.iter().map(|(key, _)| key as u32).collect();
        for key in keys {
            if self.ops.contains(key as usize) {
                self.end(key, ABORTED, 0);
            }
        }
        for ready in &mut self.ready {
            self.dropped.extend(ready.drain(..));
        }
        for (_, socket) in &mut self.sockets {
            self.dropped.extend(socket.held.take());
        }
    }
}

/// Received bytes in pooled memory, or in memory of their own when there is none left.
fn filled(bytes: &[u8], pooled: Option<PooledBuffer>) -> Buffer {
    let Some(mut pooled) = pooled else {
        return Buffer::Vec(bytes.to_vec());
    };
    pooled[..bytes.len()].copy_from_slice(bytes);
    let mut buffer = Buffer::Pooled(pooled);
    buffer.truncate(bytes.len());
    buffer
}
