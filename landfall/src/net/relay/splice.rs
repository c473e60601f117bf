//! Bulk without copies: from a socket into a pipe, and out of it into the other socket.
//!
//! The worker makes the calls itself. io_uring has them as operations, but hands each to a thread of
//! the kernel's.

use std::io;

use super::bulk::Bulk;
use super::direction::{Direction, Failure};
use super::os::Sockets;
use super::pipes::{Lent, PipePool};
use crate::net::socket::Socket;
use crate::port::Operation;
use crate::runtime;

/// Bytes that a direction moves without a wait before it lets other tasks run.
const TURN: usize = 1024 * 1024;

/// A pipe, and the sockets on both sides of it.
pub(super) struct Splice {
    pipe: Lent,
    sockets: Sockets,
}

impl Splice {
    pub(super) fn new(pipes: &PipePool, from: &Socket, to: &Socket) -> io::Result<Self> {
        Ok(Splice {
            pipe: pipes.lend()?,
            sockets: Sockets::of(from, to)?,
        })
    }

    /// Moves bytes until the bulk is over, or the stream is. What was received by the port has been
    /// passed on, and the pipe is empty before and after.
    pub(super) async fn run(
        mut self,
        direction: &Direction<'_>,
        mut bulk: Bulk,
    ) -> Result<(), Failure> {
        let mut turn = 0;
        loop {
            let bytes = match self.sockets.fill(self.pipe.pipe()) {
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    turn = 0;
                    match bulk.wait(direction).await? {
                        true => continue,
                        false => return Ok(()),
                    }
                }
                Err(error) => return Err(direction.receiving(error)),
            };
            direction.from.state.received_past_port(bytes);
            self.pipe.is_empty = false;
            self.drain(direction, bytes).await?;
            self.pipe.is_empty = true;
            if bulk.is_over_after(bytes) {
                return Ok(());
            }
            turn += bytes;
            if turn >= TURN {
                turn = 0;
                runtime::yield_now().await;
            }
        }
    }

    /// Moves on what is in the pipe.
    async fn drain(&self, direction: &Direction<'_>, bytes: usize) -> Result<(), Failure> {
        let mut left = bytes;
        while left > 0 {
            match self.sockets.drain(self.pipe.pipe(), left) {
                Ok(sent) => {
                    left -= sent;
                    direction.to.state.sent_past_port(sent);
                    direction.count(sent, true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let room = direction.to.call(Operation::WaitWritable).await;
                    room.result.map_err(|error| direction.sending(error))?;
                }
                Err(error) => return Err(direction.sending(error)),
            }
        }
        Ok(())
    }
}
