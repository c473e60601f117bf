//! Sending a range of a file.
//!
//! The port tells how many bytes went when all have. A connection with an idle timeout has to know
//! sooner, so there the range goes in pieces, each of which is traffic.

use std::fs::File;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use socket2::SockRef;

use super::calls::Call;
use super::os::{self, BROKEN_PIPE, RESET};
use super::socket::Socket;
use crate::clock::now;
use crate::driver::OwnedDescriptor;
use crate::port::Operation;

/// A piece. The slowest peer that is not taken for an idle one takes so many bytes within the timeout.
const LEAST: u64 = 1024 * 1024;

/// Pieces are larger, since larger ones cost less, for a peer that takes one in so small a part of the
/// timeout that it may as well become a lot slower.
const MOST: u64 = 8 * LEAST;
const FAST: u32 = 64;

/// Bytes that one attempt hands to the system at most: others of the worker's tasks wait that long.
const MOST_AT_ONCE: u64 = 2 * LEAST;

impl Socket {
    /// Sends what the system takes at once of a head and a file, if nothing is before them.
    pub(super) fn try_send_file(
        &self,
        head: &[u8],
        file: &File,
        offset: u64,
        length: u64,
    ) -> io::Result<u64> {
        let is_shut = {
            let calls = self.state.calls.lock();
            calls.check_idle()?;
            calls.is_shut()
        };
        let descriptor = self.descriptor_past_port()?;
        let length = length.min(MOST_AT_ONCE);
        let sent = os::send_file_at_once(descriptor, head, file, offset, length);
        let sent = sent.map_err(|error| match error.raw_os_error() {
            // Our own doing.
            Some(BROKEN_PIPE) if is_shut => error,
            Some(RESET | BROKEN_PIPE) => {
                self.state.set_reset();
                io::Error::from_raw_os_error(RESET)
            }
            _ => error,
        })?;
        self.state.sent_past_port(sent as usize);
        Ok(sent)
    }

    /// A descriptor of the socket, which does not block. It is made once: that takes longer than to send
    /// a small file.
    fn descriptor_past_port(&self) -> io::Result<&OwnedDescriptor> {
        if let Some(descriptor) = self.past_port.get() {
            return Ok(descriptor);
        }
        let descriptor = self.handle.descriptor()?;
        // The port works in either mode.
        SockRef::from(&descriptor).set_nonblocking(true)?;
        Ok(self.past_port.get_or_init(|| descriptor))
    }
}

/// What `send_file` of a stream returns.
pub(super) struct SendFile<'a> {
    socket: &'a Socket,
    file: Arc<File>,
    /// Of the piece that is being sent.
    offset: u64,
    piece: u64,
    begun: Instant,
    /// Where the range ends.
    end: u64,
    sent: u64,
    call: Call<'a>,
}

impl<'a> SendFile<'a> {
    pub(super) fn new(socket: &'a Socket, file: Arc<File>, offset: u64, length: u64) -> Self {
        let mut end = offset.saturating_add(length);
        let mut piece = end - offset;
        if socket.state.idle_timeout().is_some() {
            end = end.min(end_of(&file).max(offset));
            piece = LEAST.min(end - offset);
        }
        let call = socket.call(Operation::SendFile {
            file: file.clone(),
            offset,
            length: piece,
        });
        SendFile {
            socket,
            file,
            offset,
            piece,
            begun: now(),
            end,
            sent: 0,
            call,
        }
    }

    /// The length of the piece that follows.
    fn next_piece(&self) -> u64 {
        let left = self.end - self.offset;
        let Some(timeout) = self.socket.state.idle_timeout() else {
            return left;
        };
        let took = now().saturating_duration_since(self.begun);
        let most = match took < timeout / FAST {
            true => self.piece.saturating_mul(2).min(MOST),
            false => LEAST,
        };
        left.min(most)
    }

    /// Leaves what remains of the range to the port, if any of it has been: it is sent whole, whether
    /// or not somebody waits for that.
    fn leave(&self, piece_is_submitted: bool) {
        let offset = match piece_is_submitted {
            true => self.offset + self.piece,
            false if self.sent > 0 => self.offset,
            false => return,
        };
        if offset < self.end {
            self.socket.begin_unawaited(Operation::SendFile {
                file: self.file.clone(),
                offset,
                length: self.end - offset,
            });
        }
    }
}

/// Where a file ends now. If it grows while its pieces are sent, none of them may begin behind a short
/// one.
fn end_of(file: &File) -> u64 {
    match file.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => metadata.len(),
        // A device, or a file that the system makes up as it is read: they do not say.
        _ => u64::MAX,
    }
}

impl Future for SendFile<'_> {
    type Output = io::Result<u64>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let is_submitted = this.call.is_submitted();
            let done = ready!(Pin::new(&mut this.call).poll(cx));
            if let Err(error) = done.result {
                this.leave(is_submitted);
                return Poll::Ready(Err(error));
            }
            let sent = done.bytes as u64;
            this.sent += sent;
            if sent < this.piece || this.offset + sent == this.end {
                return Poll::Ready(Ok(this.sent));
            }
            this.offset += sent;
            this.piece = this.next_piece();
            this.begun = now();
            this.call = this.socket.call(Operation::SendFile {
                file: this.file.clone(),
                offset: this.offset,
                length: this.piece,
            });
        }
    }
}

impl Drop for SendFile<'_> {
    fn drop(&mut self) {
        if !self.call.is_done() {
            self.leave(self.call.is_submitted());
        }
    }
}
