//! Streams of accepts: a listener is in one lane, and its connections are spread over all.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use socket2::SockRef;

use super::complete::remove;
use super::lane::{Lane, State};
use super::op::{FirstData, Kind, code_of};
use super::socket::Socket;
use crate::buffer::Buffer;
use crate::driver::SocketRef;
use crate::driver::accept_stream::AcceptStream;
use crate::driver::kind::passes;
use crate::driver::ticket::Ticket;

/// Has a stream, which counts one part for it, take connections of its listener.
pub(super) fn begin(lanes: &[Lane], stream: &Arc<AcceptStream>) {
    let lane = &lanes[stream.socket.lane as usize];
    lane.locked(lanes, |state| resume(lane, state, stream));
    lane.rouse();
}

/// Lets a stream go on after a connection, or ends it.
fn resume(lane: &Lane, state: &mut State, stream: &Arc<AcceptStream>) {
    let index = stream.socket.index;
    let open = match state.sockets.get_mut(index as usize) {
        // Whoever closes or cancels later finds the stream here.
        Some(listener) if !listener.closing && !stream.is_cancelled() => {
            listener.accepts.push_back(stream.clone());
            listener.readable
        }
        _ => {
            part_is_over(lane, state, stream);
            return;
        }
    };
    if open {
        state.queue(index);
    }
}

fn part_is_over(lane: &Lane, state: &mut State, stream: &AcceptStream) {
    if let Some(last) = lane.streams.one_less(stream) {
        state.give(last);
    }
}

/// Ends the part of a stream that takes connections, unless it is just then taking one: then it
/// ends itself.
pub(super) fn cancel(lane: &Lane, state: &mut State, stream: &Arc<AcceptStream>) {
    let Some(listener) = state.sockets.get_mut(stream.socket.index as usize) else {
        return;
    };
    let mut found = false;
    listener.accepts.retain(|other| {
        let same = Arc::ptr_eq(other, stream);
        found |= same;
        !same
    });
    if found {
        part_is_over(lane, state, stream);
    }
}

/// Closes the connections of a stream whose first data is awaited in this lane.
pub(super) fn cancel_waiting(lane: &Lane, state: &mut State, stream: &Arc<AcceptStream>) {
    let of_stream = |&key: &u32| match &state.ops[key as usize].kind {
        Kind::FirstData(first) => Arc::ptr_eq(&first.stream, stream),
        _ => false,
    };
    let keys: Vec<u32> = state.accepting.iter().copied().filter(of_stream).collect();
    for key in keys {
        abandon(lane, state, key);
    }
}

/// Takes one connection from a listener, if there is one. No lane is locked.
pub(super) fn accept(lanes: &[Lane], stream: &Arc<AcceptStream>) {
    let lane = &lanes[stream.socket.lane as usize];
    let (mut more, mut done) = (true, false);
    match SockRef::from(&*stream.listener.fd).accept() {
        Ok((socket, peer)) => {
            done = adopt(lanes, stream, OwnedFd::from(socket), peer.as_socket()) && stream.once;
        }
        Err(error) => match code_of(Err(error)) {
            libc::EAGAIN => more = false,
            code if passes(code) => {}
            code => {
                stream.fail(code);
                cancel_everywhere(lanes, stream);
            }
        },
    }
    lane.locked(lanes, |state| {
        if let Some(listener) = state.sockets.get_mut(stream.socket.index as usize) {
            listener.readable |= more;
            if listener.readable && !listener.accepts.is_empty() {
                state.queue(stream.socket.index);
            }
        }
        match done {
            true => part_is_over(lane, state, stream),
            false => resume(lane, state, stream),
        }
    });
}

/// Ends a stream: what takes connections, and what waits for their first data.
pub(super) fn cancel_everywhere(lanes: &[Lane], stream: &Arc<AcceptStream>) {
    stream.cancelled.store(true, Ordering::Release);
    for lane in lanes {
        lane.locked(lanes, |state| {
            if lane.index == stream.socket.lane as usize {
                cancel(lane, state, stream);
            }
            cancel_waiting(lane, state, stream);
        });
    }
}

/// Takes a new connection into the lane that has the fewest. Returns whether the program sees it,
/// or will once its first data has come.
fn adopt(
    lanes: &[Lane],
    stream: &Arc<AcceptStream>,
    fd: OwnedFd,
    peer: Option<SocketAddr>,
) -> bool {
    no_signals(&fd);
    let lane = super::emptiest(lanes);
    let index = match lane.register(Socket::new(Arc::new(fd), stream.listener.kind)) {
        Ok(index) => index,
        Err(error) => {
            stream.fail(code_of(Err(error)));
            cancel_everywhere(lanes, stream);
            return false;
        }
    };
    let Some(time) = stream.first_data else {
        let socket = SocketRef {
            lane: lane.index as u32,
            index,
        };
        let completion = stream.connection(socket, peer, None);
        let seen = completion.is_some();
        let home = &lanes[stream.socket.lane as usize];
        home.locked(lanes, |state| {
            if let Some(completion) = completion {
                state.give(completion);
            }
        });
        return seen;
    };
    stream.live.fetch_add(1, Ordering::AcqRel);
    let first = Box::new(FirstData {
        stream: stream.clone(),
        peer,
        deadline: Instant::now().checked_add(time),
    });
    await_first_data(lanes, lane, index, first);
    true
}

/// Holds a connection back until its first data is there.
fn await_first_data(lanes: &[Lane], lane: &Lane, index: u32, first: Box<FirstData>) {
    lane.locked(lanes, |state| {
        let ending = state.closed || first.stream.is_cancelled();
        let deadline = first.deadline;
        let key = state.insert(Kind::FirstData(first), index, Ticket::default());
        state.sockets[index as usize].receives.enter(key);
        state.accepting.push(key);
        let deadline = deadline.map(|deadline| (deadline, key));
        state.deadlines.extend(deadline);
        match ending {
            true => abandon(lane, state, key),
            // Its edge may have come before there was anybody to want it.
            false => state.queue(index),
        }
    });
    // Whoever waits there does not know of the deadline.
    lane.rouse();
}

/// The first data of a connection has come, or its end.
pub(super) fn first_data(lane: &Lane, state: &mut State, key: u32, data: Option<Buffer>) {
    let Some((index, first)) = take_first(state, key) else {
        return;
    };
    let socket = SocketRef {
        lane: lane.index as u32,
        index,
    };
    if let Some(completion) = first.stream.connection(socket, first.peer, data) {
        state.give(completion);
    }
    part_is_over(lane, state, &first.stream);
}

/// Closes a connection before its first data: silent too long, reset, or no longer wanted. It is
/// never seen.
pub(super) fn abandon(lane: &Lane, state: &mut State, key: u32) {
    let Some((index, first)) = take_first(state, key) else {
        return;
    };
    lane.close_now(state, index);
    lane.forget(state, index);
    let stream = first.stream;
    let again = stream.once && !stream.is_cancelled() && !state.closed;
    match again {
        true => state.after().again.push(stream),
        false => part_is_over(lane, state, &stream),
    }
}

fn take_first(state: &mut State, key: u32) -> Option<(u32, Box<FirstData>)> {
    state.accepting.retain(|&accepting| accepting != key);
    let op = remove(state, key);
    let Kind::FirstData(first) = op.kind else {
        return None;
    };
    if let Some(deadline) = first.deadline {
        state.deadlines.remove(&(deadline, key));
    }
    Some((op.socket, first))
}

/// Closes connections that were silent for too long.
pub(super) fn expire(lane: &Lane, state: &mut State) {
    while let Some(&(deadline, key)) = state.deadlines.first() {
        if deadline > Instant::now() {
            return;
        }
        abandon(lane, state, key);
    }
}

/// Where a send to a peer that is gone would raise a signal unless the socket says otherwise.
#[cfg(target_vendor = "apple")]
pub(super) fn no_signals(fd: &OwnedFd) {
    // Best effort: Rust's runtime ignores the signal too.
    let _ = SockRef::from(fd).set_nosigpipe(true);
}

#[cfg(not(target_vendor = "apple"))]
pub(super) fn no_signals(_: &OwnedFd) {}
