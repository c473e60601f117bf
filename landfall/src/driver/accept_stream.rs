//! Streams of accepts: several parts (accepts in progress, on several lanes where there are lanes, and
//! connections that have not said anything yet), and one end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;

use super::os::Listener;
use super::ticket::Ticket;
use super::{ABORTED, SocketRef, name};
use crate::buffer::Buffer;
use crate::port::{Accept, Accepted, Completion, CompletionKind, Handle, OperationId, Payload};

/// In place of a lane in the name of an operation: it is a stream of accepts.
pub(crate) const STREAM_LANE: u64 = 0xff;

/// A stream of accepts (or a single one).
pub(crate) struct AcceptStream {
    pub(crate) id: u64,
    pub(crate) socket: SocketRef,
    pub(crate) listener: Listener,
    pub(crate) once: bool,
    pub(crate) first_data: Option<Duration>,
    pub(crate) cancelled: AtomicBool,
    /// Accepts in progress, and connections whose first data is awaited.
    pub(crate) live: AtomicUsize,
    /// Why it ends, if not by a cancel.
    error: Mutex<Option<i32>>,
    /// Taken by the final completion.
    ticket: Mutex<Option<Ticket>>,
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
        let (id, kind) = (OperationId(self.id), CompletionKind::Accept);
        let bytes = first_data.as_ref().map_or(0, |data| data.len());
        let mut ticket = self.ticket.lock();
        let accepted = Payload::Accepted(Box::new(Accepted {
            shared: ticket.as_ref()?.handle()?.shared().clone(),
            socket: Some(socket),
            peer,
            first_data,
        }));
        // A single accept's completion is its last one.
        Some(match self.once {
            true => ticket.take()?.finish(id, kind, 0, bytes, accepted),
            false => ticket.as_mut()?.step(id, kind, bytes, accepted),
        })
    }

    /// The final completion, unless it was a single accept that has had its own.
    fn end(&self) -> Option<Completion> {
        let (id, kind) = (OperationId(self.id), CompletionKind::Accept);
        let code = self.error.lock().unwrap_or(ABORTED);
        let ticket = self.ticket.lock().take()?;
        Some(ticket.finish(id, kind, code, 0, Payload::None))
    }
}

/// The streams of a driver, by name.
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
        listener: Listener,
        accept: Accept,
        token: usize,
    ) -> Arc<AcceptStream> {
        let (streams, generation) = &mut *self.named.lock();
        *generation = generation.wrapping_add(1);
        let entry = streams.vacant_entry();
        let id = name::tagged(STREAM_LANE, name::of(*generation, entry.key() as u32));
        let stream = AcceptStream {
            id,
            socket: handle.socket(),
            listener,
            once: accept.once,
            first_data: accept.first_data,
            cancelled: AtomicBool::new(false),
            live: AtomicUsize::new(1),
            error: Mutex::new(None),
            ticket: Mutex::new(Some(Ticket::new(Some(handle.clone()), token))),
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

    #[cfg(unix)]
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
