//! The echo servers under test: one module each, in the best form its library has, all with
//! `serve`, which runs until the process is ended.

mod compio;
mod landfall_port;
mod landfall_runtime;
mod monoio;
#[allow(unsafe_code, reason = "the limit is written by hand")]
mod ring;
#[allow(unsafe_code, reason = "the limit is written by hand")]
mod ring_poll;
mod threads;
mod tokio;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use landfall::port::DriverChoice;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// Holds the largest message of the benchmark with room to spare, so that a message that arrived
/// whole is received whole, and a reader built on readiness learns from the short read that there is
/// no more. Not a power of two: the buffers of a pool should not all begin in the same cache set.
const RECEIVE_SIZE: usize = 16 * 1024 + 64;
/// A burst of connections must not overflow the queue: a dropped SYN costs a second.
const BACKLOG: i32 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stack {
    LandfallPort,
    LandfallPoll,
    LandfallRuntime,
    Tokio,
    Compio,
    Monoio,
    Threads,
    Ring,
    RingDefer,
    RingPoll,
}

/// What a server may know before its clients come, to choose its sizes by.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub workers: usize,
    pub connections: usize,
}

/// What a stack is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What this benchmark is about.
    Subject,
    /// A way in which people write servers today.
    Peer,
    /// The least that the kernel's interface allows, with nothing on top.
    Limit,
}

impl Stack {
    pub fn name(self) -> &'static str {
        match self {
            Stack::LandfallPort => "landfall-port",
            Stack::LandfallPoll => "landfall-poll",
            Stack::LandfallRuntime => "landfall-runtime",
            Stack::Tokio => "tokio",
            Stack::Compio => "compio",
            Stack::Monoio => "monoio",
            Stack::Threads => "threads",
            Stack::Ring => "ring",
            Stack::RingDefer => "ring-defer",
            Stack::RingPoll => "ring-poll",
        }
    }

    pub fn role(self) -> Role {
        match self {
            Stack::LandfallPort | Stack::LandfallPoll | Stack::LandfallRuntime => Role::Subject,
            Stack::Tokio | Stack::Compio | Stack::Monoio | Stack::Threads => Role::Peer,
            Stack::Ring | Stack::RingDefer | Stack::RingPoll => Role::Limit,
        }
    }

    /// Whether a connection stays with the thread that accepted it, whatever holds that thread up.
    pub fn is_thread_per_core(self) -> bool {
        match self {
            Stack::LandfallPort
            | Stack::LandfallPoll
            | Stack::LandfallRuntime
            | Stack::Tokio
            | Stack::Threads => false,
            Stack::Compio | Stack::Monoio | Stack::Ring | Stack::RingDefer | Stack::RingPoll => {
                true
            }
        }
    }

    /// Thread-per-core stacks have one listener a worker; the kernel spreads connections over them.
    fn listeners(self, workers: usize) -> usize {
        if self.is_thread_per_core() {
            workers
        } else {
            1
        }
    }

    /// Serves on `port` of the loopback address (0 chooses one) until the process is ended.
    /// `listening` is told the address as soon as clients may connect.
    pub fn serve(
        self,
        expected: Expected,
        port: u16,
        listening: impl FnOnce(SocketAddr),
    ) -> Result<()> {
        let mut listeners = vec![listen(port)?];
        let address = listeners[0].local_addr()?;
        while listeners.len() < self.listeners(expected.workers) {
            listeners.push(listen(address.port())?);
        }
        listening(address);
        match self {
            Stack::LandfallPort => {
                landfall_port::serve(listeners.remove(0), expected, DriverChoice::Auto)
            }
            Stack::LandfallPoll => {
                landfall_port::serve(listeners.remove(0), expected, DriverChoice::Poll)
            }
            Stack::LandfallRuntime => landfall_runtime::serve(listeners.remove(0), expected),
            Stack::Tokio => tokio::serve(listeners.remove(0), expected),
            Stack::Compio => thread_per_core(listeners, expected, compio::serve),
            Stack::Monoio => thread_per_core(listeners, expected, monoio::serve),
            Stack::Threads => threads::serve(listeners.remove(0)),
            Stack::Ring => thread_per_core(listeners, expected, ring::serve_cooperative),
            Stack::RingDefer => thread_per_core(listeners, expected, ring::serve_deferred),
            Stack::RingPoll => thread_per_core(listeners, expected, ring_poll::serve),
        }
    }
}

/// Accepted sockets inherit the listener's `TCP_NODELAY`: without it a server that answers a message
/// in two pieces would measure Nagle's algorithm.
fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn thread_per_core(
    listeners: Vec<TcpListener>,
    expected: Expected,
    serve: fn(TcpListener, Expected) -> Result<()>,
) -> Result<()> {
    let workers: Vec<_> = listeners
        .into_iter()
        .map(|listener| thread::spawn(move || serve(listener, expected)))
        .collect();
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a worker panicked"))??;
    }
    Ok(())
}
