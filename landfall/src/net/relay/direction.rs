//! One direction of a relay.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;

use super::bulk::{Bulk, MUCH, Streak};
use super::counters::Passed;
use super::splice::Splice;
use super::{Relay, Side, ZeroCopy, os};
use crate::buffer::Buffer;
use crate::net::os::RESET;
use crate::net::socket::Socket;
use crate::port::Operation;

/// From one side to the other.
pub(super) struct Direction<'a> {
    pub(super) relay: &'a Relay,
    pub(super) from: &'a Socket,
    pub(super) to: &'a Socket,
    /// The side that is received from.
    pub(super) sender: Side,
    pub(super) passed: &'a Passed,
}

/// Why a direction has ended before its sender did.
pub(super) enum Failure {
    Connection {
        side: Side,
        receiving: bool,
        error: io::Error,
    },
    NoZeroCopy(io::Error),
}

impl Direction<'_> {
    /// Passes on what comes, after `first`, and then the end.
    pub(super) async fn run(&self, first: Buffer) -> Result<(), Failure> {
        if !first.is_empty() {
            self.pass_on(first).await?;
        }
        if self.relay.zero_copy == ZeroCopy::On {
            self.move_bulk().await?;
        }
        let mut streak = Streak::default();
        while let Some(buffer) = self.receive().await? {
            let is_bulk = streak.grows_long(buffer.len() >= MUCH);
            self.pass_on(buffer).await?;
            if is_bulk {
                self.move_bulk().await?;
            }
        }
        let shutdown = self.to.call(Operation::Shutdown(Shutdown::Write)).await;
        // Nobody has waited for the last sends, and a socket can be shut down though they have failed.
        let failure = self.to.state.calls.lock().failure();
        failure
            .map_or(shutdown.result, Err)
            .map_err(|error| self.sending(error))
    }

    async fn receive(&self) -> Result<Option<Buffer>, Failure> {
        let received = self.from.receive().await;
        received.map_err(|error| self.receiving(error))
    }

    /// Nobody waits for the end of a send: the next one waits for room, and a failure is found by it.
    async fn pass_on(&self, buffer: Buffer) -> Result<(), Failure> {
        let bytes = buffer.len();
        let queued = self.to.queue(Operation::Send(buffer)).await;
        queued.map_err(|error| self.sending(error))?;
        self.count(bytes, false);
        Ok(())
    }

    /// Moves what comes by the cheapest way to move much, as long as much comes.
    async fn move_bulk(&self) -> Result<(), Failure> {
        for buffer in poll_fn(|cx| self.from.poll_detach(cx)).await {
            self.pass_on(buffer).await?;
        }
        let bulk = Bulk::new(self.relay.zero_copy == ZeroCopy::On);
        match self.splice() {
            Some(Ok(splice)) => {
                poll_fn(|cx| self.to.poll_flushed(cx)).await;
                splice.run(self, bulk).await
            }
            Some(Err(error)) if self.relay.zero_copy == ZeroCopy::On => {
                Err(Failure::NoZeroCopy(error))
            }
            Some(Err(_)) => {
                self.relay.pipes.count_refusal();
                bulk.copy(self, &self.relay.large).await
            }
            None => bulk.copy(self, &self.relay.large).await,
        }
    }

    /// What zero copy needs, if it is wanted.
    fn splice(&self) -> Option<io::Result<Splice>> {
        let wanted = match self.relay.zero_copy {
            ZeroCopy::Off => false,
            ZeroCopy::Auto => os::IS_SUPPORTED,
            ZeroCopy::On => true,
        };
        wanted.then(|| Splice::new(&self.relay.pipes, self.from, self.to))
    }

    /// Counts bytes that are on their way.
    pub(super) fn count(&self, bytes: usize, spliced: bool) {
        self.passed.count(bytes, spliced);
    }

    /// Bytes counted so far.
    pub(super) fn moved(&self) -> u64 {
        self.passed.bytes()
    }

    pub(super) fn receiving(&self, error: io::Error) -> Failure {
        note_reset(self.from, &error);
        Failure::Connection {
            side: self.sender,
            receiving: true,
            error,
        }
    }

    pub(super) fn sending(&self, error: io::Error) -> Failure {
        note_reset(self.to, &error);
        Failure::Connection {
            side: self.sender.other(),
            receiving: false,
            error,
        }
    }
}

/// The system tells of a reset once; whoever else asks the socket is to hear of it too.
fn note_reset(socket: &Socket, error: &io::Error) {
    if error.raw_os_error() == Some(RESET) {
        socket.state.set_reset();
    }
}
