//! The two connections of a relay, and how they end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use super::direction::{Direction, Failure};
use super::quiet::Quiet;
use super::{Relay, RelayCounters, RelayEnd, Side, Start};
use crate::net::socket::{Owned, Socket};
use crate::port::{Operation, SocketOption};
use crate::runtime;
use crate::runtime::time::timeout;

/// Reset when dropped, unless the relay has come to its end.
pub(super) struct Pair {
    client: Option<Owned>,
    server: Option<Owned>,
}

impl Pair {
    pub(super) fn new(client: Owned, server: Owned) -> Self {
        for socket in [&client, &server] {
            socket.state.inbox.lock().outlast_drain();
        }
        Pair {
            client: Some(client),
            server: Some(server),
        }
    }

    fn socket(&self, side: Side) -> &Socket {
        let socket = match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        socket.as_ref().expect("taken only at the end")
    }

    /// Relays until it is over, and closes or resets both sides.
    pub(super) async fn relay(mut self, relay: &Relay, start: Start) -> (RelayEnd, Option<Side>) {
        let (end, first_end) = self.pass_on(relay, start).await;
        let sockets = [self.client.take(), self.server.take()];
        if !matches!(end, RelayEnd::Finished) {
            for socket in sockets.into_iter().flatten() {
                socket.into_socket().reset().await;
            }
        }
        (end, first_end)
    }

    async fn pass_on(&self, relay: &Relay, start: Start) -> (RelayEnd, Option<Side>) {
        for side in [Side::Client, Side::Server] {
            // Refused, it costs some time, and nothing else.
            let at_once = Operation::SetOption(SocketOption::NoDelay(true));
            self.socket(side).begin_unawaited(at_once);
        }
        let to_server = self.direction(relay, Side::Client, &start.counters);
        let to_client = self.direction(relay, Side::Server, &start.counters);
        let to_server = pin!(to_server.run(start.to_server));
        let to_client = pin!(to_client.run(start.to_client));
        let both = Both {
            to_server: Some(to_server),
            to_client: Some(to_client),
            counters: &start.counters,
            quiet: Quiet::new(relay.idle_timeout, relay.half_close_timeout),
            first_end: None,
        };
        both.run(self).await
    }

    fn direction<'a>(
        &'a self,
        relay: &'a Relay,
        sender: Side,
        counters: &'a RelayCounters,
    ) -> Direction<'a> {
        Direction {
            relay,
            from: self.socket(sender),
            to: self.socket(sender.other()),
            sender,
            passed: match sender {
                Side::Client => &counters.to_server,
                Side::Server => &counters.to_client,
            },
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for socket in [self.client.take(), self.server.take()] {
            if let Some(socket) = socket.map(Owned::into_socket) {
                let shared = socket.state.shared.clone();
                // A runtime that is being dropped refuses the task, and with it goes the socket.
                drop(runtime::spawn_on(&shared, socket.reset()));
            }
        }
    }
}

/// Both directions, each until its end.
struct Both<'a, A, B> {
    to_server: Option<Pin<&'a mut A>>,
    to_client: Option<Pin<&'a mut B>>,
    counters: &'a RelayCounters,
    quiet: Quiet,
    first_end: Option<Side>,
}

/// What happens in a relay.
enum Event {
    Ended(Side),
    Failed(Failure),
    Quiet,
}

impl<A, B> Both<'_, A, B>
where
    A: Future<Output = Result<(), Failure>>,
    B: Future<Output = Result<(), Failure>>,
{
    async fn run(mut self, pair: &Pair) -> (RelayEnd, Option<Side>) {
        loop {
            let end = match poll_fn(|cx| self.poll(cx)).await {
                Event::Ended(_) if self.first_end.is_some() => RelayEnd::Finished,
                Event::Ended(side) => {
                    self.first_end = Some(side);
                    self.quiet.half_closed();
                    continue;
                }
                Event::Failed(Failure::Connection {
                    side,
                    receiving,
                    error,
                }) => {
                    self.deliver_the_rest(pair, side).await;
                    RelayEnd::Failed {
                        side,
                        receiving,
                        error,
                    }
                }
                Event::Failed(Failure::NoZeroCopy(error)) => RelayEnd::NoZeroCopy { error },
                Event::Quiet => match self.first_end {
                    None => RelayEnd::Idle,
                    Some(side) => RelayEnd::HalfCloseTimeout { open: side.other() },
                },
            };
            return (end, self.first_end);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(ended) = poll_direction(&mut self.to_server, cx) {
            return Poll::Ready(event(Side::Client, ended));
        }
        if let Poll::Ready(ended) = poll_direction(&mut self.to_client, cx) {
            return Poll::Ready(event(Side::Server, ended));
        }
        let moved = self.counters.to_server() + self.counters.to_client();
        self.quiet.poll(moved, cx).map(|()| Event::Quiet)
    }

    /// Passes on what has been received from a side whose connection is gone.
    async fn deliver_the_rest(&mut self, pair: &Pair, gone: Side) {
        let socket = pair.socket(gone.other());
        let deadline = socket.state.shared.close_deadline();
        let delivered = async {
            match gone {
                Side::Client => finish(self.to_server.take()).await,
                Side::Server => finish(self.to_client.take()).await,
            }
            poll_fn(|cx| socket.poll_flushed(cx)).await;
        };
        // What it has not taken by then it does not get.
        let _ = timeout(deadline, delivered).await;
    }
}

fn event(sender: Side, ended: Result<(), Failure>) -> Event {
    match ended {
        Ok(()) => Event::Ended(sender),
        Err(failure) => Event::Failed(failure),
    }
}

/// Polls a direction that has not ended.
fn poll_direction<D: Future>(
    direction: &mut Option<Pin<&mut D>>,
    cx: &mut Context<'_>,
) -> Poll<D::Output> {
    let Some(running) = direction else {
        return Poll::Pending;
    };
    let polled = running.as_mut().poll(cx);
    if polled.is_ready() {
        *direction = None;
    }
    polled
}

/// Waits for the end of a direction, however it ends.
async fn finish<D: Future>(direction: Option<Pin<&mut D>>) {
    if let Some(running) = direction {
        running.await;
    }
}
