//! One direction of a relay.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Side;
use crate::buffer::Buffer;
use crate::net::socket::Socket;
use crate::port::Operation;

/// From one side to the other.
pub(super) struct Direction<'a> {
    pub(super) from: &'a Socket,
    pub(super) to: &'a Socket,
    /// The side that is received from.
    pub(super) sender: Side,
    /// Counts the bytes passed on.
    pub(super) passed: &'a AtomicU64,
}

/// Why a direction has ended before its sender did.
pub(super) struct Failure {
    pub(super) side: Side,
    pub(super) receiving: bool,
    pub(super) error: io::Error,
}

impl Direction<'_> {
    /// Passes on what comes, after `first`, and then the end.
    pub(super) async fn run(&self, first: Buffer) -> Result<(), Failure> {
        if !first.is_empty() {
            self.pass_on(first).await?;
        }
        while let Some(buffer) = self.from.receive().await.map_err(self.receiving())? {
            self.pass_on(buffer).await?;
        }
        let shutdown = self.to.call(Operation::Shutdown(Shutdown::Write)).await;
        shutdown.result.map_err(self.sending())
    }

    /// Nobody waits for the end of a send: the next one waits for room, and a failure is found by it.
    async fn pass_on(&self, buffer: Buffer) -> Result<(), Failure> {
        let bytes = buffer.len();
        let queued = self.to.queue(Operation::Send(buffer)).await;
        queued.map_err(self.sending())?;
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    fn receiving(&self) -> impl Fn(io::Error) -> Failure + use<> {
        let side = self.sender;
        move |error| Failure {
            side,
            receiving: true,
            error,
        }
    }

    fn sending(&self) -> impl Fn(io::Error) -> Failure + use<> {
        let side = self.sender.other();
        move |error| Failure {
            side,
            receiving: false,
            error,
        }
    }
}
