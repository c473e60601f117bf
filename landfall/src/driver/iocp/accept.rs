//! Streams of accepts: several posted at once on the listener, each with a socket made beforehand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use socket2::Socket as SystemSocket;
use windows_sys::Win32::Networking::WinSock::{
    WSAECONNABORTED, WSAECONNRESET, WSAEHOSTUNREACH, WSAENETRESET, WSAENETUNREACH, WSAETIMEDOUT,
    WSAEWOULDBLOCK,
};

use super::Core;
use super::code;
use super::complete::{begin, receive};
use super::op::{Kind, Op};
use super::socket::{Socket, State, Way, domain_of};
use super::winsock::{self, Accept};
use crate::driver::ABORTED;
use crate::driver::accept_stream::AcceptStream;
use crate::port::{Completion, Handle};
use crate::rare_queue::RareQueue;

/// Accepts kept posted (as many as libuv posts): a burst of clients meets that many before a worker
/// has to come back.
const POSTED: usize = 32;

/// Clients that may give up between two accepts before that is taken for the listener's failure.
const MOST_RETRIES: usize = 64;

/// A listener, as a stream of accepts has it.
pub(crate) struct Listener {
    socket: Arc<Socket>,
    /// Connections of this stream whose first data is awaited.
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
    // One part is the caller's, so that the stream does not end while it is being posted.
    let own = Listener {
        socket: listener.clone(),
        silent: Mutex::default(),
    };
    let stream = core.streams.begin(handle, own, accept, token);
    let count = if stream.once { 1 } else { POSTED };
    for _ in 0..count {
        if let Err(code) = post(core, state, &stream) {
            fail(core, state, &stream, code);
            break;
        }
    }
    (stream.id, [None, core.streams.one_less(&stream)])
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

/// Failures of one connection, or cancels of an accept by others, who have a duplicate of the listener:
/// the next accept may well succeed.
fn passes(code: i32) -> bool {
    matches!(
        code,
        WSAECONNRESET
            | WSAECONNABORTED
            | WSAENETRESET
            | WSAENETUNREACH
            | WSAEHOSTUNREACH
            | WSAETIMEDOUT
            | ABORTED
    )
}

/// Ends a stream with an error. Its listener's state is locked.
fn fail(core: &Core, state: &mut State, stream: &Arc<AcceptStream>, code: i32) {
    stream.fail(code);
    end(core, state, stream);
}

/// Asks for the end of what a stream has with the kernel. Its listener's state is locked; those of
/// its connections are locked after it, never before.
pub(super) fn end(core: &Core, state: &mut State, stream: &Arc<AcceptStream>) {
    stream.cancelled.store(true, Ordering::Release);
    if let Some(listener) = &state.system {
        for posted in &state.accepts {
            if Arc::ptr_eq(&posted.stream, stream) {
                winsock::cancel(listener, &posted.accept.block);
            }
        }
    }
    let silent = stream.listener.silent.lock().take();
    silent.for_each(|name| hang_up(core, name));
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
    [completion, core.streams.one_less(&stream)]
}

/// Posts the next accept after one that ended with `code`, or ends the stream if that tells
/// something about the listener.
fn post_again(core: &Core, state: &mut State, stream: &Arc<AcceptStream>, code: i32) {
    if state.closing || core.is_closed() || stream.is_cancelled() {
        return;
    }
    let posted = match code == 0 || passes(code) {
        true => post(core, state, stream),
        false => Err(code),
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
        return stream.connection(socket.reference(), peer, None);
    };
    stream.live.fetch_add(1, Ordering::AcqRel);
    stream.listener.silent.lock().push_back(socket.name);
    let wait = Kind::FirstData(stream.clone(), peer);
    let mut state = socket.state.lock();
    state.receives.current = Some(Op::new(core.next_id(), wait, 0, None));
    let begun = begin(core, &mut state, Way::Receives);
    drop(state);
    if let Some(deadline) = Instant::now().checked_add(patience) {
        core.deadlines.add(deadline, socket.name);
    }
    // Whoever ended the stream before the wait began has not seen it.
    if stream.is_cancelled() {
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
    stream
        .listener
        .silent
        .lock()
        .retain(|&name| name != socket.name);
    let completion = match received {
        Some(data) => stream.connection(socket.reference(), peer, Some(data)),
        None => {
            // Silent too long, or reset before its first word: the client is never seen.
            drop(core.sockets.remove(socket.reference().index));
            socket.state.lock().close();
            if stream.once {
                post_again(core, &mut stream.listener.socket.state.lock(), &stream, 0);
            }
            None
        }
    };
    [completion, core.streams.one_less(&stream)]
}

/// Ends the wait for a connection's first data, if it still goes on.
pub(super) fn hang_up(core: &Core, name: usize) {
    let Some(socket) = core.sockets.named(name) else {
        return;
    };
    let mut state = socket.state.lock();
    let (system, receives) = state.parts(Way::Receives);
    let waiting = receives.current.as_mut();
    let Some(op) = waiting.filter(|op| matches!(op.kind, Kind::FirstData(..))) else {
        return;
    };
    op.cancelled = true;
    if let Some(system) = system.filter(|_| op.in_kernel) {
        winsock::cancel(system, &op.block);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use windows_sys::Win32::Foundation::{
        NTSTATUS, STATUS_CONNECTION_ABORTED, STATUS_CONNECTION_RESET, STATUS_HOST_UNREACHABLE,
        STATUS_INVALID_PARAMETER, STATUS_IO_TIMEOUT, STATUS_TOO_MANY_OPENED_FILES,
    };

    use super::super::tests::port;
    use super::*;
    use crate::port::Operation;

    #[test]
    fn what_ends_one_connection_does_not_end_its_listener() {
        let passing = |status: NTSTATUS| passes(code::of_status(status as u32 as usize));
        for of_connection in [
            STATUS_CONNECTION_RESET,
            STATUS_CONNECTION_ABORTED,
            STATUS_HOST_UNREACHABLE,
            STATUS_IO_TIMEOUT,
        ] {
            assert!(passing(of_connection), "{of_connection:x}");
        }
        for of_listener in [STATUS_INVALID_PARAMETER, STATUS_TOO_MANY_OPENED_FILES] {
            assert!(!passing(of_listener), "{of_listener:x}");
        }
    }

    #[test]
    fn a_listener_goes_on_when_somebody_else_cancels_its_accepts() {
        let port = port();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let listener = port.associate(listener, 1).expect("associates");
        let accepts = Operation::Accept(crate::port::Accept::stream());
        listener.submit(accepts, 2).expect("submits");
        let duplicate = listener.try_clone_to_owned_socket().expect("open");
        winsock::cancel_all(&SystemSocket::from(duplicate));
        let _client = TcpStream::connect(address).expect("connects");
        let accepted = port.get(Some(Duration::from_secs(10))).expect("comes");
        assert_eq!(accepted.token(), 2);
        accepted.result().expect("a connection");
        assert!(!accepted.is_final());
    }
}
