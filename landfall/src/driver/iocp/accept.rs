//! Streams of accepts: several posted at once on the listener, each with a socket made beforehand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use socket2::Socket as SystemSocket;
use windows_sys::Win32::Networking::WinSock::{
    WSAECONNABORTED, WSAECONNRESET, WSAENETUNREACH, WSAEWOULDBLOCK,
};

use super::Core;
use super::code;
use super::complete::{begin, receive};
use super::op::{Kind, Op};
use super::socket::{Socket, State, Way, domain_of};
use super::winsock::{self, Accept};
use crate::buffer::Buffer;
use crate::driver::{ABORTED, SocketRef};
use crate::port::{Accepted, Completion, CompletionKind, Handle, OperationId, Payload};
use crate::rare_queue::RareQueue;

/// Accepts kept posted (as many as libuv posts): a burst of clients meets that many before a worker
/// has to come back.
const POSTED: usize = 32;

/// Clients that may give up between two accepts before that is taken for the listener's failure.
const MOST_RETRIES: usize = 64;

/// A stream of accepts, or a single one.
pub(super) struct AcceptStream {
    pub(super) id: u64,
    token: usize,
    once: bool,
    first_data: Option<Duration>,
    listener: Arc<Socket>,
    pub(super) cancelled: AtomicBool,
    /// A single accept has completed: its completion was the final one.
    delivered: AtomicBool,
    /// Posted accepts, and connections whose first data is awaited.
    live: AtomicUsize,
    /// Why it ends, if not by a cancel.
    error: Mutex<Option<i32>>,
    /// Taken by the final completion.
    handle: Mutex<Option<Handle>>,
    /// Connections whose first data is awaited.
    silent: Mutex<RareQueue<usize>>,
}

/// One posted accept of a stream.
pub(super) struct Posted {
    pub(super) stream: Arc<AcceptStream>,
    pub(super) accept: Box<Accept>,
}

/// What one report on an accept leads to: a connection, the end of the stream, both or neither.
pub(super) type Outcome = [Option<Completion>; 2];

/// Posts a stream's accepts. The listener's state is locked.
pub(super) fn open(
    core: &Core,
    listener: &Arc<Socket>,
    state: &mut State,
    accept: crate::port::Accept,
    token: usize,
    handle: &Handle,
) -> (u64, Outcome) {
    let stream = Arc::new(AcceptStream {
        id: core.next_id(),
        token,
        once: accept.once,
        first_data: accept.first_data,
        listener: listener.clone(),
        cancelled: AtomicBool::new(false),
        delivered: AtomicBool::new(false),
        // One for the caller, so that the stream does not end while it is being posted.
        live: AtomicUsize::new(1),
        error: Mutex::new(None),
        handle: Mutex::new(Some(handle.clone())),
        silent: Mutex::default(),
    });
    state.streams.push(stream.clone());
    let count = if stream.once { 1 } else { POSTED };
    for _ in 0..count {
        if let Err(code) = post(core, state, &stream) {
            fail(core, state, &stream, code);
            break;
        }
    }
    (stream.id, [None, one_less(&stream)])
}

/// Posts one accept.
fn post(core: &Core, state: &mut State, stream: &Arc<AcceptStream>) -> Result<(), i32> {
    let Some(listener) = &state.system else {
        return Err(ABORTED);
    };
    let failed = |error: std::io::Error| code::of(&error);
    let domain = domain_of(listener).map_err(failed)?;
    let mut retries = 0;
    loop {
        let mut accept = Box::new(Accept::new(domain).map_err(failed)?);
        core.into_kernel();
        match accept.start(&core.extensions, listener) {
            Ok(()) => {
                stream.live.fetch_add(1, Ordering::AcqRel);
                let stream = stream.clone();
                state.accepts.push(Posted { stream, accept });
                return Ok(());
            }
            Err(code) => {
                core.out_of_kernel();
                retries += 1;
                if !passes(code::of_error(code)) || retries > MOST_RETRIES {
                    return Err(code::of_error(code));
                }
            }
        }
    }
}

/// Failures of one connection, after which the next accept may well succeed.
fn passes(code: i32) -> bool {
    matches!(code, WSAECONNRESET | WSAECONNABORTED | WSAENETUNREACH)
}

/// Ends a stream with an error. Its listener's state is locked.
fn fail(core: &Core, state: &mut State, stream: &Arc<AcceptStream>, code: i32) {
    stream.error.lock().get_or_insert(code);
    end(core, state, stream);
}

/// Asks for the end of what a stream has with the kernel. Its listener's state is locked; those of
/// its connections are locked after it, never before.
fn end(core: &Core, state: &mut State, stream: &Arc<AcceptStream>) {
    stream.cancelled.store(true, Ordering::Release);
    if let Some(listener) = &state.system {
        for posted in &state.accepts {
            if Arc::ptr_eq(&posted.stream, stream) {
                winsock::cancel(listener, &posted.accept.block);
            }
        }
    }
    let silent = stream.silent.lock().take();
    silent.for_each(|name| hang_up(core, name));
}

/// The streams of a listener that have not ended.
fn streams(state: &mut State) -> Vec<Arc<AcceptStream>> {
    let lives = |stream: &Arc<AcceptStream>| stream.live.load(Ordering::Acquire) > 0;
    state.streams.retain(lives);
    state.streams.clone()
}

/// Ends one stream; `false` when there is none of that name.
pub(super) fn cancel(core: &Core, state: &mut State, id: u64) -> bool {
    let found = streams(state).into_iter().find(|stream| stream.id == id);
    if let Some(stream) = &found {
        end(core, state, stream);
    }
    found.is_some()
}

/// Ends a listener's streams. Returns how many.
pub(super) fn cancel_all(core: &Core, state: &mut State) -> usize {
    let streams = streams(state);
    streams.iter().for_each(|stream| end(core, state, stream));
    streams.len()
}

/// A posted accept has a packet.
pub(super) fn accepted(
    core: &Core,
    mut listener: MutexGuard<'_, State>,
    place: usize,
    code: i32,
) -> Outcome {
    let state = &mut *listener;
    let Posted { stream, accept } = state.accepts.swap_remove(place);
    let connection = match (&state.system, code) {
        // One that was reset meanwhile cannot be finished.
        (Some(system), 0) => accept.finish(&core.extensions, system).ok(),
        _ => None,
    };
    if !(stream.once && connection.is_some()) {
        post_again(core, state, &stream, code);
    }
    drop(listener);
    let completion =
        connection.and_then(|(socket, peer)| connection_made(core, &stream, socket, peer));
    [completion, one_less(&stream)]
}

/// Posts the next accept after one that ended with `code`, or ends the stream if that tells
/// something about the listener.
fn post_again(core: &Core, state: &mut State, stream: &Arc<AcceptStream>, code: i32) {
    if state.closing || core.is_closed() || stream.cancelled.load(Ordering::Acquire) {
        return;
    }
    let posted = match code {
        0 => post(core, state, stream),
        code if passes(code) => post(core, state, stream),
        code => Err(code),
    };
    if let Err(code) = posted {
        fail(core, state, stream, code);
    }
}

/// A new connection: handed out, or first asked for its data.
fn connection_made(
    core: &Core,
    stream: &Arc<AcceptStream>,
    system: SystemSocket,
    peer: Option<SocketAddr>,
) -> Option<Completion> {
    if core.is_closed() {
        return None;
    }
    // Without memory to associate it, the connection is lost.
    let socket = core.adopt(system, false).ok()?;
    let Some(patience) = stream.first_data else {
        return completion(stream, &socket, peer, None);
    };
    stream.live.fetch_add(1, Ordering::AcqRel);
    stream.silent.lock().push_back(socket.name);
    let wait = Kind::FirstData(stream.clone(), peer);
    let mut state = socket.state.lock();
    state.receives.current = Some(Op::new(core.next_id(), wait, 0, None));
    let begun = begin(core, &mut state, Way::Receives);
    drop(state);
    if let Some(deadline) = Instant::now().checked_add(patience) {
        core.deadlines.add(deadline, socket.name);
    }
    // Whoever ended the stream before the wait began has not seen it.
    if stream.cancelled.load(Ordering::Acquire) {
        hang_up(core, socket.name);
    }
    match begun {
        None => None,
        Some(code) => {
            let [completion, last] = first_data(core, &socket, code);
            debug_assert!(last.is_none(), "the posted accept is not counted off yet");
            completion
        }
    }
}

fn completion(
    stream: &AcceptStream,
    socket: &Socket,
    peer: Option<SocketAddr>,
    first_data: Option<Buffer>,
) -> Option<Completion> {
    // A single accept's completion is its last one, and takes the handle along.
    let handle = match stream.once {
        true => stream.handle.lock().take()?,
        false => stream.handle.lock().clone()?,
    };
    stream.delivered.store(stream.once, Ordering::Release);
    let accepted = Accepted {
        shared: handle.shared().clone(),
        socket: Some(SocketRef {
            lane: 0,
            index: socket.index(),
        }),
        peer,
        first_data,
    };
    Some(Completion {
        kind: CompletionKind::Accept,
        last: stream.once,
        code: 0,
        sequence: 0,
        bytes: accepted.first_data.as_ref().map_or(0, |data| data.len()),
        key: handle.key(),
        token: stream.token,
        id: OperationId(stream.id),
        payload: Payload::Accepted(accepted),
        handle: Some(handle),
    })
}

/// The wait for a connection's first data is over. Nothing is locked.
pub(super) fn first_data(core: &Core, socket: &Arc<Socket>, mut code: i32) -> Outcome {
    let mut state = socket.state.lock();
    let received = loop {
        let cancelled = state
            .receives
            .current
            .as_ref()
            .is_none_or(|op| op.cancelled);
        if cancelled || code != 0 || core.is_closed() {
            break None;
        }
        match receive(core, &state) {
            Ok(data) => break Some(data),
            // Somebody else of the program took it: wait again.
            Err(WSAEWOULDBLOCK) => match begin(core, &mut state, Way::Receives) {
                None => return [None, None],
                Some(failed) => code = failed,
            },
            Err(failed) => code = failed,
        }
    };
    let op = state.receives.current.take();
    drop(state);
    let Some(Kind::FirstData(stream, peer)) = op.map(|mut op| op.take_kind()) else {
        return [None, None];
    };
    stream.silent.lock().retain(|&name| name != socket.name);
    let completion = match received {
        Some(data) => completion(&stream, socket, peer, Some(data)),
        None => {
            // Silent too long, or reset before its first word: the client is never seen.
            drop(core.sockets.remove(socket.index()));
            socket.state.lock().close();
            if stream.once {
                post_again(core, &mut stream.listener.state.lock(), &stream, 0);
            }
            None
        }
    };
    [completion, one_less(&stream)]
}

/// Ends the wait for a connection's first data, if it still goes on.
pub(super) fn hang_up(core: &Core, name: usize) {
    let Some(socket) = core.sockets.named(name) else {
        return;
    };
    let mut state = socket.state.lock();
    let State {
        system, receives, ..
    } = &mut *state;
    let waiting = receives.current.as_mut();
    let Some(op) = waiting.filter(|op| matches!(op.kind, Kind::FirstData(..))) else {
        return;
    };
    op.cancelled = true;
    if let Some(system) = system.as_ref().filter(|_| op.in_kernel) {
        winsock::cancel(system, &op.block);
    }
}

/// One part of a stream is over. If it was the last one, ends the stream, with a final completion
/// unless it was a single accept that has had its own.
fn one_less(stream: &AcceptStream) -> Option<Completion> {
    if stream.live.fetch_sub(1, Ordering::AcqRel) != 1 || stream.delivered.load(Ordering::Acquire) {
        return None;
    }
    let handle = stream.handle.lock().take();
    Some(Completion {
        kind: CompletionKind::Accept,
        last: true,
        code: stream.error.lock().unwrap_or(ABORTED),
        sequence: 0,
        bytes: 0,
        key: handle.as_ref().map_or(0, |handle| handle.key()),
        token: stream.token,
        id: OperationId(stream.id),
        payload: Payload::None,
        handle,
    })
}
