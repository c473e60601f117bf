//! Streams of accepts: several single accepts posted on every lane, or one multishot accept each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::types;
use parking_lot::Mutex;

use super::complete::{remove, retried};
use super::lane::{self, Lane, State};
use super::op::{AcceptOne, FirstData, Kind, NO_SOCKET};
use super::receive::{Advance, Stage};
use super::socket::{Place, Socket};
use crate::buffer::Buffer;
use crate::driver::SocketRef;
use crate::driver::accept_stream::{self, AcceptStream};
#[cfg(landfall_broken)]
use crate::driver::broken::{self, Broken};
use crate::driver::kind;
use crate::driver::ticket::Ticket;
use crate::port::Completion;

/// Single accepts kept posted on each lane (as many as libuv posts on Windows): a burst of clients
/// meets that many before the worker has to come back.
pub(super) const POSTED: usize = 32;

/// The streams of all lanes.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) named: accept_stream::Streams,
    /// Streams that failed on a lane and are to be ended on the others.
    failed: Mutex<Vec<Arc<AcceptStream>>>,
    any_failed: AtomicBool,
}

impl Streams {
    fn fail(&self, stream: &Arc<AcceptStream>) {
        self.failed.lock().push(stream.clone());
        self.any_failed.store(true, Ordering::Release);
    }

    /// Whether streams failed since they were taken last.
    pub(super) fn some_failed(&self) -> bool {
        self.any_failed.load(Ordering::Relaxed)
    }

    pub(super) fn take_failed(&self) -> Vec<Arc<AcceptStream>> {
        let mut failed = self.failed.lock();
        self.any_failed.store(false, Ordering::Relaxed);
        std::mem::take(&mut failed)
    }
}

/// Posts what a lane is to carry of a stream.
pub(super) fn post(lane: &Lane, state: &mut State, stream: &Arc<AcceptStream>, worker: bool) {
    // Whoever cancels or closes visits the lane later, and finds what is posted here, or came
    // before.
    if state.closed || stream.is_cancelled() {
        return;
    }
    let multishot =
        lane.facilities.multishot_accept && !lane.facilities.direct_descriptors && !stream.once;
    let count = if multishot || stream.once { 1 } else { POSTED };
    for _ in 0..count {
        let slot = if multishot { None } else { state.slots.take() };
        let mut accept = AcceptOne::new(stream.clone(), slot, multishot);
        accept.poll_first = lane.facilities.poll_first && !multishot;
        stream.live.fetch_add(1, Ordering::AcqRel);
        let key = lane.insert(state, Kind::Accept(accept), NO_SOCKET, Ticket::default());
        state.accepting.push(key);
        lane.start(state, key, worker);
    }
}

/// All lanes have their part of a stream; every part may be over already. Returns a completion
/// that nobody will take.
pub(super) fn posted(lane: &Lane, stream: &Arc<AcceptStream>) -> Option<Completion> {
    let mut state = lane.state.lock();
    let last = lane.streams.named.one_less(stream)?;
    if state.closed {
        return Some(last);
    }
    state.outbox.push(last);
    None
}

/// Ends what a lane carries of a stream.
pub(super) fn cancel(lane: &Lane, state: &mut State, stream: &Arc<AcceptStream>, worker: bool) {
    for place in 0..state.accepting.len() {
        let key = state.accepting[place];
        let of_stream = match &state.ops[key as usize].kind {
            Kind::Accept(accept) => Arc::ptr_eq(&accept.stream, stream),
            Kind::FirstData(first) => Arc::ptr_eq(&first.stream, stream),
            _ => false,
        };
        if of_stream {
            lane.cancel_in_kernel(state, key, worker);
        }
    }
}

/// A posted accept has something to report.
pub(super) fn accepted(lane: &Lane, state: &mut State, key: u32, result: i32, more: bool) {
    let op = &mut state.ops[key as usize];
    let cancelled = op.cancelled;
    let Kind::Accept(accept) = &mut op.kind else {
        return;
    };
    let stream = accept.stream.clone();
    let peer = accept.peer().filter(|_| result >= 0);
    let slot = accept.slot.take();
    if result >= 0 {
        let place = match slot {
            Some(slot) => Place::Direct(slot),
            // SAFETY: an accept without a place in the ring's table answers with a new descriptor.
            None => Place::Plain(Arc::new(unsafe { lane::own(result) })),
        };
        connection(lane, state, &stream, place, peer);
    } else if let Some(slot) = slot {
        state.slots.give_back(slot);
    }
    if more {
        return;
    }
    let over = stream.once && result >= 0;
    if !cancelled && !over && !state.closed && !stream.is_cancelled() {
        if result >= 0 || passes(-result) {
            return post_again(lane, state, key);
        }
        stream.fail(-result);
        lane.streams.fail(&stream);
    }
    forget(lane, state, key);
    state.outbox.extend(lane.streams.named.one_less(&stream));
}

/// Failures after which the accept is to be posted again: those of one connection, and the end of
/// the thread that submitted it.
fn passes(code: i32) -> bool {
    kind::passes(code) || matches!(code, libc::ECANCELED | libc::EFAULT)
}

fn post_again(lane: &Lane, state: &mut State, key: u32) {
    let slot = state.slots.take();
    if let Kind::Accept(accept) = &mut state.ops[key as usize].kind {
        match (accept.multishot, slot) {
            (true, Some(slot)) => state.slots.give_back(slot),
            (_, slot) => accept.slot = slot,
        }
    }
    lane.start(state, key, true);
}

/// A new connection: handed out, or first asked for its data.
fn connection(
    lane: &Lane,
    state: &mut State,
    stream: &Arc<AcceptStream>,
    place: Place,
    peer: Option<SocketAddr>,
) {
    let socket = state
        .sockets
        .insert(Socket::new(place, stream.listener.kind)) as u32;
    lane.population.fetch_add(1, Ordering::Relaxed);
    let first_data = stream.first_data;
    #[cfg(landfall_broken)]
    let first_data = first_data.filter(|_| !broken::is(Broken::FirstData));
    let Some(time) = first_data else {
        return hand_out(lane, state, stream, socket, peer, None);
    };
    if state.closed {
        return discard(lane, state, socket);
    }
    stream.live.fetch_add(1, Ordering::AcqRel);
    let first = Box::new(FirstData {
        stream: stream.clone(),
        peer,
        stage: Stage::Wait,
        deadline: 0,
    });
    let waiting = lane.insert(state, Kind::FirstData(first), socket, Ticket::default());
    state.accepting.push(waiting);
    lane.start(state, waiting, true);
    let name = Lane::name(state, waiting);
    let time = Box::new(types::Timespec::from(time));
    let deadline = Kind::Deadline(time, name);
    let deadline = lane.insert(state, deadline, NO_SOCKET, Ticket::default());
    lane.start(state, deadline, true);
    let deadline = Lane::name(state, deadline);
    if let Kind::FirstData(first) = &mut state.ops[waiting as usize].kind {
        first.deadline = deadline;
    }
}

fn hand_out(
    lane: &Lane,
    state: &mut State,
    stream: &AcceptStream,
    socket: u32,
    peer: Option<SocketAddr>,
    first_data: Option<Buffer>,
) {
    let socket = SocketRef {
        lane: lane.index as u32,
        index: socket,
    };
    (state.outbox).extend(stream.connection(socket, peer, first_data));
}

/// The first data of a connection has come, or will not.
pub(super) fn first_data(lane: &Lane, state: &mut State, key: u32, result: i32) {
    let op = &mut state.ops[key as usize];
    let (socket, cancelled) = (op.socket, op.cancelled);
    let Kind::FirstData(first) = &mut op.kind else {
        return;
    };
    let advanced = first.stage.advance(result, &lane.buffers);
    let (stream, peer, deadline) = (first.stream.clone(), first.peer, first.deadline);
    let data = match advanced {
        Advance::Again if cancelled => None,
        Advance::Again => return lane.start(state, key, true),
        Advance::Failed if retried(lane, state, key, result) => return,
        Advance::Failed => None,
        Advance::Received(data) => Some(data),
    };
    if let Some(deadline) = Lane::find(state, deadline) {
        lane.cancel_in_kernel(state, deadline, true);
    }
    forget(lane, state, key);
    match data {
        Some(data) => hand_out(lane, state, &stream, socket, peer, Some(data)),
        None => {
            // Silent too long, or reset before its first word: the client is never seen.
            discard(lane, state, socket);
            if stream.once && !stream.is_cancelled() && !state.closed {
                post(lane, state, &stream, true);
            }
        }
    }
    state.outbox.extend(lane.streams.named.one_less(&stream));
}

/// The time for first data is over, or the wait for it was cancelled.
pub(super) fn deadline(lane: &Lane, state: &mut State, waiting: u64, result: i32) {
    if result != -libc::ETIME {
        return;
    }
    if let Some(key) = Lane::find(state, waiting) {
        lane.cancel_in_kernel(state, key, true);
    }
}

/// Closes a connection that nobody will see.
fn discard(lane: &Lane, state: &mut State, socket: u32) {
    let entry = &mut state.sockets[socket as usize];
    entry.closing = true;
    entry.released = true;
    lane.close_now(state, socket, true);
}

fn forget(lane: &Lane, state: &mut State, key: u32) {
    if let Some(place) = state
        .accepting
        .iter()
        .position(|&accepting| accepting == key)
    {
        state.accepting.swap_remove(place);
    }
    remove(lane, state, key);
}
