//! What becomes of an operation when its socket may get on.

use std::sync::Arc;

use super::accept;
use super::lane::{Lane, State};
use super::op::{Kind, Op, Received, code_of};
use crate::buffer::Buffer;
use crate::driver::ABORTED;
use crate::driver::accept_stream::AcceptStream;
#[cfg(landfall_broken)]
use crate::driver::broken::{self, Broken};
use crate::driver::direction::may_go_out;
use crate::driver::name;
use crate::port::{Completion, CompletionKind, Payload};

/// Completions held back for a serial handle before its stream of receives is paused: what comes
/// then stays with the system, which makes the peer wait.
const MOST_HELD: usize = 1;

/// Lets a socket get on: as much of its sends as goes, and one receive, so that no socket keeps
/// its neighbours waiting. Returns the stream of a listener that may have a connection for it, to be
/// accepted with the lane unlocked.
pub(super) fn run(lane: &Lane, state: &mut State, index: u32) -> Option<Arc<AcceptStream>> {
    let socket = state.sockets.get_mut(index as usize)?;
    socket.queued = false;
    if socket.readable {
        if let Some(stream) = socket.accepts.pop_front() {
            // Set again by an edge meanwhile, or after a connection.
            socket.readable = false;
            return Some(stream);
        }
    }
    send(lane, state, index);
    receive(lane, state, index);
    None
}

/// Makes one attempt of the current receive.
fn receive(lane: &Lane, state: &mut State, index: u32) {
    let socket = &mut state.sockets[index as usize];
    let (Some(key), Some(fd)) = (socket.receives.current, &socket.fd) else {
        return;
    };
    if !socket.readable || socket.held.len() >= MOST_HELD {
        return;
    }
    let kind = &mut state.ops[key as usize].kind;
    let mut data = None;
    let received = match kind.receive(fd, socket.kind.datagram, &lane.buffers, &mut data) {
        Ok(received) => received,
        Err(error) => match code_of(Err(error)) {
            libc::EAGAIN => {
                socket.readable = false;
                socket.ended = false;
                return;
            }
            libc::EINTR => return state.queue(index),
            code => return receive_failed(lane, state, key, code),
        },
    };
    let exhausted = !received.full && received.bytes > 0 && socket.kind.drains && !socket.ended;
    socket.readable = !exhausted;
    received_by(lane, state, key, &received, data);
    let socket = &state.sockets[index as usize];
    if socket.readable && socket.receives.current.is_some() {
        state.queue(index);
    }
}

fn receive_failed(lane: &Lane, state: &mut State, key: u32, code: i32) {
    #[cfg(landfall_broken)]
    if code == libc::ECONNRESET && broken::is(Broken::ResetAsEnd) {
        return end(lane, state, key, 0, 0);
    }
    match state.ops[key as usize].kind {
        Kind::FirstData(_) => accept::abandon(lane, state, key),
        _ => end(lane, state, key, code, 0),
    }
}

/// Lets out what a receive brought.
fn received_by(
    lane: &Lane,
    state: &mut State,
    key: u32,
    received: &Received,
    data: Option<Buffer>,
) {
    let bytes = received.bytes;
    match state.ops[key as usize].kind {
        Kind::FirstData(_) => accept::first_data(lane, state, key, data),
        Kind::ReceiveStream if bytes > 0 => {
            let id = lane.id(state, key);
            let data = data.map_or(Payload::None, Payload::Buffer);
            let ticket = &mut state.ops[key as usize].ticket;
            let completion = ticket.step(id, CompletionKind::Receive, bytes, data);
            deliver(state, completion);
        }
        _ => {
            let code = match received.truncated {
                true => libc::EMSGSIZE,
                false => 0,
            };
            let mut completion = finished(lane, state, key, code, bytes);
            if let Some(data) = data.filter(|_| bytes > 0) {
                completion.payload = Payload::Buffer(data);
            }
            if received.peer.is_some() {
                let vec = completion.take_buffer().map(Buffer::into_vec);
                completion.payload = Payload::datagram(vec.unwrap_or_default(), received.peer);
            }
            deliver(state, completion);
        }
    }
}

/// Gets on with a socket's sends, connects and shutdowns until the system takes no more.
pub(super) fn send(lane: &Lane, state: &mut State, index: u32) {
    loop {
        let socket = &mut state.sockets[index as usize];
        let (Some(key), Some(fd)) = (socket.sends.current, &socket.fd) else {
            return;
        };
        let op = &mut state.ops[key as usize];
        let code = match &mut op.kind {
            Kind::Shutdown(how) => code_of(socket2::SockRef::from(&**fd).shutdown(*how)),
            Kind::Connect(connect) => match connect.advance(fd) {
                Some(code) => {
                    socket.writable = true;
                    if code == 0 {
                        // What sends failed with before is nothing to those that follow.
                        socket.broken = None;
                    }
                    code
                }
                None => {
                    socket.writable = false;
                    return;
                }
            },
            _ if !socket.writable => return,
            Kind::SendFile(send) if send.waits_for_bytes(op.done) => {
                if send.begin_reading() {
                    state.reads.push_back(name::of(op.generation, key));
                }
                return;
            }
            kind => match kind.send(fd, op.done, socket.kind.datagram) {
                Ok((sent, all)) => {
                    op.done += sent;
                    if op.done < op.kind.length() {
                        socket.writable = all;
                        if all {
                            // It goes on once others had their turn.
                            state.queue(index);
                        }
                        return;
                    }
                    0
                }
                Err(error) => match code_of(Err(error)) {
                    libc::EAGAIN => {
                        socket.writable = false;
                        return;
                    }
                    libc::EINTR => continue,
                    code => code,
                },
            },
        };
        match code {
            0 => finish(lane, state, key, code),
            code => end_short(lane, state, key, code),
        }
    }
}

/// Ends an operation of the sending direction before all is done. If it is a send on a stream, those
/// queued behind it end with the same code: nothing may follow a gap. A failure breaks the socket for
/// later sends as well; after a cancel the program, which knows how much has gone, may go on.
fn end_short(lane: &Lane, state: &mut State, key: u32, code: i32) {
    let State { ops, sockets, .. } = state;
    let op = &ops[key as usize];
    let socket = &mut sockets[op.socket as usize];
    let leaves_gap = code != ABORTED || op.done > 0;
    let mut behind = Vec::new();
    if op.kind.sends_bytes() && leaves_gap && !socket.kind.datagram {
        socket.broken = Some(code).filter(|&code| code != ABORTED);
        behind = socket
            .sends
            .take_waiting(|&key| ops[key as usize].kind.sends_bytes());
    }
    finish(lane, state, key, code);
    for key in behind {
        finish(lane, state, key, code);
    }
}

/// Ends an operation and lets its final completion out, or holds it back.
#[inline]
fn end(lane: &Lane, state: &mut State, key: u32, code: i32, bytes: usize) {
    let completion = finished(lane, state, key, code, bytes);
    deliver(state, completion);
}

/// As `end`, with the bytes that it has sent so far.
#[inline]
pub(super) fn finish(lane: &Lane, state: &mut State, key: u32, code: i32) {
    let done = state.ops[key as usize].done;
    end(lane, state, key, code, done);
}

/// Ends an operation before its time, whether it is its turn or not.
pub(super) fn withdraw(lane: &Lane, state: &mut State, key: u32, code: i32) {
    let index = state.ops[key as usize].socket;
    let socket = &mut state.sockets[index as usize];
    socket.receives.waiting.retain(|&waiting| waiting != key);
    socket.sends.waiting.retain(|&waiting| waiting != key);
    end_short(lane, state, key, code);
}

/// Ends all operations of a socket; those that wait for their turn first, so that none of them
/// starts. Returns how many.
pub(super) fn withdraw_all(lane: &Lane, state: &mut State, index: u32) -> usize {
    let socket = &mut state.sockets[index as usize];
    let waiting = socket
        .receives
        .waiting
        .take()
        .chain(socket.sends.waiting.take());
    let current = [socket.receives.current, socket.sends.current];
    let keys: Vec<u32> = waiting.chain(current.into_iter().flatten()).collect();
    for &key in &keys {
        finish(lane, state, key, ABORTED);
    }
    keys.len()
}

/// Takes a finished operation out of the table and lets the next of its direction go.
#[inline]
pub(super) fn remove(state: &mut State, key: u32) -> Op {
    let op = state.ops.remove(key as usize);
    let socket = &mut state.sockets[op.socket as usize];
    let direction = match op.kind.is_receive() {
        true => &mut socket.receives,
        false => &mut socket.sends,
    };
    if direction.leave(key).is_some() {
        state.queue(op.socket);
    }
    op
}

/// The final completion of an operation, with its memory.
#[inline]
fn finished(lane: &Lane, state: &mut State, key: u32, code: i32, bytes: usize) -> Completion {
    let id = lane.id(state, key);
    let op = remove(state, key);
    let kind = op.kind.completion_kind();
    let payload = match op.kind {
        Kind::SendFile(send) => {
            state.after().files.push(send.into_file());
            Payload::None
        }
        kind => kind.payload(),
    };
    op.ticket.finish(id, kind, code, bytes, payload)
}

/// Lets a completion out, or holds it back while another of a serial handle is out.
#[inline]
fn deliver(state: &mut State, completion: Completion) {
    match &completion.handle {
        Some(handle) if !may_go_out(&completion) => {
            let index = handle.socket().index as usize;
            state.sockets[index].held.push(completion);
        }
        _ => state.give(completion),
    }
}

/// Lets the next held-back completion of a socket out, and a paused stream go on.
pub(super) fn next_turn(state: &mut State, index: u32) {
    let Some(socket) = state.sockets.get_mut(index as usize) else {
        return;
    };
    let Some((completion, left)) = socket.held.next() else {
        return;
    };
    if left < MOST_HELD && socket.readable && socket.receives.current.is_some() {
        state.queue(index);
    }
    state.give(completion);
}
