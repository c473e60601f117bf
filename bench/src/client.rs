//! The neutral client: one thread, one ring, one message in flight per connection, each reply
//! verified byte by byte.
//!
//! A request is a linked pair, "send all, then receive as many bytes", so that a message costs the
//! client one completion and, in a batch, less than one system call. The client must be quicker than
//! the servers, or it would measure itself.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use socket2::SockRef;

use crate::protocol::{COMPUTE, COMPUTE_LONG, FIRST_ORDINARY, SLEEP};

pub const LARGEST_MESSAGE: usize = 16 * 1024;

/// Ordinary messages are windows of one pattern that begin at this many different places, so that a
/// reply on the wrong connection, or an earlier one, differs. A prime, for an even spread.
const WINDOWS: usize = 4093;
static ORDINARY: LazyLock<Vec<u8>> = LazyLock::new(|| pattern(WINDOWS + LARGEST_MESSAGE));
static COMPUTING: LazyLock<Vec<u8>> = LazyLock::new(|| command(COMPUTE));
static COMPUTING_LONG: LazyLock<Vec<u8>> = LazyLock::new(|| command(COMPUTE_LONG));
static SLEEPING: LazyLock<Vec<u8>> = LazyLock::new(|| command(SLEEP));

const ENTRIES: u32 = 4096;
/// Holds a completion of each connection there can be.
const COMPLETIONS: u32 = 64 * 1024;
/// Marks the completion of a send; only failed ones are reported.
const SEND: u64 = 1 << 63;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a phase may take beyond what it plans.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a message asks of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Echo,
    Compute,
    ComputeLong,
    Sleep,
}

pub struct Client {
    ring: IoUring,
    server: SocketAddr,
    message_size: usize,
    connections: Vec<Connection>,
    in_flight: usize,
}

struct Connection {
    socket: TcpStream,
    reply: Box<[u8]>,
    /// What was sent and has not come back yet.
    request: Option<&'static [u8]>,
    /// Messages sent so far.
    sequence: usize,
}

/// A load at a fixed rate, whatever the server does.
pub struct OpenLoop {
    /// Messages a second over all connections, in turn.
    pub rate: u32,
    pub duration: Duration,
    /// One connection in so many (from the first on) asks for a computation, this one.
    pub computing: Option<(usize, Request)>,
    /// The last connection keeps its handler asleep instead of taking part.
    pub sleeper: bool,
}

/// A message of an open loop that has no reply yet; see [`Message`].
#[derive(Clone, Copy)]
struct Waiting {
    planned: Instant,
    reached: Instant,
}

/// An ordinary message of an open loop.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// When it was to be sent.
    pub planned: Instant,
    /// When the client came to it: what the machine itself adds.
    pub reached: Instant,
    /// When its reply was there.
    pub answered: Instant,
}

impl Client {
    pub fn new(server: SocketAddr, message_size: usize) -> Result<Self> {
        ensure!(
            (1..=LARGEST_MESSAGE).contains(&message_size),
            "a message has 1 to 16384 bytes"
        );
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)
            .context("the client needs io_uring (Linux 6.1 or later)")?;
        Ok(Self {
            ring,
            server,
            message_size,
            connections: Vec::new(),
            in_flight: 0,
        })
    }

    pub fn connect(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let socket = TcpStream::connect_timeout(&self.server, CONNECT_TIMEOUT)
                .with_context(|| format!("connection {} failed", self.connections.len() + 1))?;
            socket.set_nodelay(true)?;
            // Closed by a reset: a port in TIME_WAIT would be missing in a later round.
            SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
            self.connections.push(Connection {
                socket,
                reply: vec![0; self.message_size].into(),
                request: None,
                sequence: 0,
            });
        }
        Ok(())
    }

    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Puts the connections into an order, the same for all stacks, that has nothing to do with the one in
    /// which they came: a server may have given a run of them to one thread.
    pub fn shuffle(&mut self) {
        let mut place = 0_u64;
        self.connections.sort_by_cached_key(|_| {
            place += 1;
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(place);
            hasher.finish()
        });
    }

    /// Exchanges `total` messages over the connections from `first` on, each sending its next one
    /// when the reply to the last has arrived.
    pub fn closed_loop(&mut self, first: usize, total: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut sent = 0;
        for index in (first..self.connections.len()).take(total) {
            self.send(index, Request::Echo)?;
            sent += 1;
        }
        let mut answered = Vec::new();
        let mut received = 0;
        while received < total {
            self.receive(deadline, &mut answered)?;
            ensure!(
                !answered.is_empty() || Instant::now() < deadline,
                "{received} of {total} messages came back within {PATIENCE:?}"
            );
            for index in answered.drain(..) {
                received += 1;
                if sent < total {
                    self.send(index, Request::Echo)?;
                    sent += 1;
                }
            }
        }
        Ok(())
    }

    /// Sends by the clock, and measures from when each message was *planned* to be sent: a connection
    /// that is still waiting for a reply keeps its further messages waiting, and that counts. Returns
    /// the ordinary messages in the order of their replies.
    pub fn open_loop(&mut self, load: &OpenLoop) -> Result<Vec<Message>> {
        let sleeper = load.sleeper.then(|| self.connections.len() - 1);
        let senders = sleeper.unwrap_or(self.connections.len());
        let request_of = |index: usize| match load.computing {
            Some((every, request)) if index.is_multiple_of(every) => request,
            _ => Request::Echo,
        };
        let mut waiting: Vec<VecDeque<Waiting>> = vec![VecDeque::new(); senders];

        let interval = Duration::from_secs(1) / load.rate;
        let total = (load.duration.as_secs_f64() * f64::from(load.rate)) as u32;
        let mut messages = Vec::with_capacity(total as usize);
        let start = Instant::now();
        let deadline = start + load.duration + PATIENCE;
        if let Some(index) = sleeper {
            self.send(index, Request::Sleep)?;
        }
        let (mut sent, mut received) = (0, 0);
        let mut answered = Vec::new();
        while received < total {
            while sent < total && start + interval * sent <= Instant::now() {
                let index = sent as usize % senders;
                waiting[index].push_back(Waiting {
                    planned: start + interval * sent,
                    reached: Instant::now(),
                });
                sent += 1;
                if waiting[index].len() == 1 {
                    self.send(index, request_of(index))?;
                }
            }
            let next = if sent < total {
                start + interval * sent
            } else {
                deadline
            };
            self.receive(next, &mut answered)?;
            let now = Instant::now();
            ensure!(
                now < deadline,
                "{received} of {total} messages came back within {PATIENCE:?}"
            );
            for index in answered.drain(..) {
                if Some(index) == sleeper {
                    // Not beyond the end, or what is still under way would be delayed for ever.
                    if sent < total {
                        self.send(index, Request::Sleep)?;
                    }
                    continue;
                }
                received += 1;
                let Waiting { planned, reached } =
                    waiting[index].pop_front().context("a reply to nothing")?;
                if request_of(index) == Request::Echo {
                    messages.push(Message {
                        planned,
                        reached,
                        answered: now,
                    });
                }
                if !waiting[index].is_empty() {
                    self.send(index, request_of(index))?;
                }
            }
        }
        Ok(messages)
    }

    /// Puts a message and the receive of its reply into the submission queue; `receive` submits them.
    fn send(&mut self, index: usize, request: Request) -> Result<()> {
        let connection = &mut self.connections[index];
        assert!(
            connection.request.is_none(),
            "one message in flight per connection"
        );
        let message: &'static [u8] = match request {
            Request::Echo => {
                let window = (index * 31 + connection.sequence * 7) % WINDOWS;
                &ORDINARY[window..window + self.message_size]
            }
            Request::Compute => &COMPUTING[..self.message_size],
            Request::ComputeLong => &COMPUTING_LONG[..self.message_size],
            Request::Sleep => &SLEEPING[..self.message_size],
        };
        let socket = Fd(connection.socket.as_raw_fd());
        let length = self.message_size as u32;
        let send = opcode::Send::new(socket, message.as_ptr(), length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS)
            .user_data(SEND | index as u64);
        let receive = opcode::Recv::new(socket, connection.reply.as_mut_ptr(), length)
            .flags(libc::MSG_WAITALL)
            .build()
            .user_data(index as u64);
        connection.request = Some(message);
        connection.sequence += 1;
        self.in_flight += 1;

        let pair = [send, receive];
        if self.ring.submission().len() + pair.len() > ENTRIES as usize {
            self.ring.submit().context("cannot submit")?;
        }
        // SAFETY: the message is static. The reply's buffer is on the heap, is looked at only when
        // `request` is `None` again, which is when the receive has completed, and is not freed before
        // that: `drop` waits for it, or leaks it.
        unsafe { self.ring.submission().push_multiple(&pair) }.context("cannot queue a message")
    }

    /// Submits what is queued, waits for a reply until `deadline` at most, and adds the connections
    /// whose replies have arrived and are right to `answered`.
    fn receive(&mut self, deadline: Instant, answered: &mut Vec<usize>) -> Result<()> {
        self.submit_and_wait(deadline)?;
        for completion in self.ring.completion() {
            let (data, result) = (completion.user_data(), completion.result());
            let index = (data & !SEND) as usize;
            let name = || format!("connection {}", index + 1);
            if data & SEND != 0 {
                return Err(failure(result)).with_context(|| format!("{}: send failed", name()));
            }
            self.in_flight -= 1;
            let connection = &mut self.connections[index];
            let expected = connection.request.take().context("a reply to nothing")?;
            let length = usize::try_from(result)
                .map_err(|_| failure(result))
                .with_context(|| format!("{}: receive failed", name()))?;
            if length < expected.len() {
                bail!(
                    "{}: closed after {length} of {} bytes",
                    name(),
                    expected.len()
                );
            }
            ensure!(
                *connection.reply == *expected,
                "{}: the reply differs",
                name()
            );
            answered.push(index);
        }
        Ok(())
    }

    fn submit_and_wait(&self, deadline: Instant) -> Result<()> {
        let timeout = Timespec::from(deadline.saturating_duration_since(Instant::now()));
        let arguments = SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {
                Err(error).context("cannot wait for replies")
            }
            _ => Ok(()),
        }
    }
}

/// The kernel may write to a reply's buffer until its receive has completed.
impl Drop for Client {
    fn drop(&mut self) {
        for connection in &self.connections {
            // It fails only where the server has cut the connection, which completes the receive too.
            let _ = connection.socket.shutdown(std::net::Shutdown::Both);
        }
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.in_flight > 0 && Instant::now() < deadline {
            if self.submit_and_wait(deadline).is_err() {
                break;
            }
            let receives = self
                .ring
                .completion()
                .filter(|entry| entry.user_data() & SEND == 0);
            self.in_flight -= receives.count();
        }
        if self.in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.connections));
        }
    }
}

fn failure(result: i32) -> anyhow::Error {
    match result {
        0.. => anyhow!("only {result} bytes went out"),
        _ => io::Error::from_raw_os_error(-result).into(),
    }
}

/// Bytes without order (by xorshift), none of which is a command.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next().max(FIRST_ORDINARY)).collect()
}

fn command(first: u8) -> Vec<u8> {
    let mut message = pattern(LARGEST_MESSAGE);
    message[0] = first;
    message
}
