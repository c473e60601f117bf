//! Waiting for whoever receives past the port.

use std::io;
use std::task::{Context, Poll};

use super::{READY, Receiving};
use crate::net::idle;
use crate::net::socket::{Socket, register};
use crate::port::Operation;

impl Socket {
    /// Waits until there is something to receive past the port, where nothing has been received by it.
    /// `false`: the next [`receive`](Self::receive) has something, or an end.
    pub(in crate::net) fn poll_ready(&self, cx: &Context<'_>) -> Poll<io::Result<bool>> {
        let mut inbox = self.state.inbox.lock();
        if std::mem::take(&mut inbox.ready) {
            // In time after all.
            inbox.timed_out = false;
            return Poll::Ready(Ok(true));
        }
        if inbox.first.is_some() || inbox.end.is_some() || inbox.draining {
            return Poll::Ready(Ok(false));
        }
        let timed_out = std::mem::take(&mut inbox.timed_out).then(idle::timed_out);
        if let Some(error) = timed_out.or_else(|| self.abandoned()) {
            return Poll::Ready(Err(error));
        }
        let outdated = register(&mut inbox.reader, cx);
        let begin = inbox.receiving == Receiving::Nothing;
        if begin {
            inbox.receiving = Receiving::Begun;
        }
        drop(inbox);
        drop(outdated);
        if begin {
            if let Err((error, _)) = self.begin_receiving(Operation::WaitReadable, READY) {
                return self.refused(error).map(Err);
            }
        }
        Poll::Pending
    }

    /// Asks for the end of what the port receives, or waits for: a read of which nothing has come is
    /// then ready with 0 bytes.
    pub(in crate::net) fn end_receiving(&self) {
        let id = self.state.inbox.lock().end();
        if let Some(id) = id {
            self.handle.cancel(id);
        }
    }
}
