//! Streams of accepts, as the drivers for Unix carry them: parts on several lanes, one end.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;
use socket2::SockRef;

use super::kind::SocketKind;
use super::{ABORTED, SocketRef, name};
use crate::buffer::Buffer;
use crate::port::{Accept, Accepted, Completion, CompletionKind, Handle, OperationId, Payload};

/// In place of a lane in the name of an operation: it is a stream of accepts.
pub(crate) const STREAM_LANE: u64 = 0xff;

/// A stream of accepts (or a single one).
pub(crate) struct AcceptStream {
    pub(crate) id: u64,
    pub(crate) socket: SocketRef,
    pub(crate) listener: Arc<OwnedFd>,
    /// What connections are.
    pub(crate) kind: SocketKind,
    pub(crate) token: usize,
    pub(crate) once: bool,
    pub(crate) first_data: Option<Duration>,
    pub(crate) cancelled: AtomicBool,
    /// A single accept has completed: its completion was the final one.
    delivered: AtomicBool,
    /// Accepts in progress, and connections whose first data is awaited.
    pub(crate) live: AtomicUsize,
    /// Why it ends, if not by a cancel.
    error: Mutex<Option<i32>>,
    /// Taken by the final completion.
    handle: Mutex<Option<Handle>>,
}

impl AcceptStream {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Ends the stream with an error of the system; the first one counts.
    pub(crate) fn fail(&self, code: i32) {
        self.error.lock().get_or_insert(code);
    }

    /// The completion that brings a connection, unless the stream is over.
    pub(crate) fn connection(
        &self,
        socket: SocketRef,
        peer: Option<SocketAddr>,
        first_data: Option<Buffer>,
    ) -> Option<Completion> {
        // A single accept's completion is its last one, and takes the handle along.
        let handle = match self.once {
            true => self.handle.lock().take()?,
            false => self.handle.lock().clone()?,
        };
        self.delivered.store(self.once, Ordering::Release);
        let bytes = first_data.as_ref().map_or(0, |data| data.len());
        let accepted = Accepted {
            shared: handle.shared().clone(),
            socket: Some(socket),
            peer,
            first_data,
        };
        Some(Completion {
            kind: CompletionKind::Accept,
            last: self.once,
            code: 0,
            sequence: 0,
            bytes,
            key: handle.key(),
            token: self.token,
            id: OperationId(self.id),
            payload: Payload::Accepted(accepted),
            handle: Some(handle),
        })
    }

    /// The final completion, unless it was a single accept that has had its own.
    fn end(&self) -> Option<Completion> {
        if self.delivered.load(Ordering::Acquire) {
            return None;
        }
        let handle = self.handle.lock().take();
        Some(Completion {
            kind: CompletionKind::Accept,
            last: true,
            code: self.error.lock().unwrap_or(ABORTED),
            sequence: 0,
            bytes: 0,
            key: handle.as_ref().map_or(0, |handle| handle.key()),
            token: self.token,
            id: OperationId(self.id),
            payload: Payload::None,
            handle,
        })
    }
}

/// The streams of all lanes, by name.
#[derive(Default)]
pub(crate) struct Streams {
    /// With a count of streams ever made, for their names.
    named: Mutex<(Slab<Arc<AcceptStream>>, u32)>,
}

impl Streams {
    /// Makes a stream with one part of its own, so that it does not end while it is being begun.
    pub(crate) fn begin(
        &self,
        handle: &Handle,
        listener: Arc<OwnedFd>,
        accept: Accept,
        token: usize,
    ) -> Arc<AcceptStream> {
        // A listener whose kind cannot be told has connections that are received from once more.
        let kind = SocketKind::of(&SockRef::from(&*listener)).unwrap_or_default();
        let (streams, generation) = &mut *self.named.lock();
        *generation = generation.wrapping_add(1);
        let entry = streams.vacant_entry();
        let id = name::tagged(STREAM_LANE, name::of(*generation, entry.key() as u32));
        let stream = AcceptStream {
            id,
            socket: handle.socket(),
            listener,
            kind,
            token,
            once: accept.once,
            first_data: accept.first_data,
            cancelled: AtomicBool::new(false),
            delivered: AtomicBool::new(false),
            live: AtomicUsize::new(1),
            error: Mutex::new(None),
            handle: Mutex::new(Some(handle.clone())),
        };
        entry.insert(Arc::new(stream)).clone()
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<AcceptStream>> {
        let (streams, _) = &*self.named.lock();
        streams
            .get(name::index(id) as usize)
            .filter(|stream| stream.id == id)
            .cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<AcceptStream>> {
        let (streams, _) = &*self.named.lock();
        streams.iter().map(|(_, stream)| stream.clone()).collect()
    }

    /// The streams of a listener.
    pub(crate) fn of(&self, socket: SocketRef) -> Vec<Arc<AcceptStream>> {
        let (streams, _) = &*self.named.lock();
        let of_socket = |stream: &&Arc<AcceptStream>| stream.socket == socket;
        streams
            .iter()
            .map(|(_, stream)| stream)
            .filter(of_socket)
            .cloned()
            .collect()
    }

    /// One part of a stream is over. If it was the last one, ends the stream and returns its final
    /// completion, if there is to be one.
    pub(crate) fn one_less(&self, stream: &AcceptStream) -> Option<Completion> {
        if stream.live.fetch_sub(1, Ordering::AcqRel) != 1 {
            return None;
        }
        let (streams, _) = &mut *self.named.lock();
        streams.try_remove(name::index(stream.id) as usize);
        stream.end()
    }
}

/// Failures of one connection, after which the next accept may well succeed: the client gave up
/// (accept(2) lists the network's errors), or a signal.
pub(crate) fn passes(code: i32) -> bool {
    #[cfg(target_os = "linux")]
    if code == libc::ENONET {
        return true;
    }
    matches!(
        code,
        libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EINTR
            | libc::EAGAIN
    )
}
