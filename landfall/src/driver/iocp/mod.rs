//! Windows' own completion ports.
//!
//! The kernel keeps the queue, releases waiting threads (the last one first) and sees to it that no
//! more run than the port was created for; nothing of that is done here. What is: operations own
//! their memory until their packet has been taken, a socket has at most one receive and one send
//! with the kernel, and every operation ends in exactly one final completion.
//!
//! Packets of sockets carry the socket's *name*, a number with a generation, as their key. The
//! block that comes with one is compared with those of the socket's operations before anything is
//! made of it. Completions that the kernel knows nothing of (an operation that failed or ended at
//! once, one that waited its turn) are queued here and announced by a packet of our own, so that
//! they wake a thread like any other.

mod accept;
mod code;
mod complete;
mod deadlines;
mod file;
mod op;
mod queue;
mod socket;
mod wine;
mod winsock;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::windows::io::OwnedSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slab::Slab;
use socket2::{Socket as SystemSocket, Type};

use super::accept_stream::{STREAM_LANE, Streams};
use super::file::FileRange;
use super::refusal::{self, closed, not_listening};
use super::{ABORTED, Driver, Origin, Sink, SocketRef, Submitted, SystemQueue, name};
use crate::buffer::Pool;
use crate::port::{
    BufferPolicy, Completion, GetError, Handle, Operation, OperationId, Posted, SubmitError,
};
use accept::Outcome;
use complete::{cancel_current, deliver, finished, start, withdraw};
use deadlines::Deadlines;
use op::{Begun, Kind, Op, Owner};
use queue::{Queue, Room};
use socket::{Socket, Sockets, State, Way};
use winsock::{Extensions, Sender};

pub(crate) use accept::Listener;
pub(crate) use winsock::use_address_exclusively;

/// Keys of our own packets; no socket has one of these names.
mod key {
    /// Wakes a thread.
    pub(super) const WAKE: usize = usize::MAX;
    /// A completion is ready.
    pub(super) const READY: usize = usize::MAX - 1;
    /// A packet of the program's, kept under the number that comes with it.
    pub(super) const POSTED: usize = usize::MAX - 2;
}

/// How long a close waits for a packet before it looks again: other threads take some, too.
const DRAIN: Duration = Duration::from_millis(5);

pub(crate) struct Iocp(Arc<Core>);

/// What the driver and its queue share.
struct Core {
    queue: Queue,
    extensions: Extensions,
    buffers: Pool,
    sockets: Sockets,
    streams: Streams,
    deadlines: Deadlines,
    /// The program's packets: the kernel's have no room for all of their numbers.
    posted: Mutex<Slab<Posted>>,
    /// Completions to be handed out, each announced by a packet,
    ready: Mutex<VecDeque<Completion>>,
    /// but for so many, for which the system had no memory.
    unannounced: AtomicUsize,
    /// Operations that the kernel has, or whose packets are being worked off.
    in_kernel: AtomicUsize,
    /// Threads in `take`.
    waiting: AtomicUsize,
    ids: AtomicU64,
    closed: AtomicBool,
}

impl Iocp {
    pub(crate) fn new(concurrency: usize, buffers: BufferPolicy) -> io::Result<Self> {
        // The first socket of the process starts Winsock, before anything else needs it.
        let extensions = Extensions::look_up()?;
        let queue = Queue::new(concurrency)?;
        let buffers = Pool::new(buffers.size, buffers.count)?;
        Ok(Iocp(Arc::new_cyclic(|core| Core {
            queue,
            extensions,
            buffers,
            sockets: Sockets::default(),
            streams: Streams::default(),
            deadlines: Deadlines::new(core.clone()),
            posted: Mutex::default(),
            ready: Mutex::default(),
            unannounced: AtomicUsize::new(0),
            in_kernel: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            ids: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        })))
    }

    fn accept(
        &self,
        handle: &Handle,
        accept: crate::port::Accept,
        token: usize,
    ) -> Result<Submitted, SubmitError> {
        let core = &self.0;
        let socket = core.sockets.at(handle.socket().index);
        let mut state = socket.state.lock();
        let refused = match &state.system {
            _ if core.is_closed() || state.closing => Some(closed()),
            Some(system) if winsock::is_listener(system) => None,
            _ => Some(not_listening()),
        };
        if let Some(error) = refused {
            return Err(SubmitError {
                error,
                operation: Operation::Accept(accept),
            });
        }
        let (id, outcome) = accept::open(core, &socket, &mut state, accept, token, handle);
        drop(state);
        outcome.into_iter().flatten().for_each(|c| core.announce(c));
        Ok(submitted(id))
    }
}

impl Driver for Iocp {
    fn name(&self) -> &'static str {
        "iocp"
    }

    fn system_queue(&self) -> Option<Arc<dyn SystemQueue>> {
        Some(self.0.clone())
    }

    fn attach(
        &self,
        socket: SystemSocket,
        origin: Origin,
        _beside: Option<SocketRef>,
    ) -> Result<SocketRef, (io::Error, SystemSocket)> {
        let datagram = match origin {
            Origin::NewTcp => false,
            Origin::Program => match socket.r#type() {
                Ok(kind) => kind == Type::DGRAM,
                Err(error) => return Err((error, socket)),
            },
        };
        let socket = self.0.adopt(socket, datagram)?;
        Ok(socket.reference())
    }

    fn attach_file(&self, file: Arc<File>) -> io::Result<SocketRef> {
        file::attach(&self.0, file)
    }

    fn submit(
        &self,
        handle: &Handle,
        operation: Operation,
        token: usize,
        _worker: bool,
    ) -> Result<Submitted, SubmitError> {
        if let Operation::Accept(accept) = operation {
            return self.accept(handle, accept, token);
        }
        let core = &self.0;
        let socket = core.sockets.at(handle.socket().index);
        let mut state = socket.state.lock();
        let refusal = match () {
            () if core.is_closed() || state.closing => Some(closed()),
            () if state.file.is_some() => refusal::check_file(&operation).err(),
            () => refusal::check(&operation, socket.datagram).err(),
        };
        if let Some(error) = refusal {
            drop(state);
            return Err(SubmitError { error, operation });
        }
        if let Some(file) = state.file.clone() {
            return Ok(file::submit(core, state, &file, handle, operation, token));
        }
        let kind = kind_of(&socket, core.buffers.size(), operation);
        let id = core.next_id();
        let op = Op::new(id, kind, token, Some(handle.clone()));
        if let Some(code) = state.gap.filter(|_| op.sends_bytes()) {
            let completion = deliver(&mut state, finished(op, code, 0));
            completion.into_iter().for_each(|c| core.announce(c));
        } else if let Some(way) = way_of(&op.kind) {
            if state.direction(way).enter(op) {
                start(core, &mut state, way);
            }
        } else {
            core.do_now(&mut state, op);
        }
        Ok(submitted(id))
    }

    fn cancel(&self, socket: SocketRef, id: OperationId, _worker: bool) -> Option<u64> {
        let core = &self.0;
        let entry = core.sockets.at(socket.index);
        let mut state = entry.state.lock();
        if name::tag(id.0) == STREAM_LANE {
            let stream = core.streams.get(id.0);
            let stream = stream.filter(|stream| stream.socket == socket)?;
            accept::end(core, &mut state, &stream);
            return Some(0);
        }
        let named = |op: &Op| op.id == id.0;
        for way in [Way::Receives, Way::Sends] {
            let current = state.direction(way).current.as_deref().is_some_and(named);
            if current && cancel_current(core, &mut state, way)
                || withdraw(core, &mut state, way, ABORTED, named) > 0
            {
                return Some(0);
            }
        }
        (file::cancel(&mut state, named) > 0).then_some(0)
    }

    fn cancel_all(&self, socket: SocketRef, _worker: bool) -> (usize, u64) {
        let socket = self.0.sockets.at(socket.index);
        let count = (self.0).cancel_operations(&socket, &mut socket.state.lock());
        (count, 0)
    }

    fn close(&self, socket: SocketRef, _worker: bool) -> u64 {
        let socket = self.0.sockets.at(socket.index);
        self.0.close_socket(&socket);
        0
    }

    fn release(&self, socket: SocketRef, _worker: bool) -> u64 {
        let socket = self.0.sockets.remove(socket.index);
        // Nothing is pending: an operation would have kept the handle.
        let mut state = socket.state.lock();
        state.closing = true;
        state.close();
        0
    }

    fn next_turn(&self, socket: SocketRef) {
        let socket = self.0.sockets.at(socket.index);
        drop(complete::next_turn(&self.0, &socket));
    }

    fn descriptor(&self, socket: SocketRef) -> io::Result<OwnedSocket> {
        let socket = self.0.sockets.at(socket.index);
        let state = socket.state.lock();
        if state.file.is_some() {
            return Err(refusal::not_a_socket());
        }
        let system = state.system.as_ref().ok_or_else(closed)?;
        system.try_clone().map(OwnedSocket::from)
    }

    fn shutdown(&self) {
        let core = &self.0;
        core.close();
        for socket in core.sockets.all() {
            core.close_socket(&socket);
        }
        while core.in_kernel.load(Ordering::Acquire) > 0 {
            let mut discarded = Vec::new();
            let sink = &mut Sink::Many(&mut discarded);
            core.take_some(sink, usize::MAX, Some(Instant::now() + DRAIN));
        }
        // What was reported meanwhile may have been held back: only now is there no more of it.
        for socket in core.sockets.all() {
            let held: Vec<_> = socket.state.lock().held.take().collect();
            drop(held);
        }
        let ready = std::mem::take(&mut *core.ready.lock());
        drop(ready);
        core.posted.lock().clear();
        // This thread may have taken packets meant to wake others.
        core.wake_a_waiter();
    }
}

impl SystemQueue for Core {
    fn take(
        &self,
        sink: &mut Sink<'_>,
        max: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, GetError> {
        if self.is_closed() {
            return Err(GetError::Closed);
        }
        // A time too long for the clock is as good as none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let _waiting = Waiting::new(self);
        loop {
            if self.is_closed() {
                return Err(GetError::Abandoned);
            }
            let taken = self.take_some(sink, max, deadline);
            if taken > 0 {
                return Ok(taken);
            }
            let over = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if over && !self.is_closed() {
                return Err(GetError::TimedOut);
            }
        }
    }

    fn post(&self, item: Posted) -> io::Result<()> {
        let mut posted = self.posted.lock();
        if self.is_closed() {
            return Err(closed());
        }
        let number = posted.insert(item);
        // With the lock held, so that a close drops it or finds it announced.
        let announced = self.queue.post(key::POSTED, number);
        if announced.is_err() {
            posted.remove(number);
        }
        announced
    }

    /// On a port that is closed by `CloseHandle` threads stay asleep under some systems (Windows
    /// XP, Wine 8). So the handle stays open; a flag says that the port is closed, one packet for
    /// each wakes the threads that wait, and each looks at the flag.
    fn close(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        for _ in 0..self.waiting.load(Ordering::SeqCst) {
            self.wake_a_waiter();
        }
    }
}

/// Counts a thread in `take`. One that leaves a closed port wakes the next: it may have taken more
/// than one of the packets that were meant to.
struct Waiting<'a>(&'a Core);

impl<'a> Waiting<'a> {
    fn new(core: &'a Core) -> Self {
        core.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(core)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.0.is_closed() {
            self.0.wake_a_waiter();
        }
    }
}

impl Core {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn into_kernel(&self) {
        self.in_kernel.fetch_add(1, Ordering::AcqRel);
    }

    fn out_of_kernel(&self) {
        self.in_kernel.fetch_sub(1, Ordering::AcqRel);
    }

    fn wake_a_waiter(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Without memory for it, that thread wakes with the next packet or the end of its time.
            let _ = self.queue.post(key::WAKE, 0);
        }
    }

    /// Takes a socket over: associates it under a name of its own.
    fn adopt(
        &self,
        system: SystemSocket,
        datagram: bool,
    ) -> Result<Arc<Socket>, (io::Error, SystemSocket)> {
        let socket = self.sockets.insert(system, datagram);
        let mut state = socket.state.lock();
        let associated = match &state.system {
            // What comes without a wait must not wait.
            Some(system) => {
                if datagram {
                    winsock::ignore_undelivered(system);
                }
                self.queue
                    .associate(system, socket.name)
                    .and_then(|()| system.set_nonblocking(true))
            }
            None => Err(closed()),
        };
        match (associated, state.system.take()) {
            (Err(error), Some(system)) => {
                drop(state);
                self.sockets.remove(socket.reference().index);
                Err((error, system))
            }
            (_, system) => {
                state.system = system;
                drop(state);
                Ok(socket)
            }
        }
    }

    /// An operation that takes no time and has no order.
    fn do_now(&self, state: &mut State, mut op: Box<Op>) {
        let begun = match &state.system {
            Some(system) => op.begin(system, &self.extensions),
            None => Err(ABORTED),
        };
        debug_assert!(
            !matches!(begun, Ok(Begun::Pending)),
            "an option is set at once"
        );
        let code = begun.err().map_or(0, code::of_error);
        if let Some(completion) = deliver(state, finished(op, code, 0)) {
            self.announce(completion);
        }
    }

    /// Ends a socket's operations; those that wait for their turn first, so that none of them
    /// starts.
    fn cancel_operations(&self, socket: &Socket, state: &mut State) -> usize {
        let mut count = 0;
        for way in [Way::Receives, Way::Sends] {
            count += withdraw(self, state, way, ABORTED, |_| true);
            count += usize::from(cancel_current(self, state, way));
        }
        let streams = self.streams.of(socket.reference());
        for stream in &streams {
            accept::end(self, state, stream);
        }
        count + file::cancel(state, |_| true) + streams.len()
    }

    /// Closes a socket. What the kernel has of it comes back by packets.
    fn close_socket(&self, socket: &Socket) {
        let mut state = socket.state.lock();
        if std::mem::replace(&mut state.closing, true) {
            return;
        }
        self.cancel_operations(socket, &mut state);
        if let Some(system) = &state.system {
            winsock::cancel_all(system);
        }
        state.close();
    }

    /// Queues a completion that the kernel knows nothing of.
    fn announce(&self, completion: Completion) {
        self.ready.lock().push_back(completion);
        if self.queue.post(key::READY, 0).is_err() {
            self.unannounced.fetch_add(1, Ordering::Release);
        }
    }

    /// Takes what there is, waiting for it until `deadline`, but no longer than for one packet.
    fn take_some(&self, sink: &mut Sink<'_>, max: usize, deadline: Option<Instant>) -> usize {
        let mut taken = 0;
        let mut give = |completion: Completion| {
            if !self.is_closed() {
                sink.push(completion);
                taken += 1;
            }
        };
        if self.unannounced.load(Ordering::Relaxed) > 0 {
            let fewer = |count: usize| count.checked_sub(1);
            let one = self
                .unannounced
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, fewer);
            let completion = one.ok().and_then(|_| self.ready.lock().pop_front());
            if let Some(completion) = completion {
                give(completion);
                return taken;
            }
        }
        let mut room = Room::new();
        for packet in self.queue.take(&mut room, max, deadline) {
            let completion = match packet.key {
                key::WAKE => None,
                key::READY => self.ready.lock().pop_front(),
                key::POSTED => self
                    .posted
                    .lock()
                    .try_remove(packet.block)
                    .map(Completion::from),
                _ => self.one_of(complete::process(self, packet)),
            };
            completion.into_iter().for_each(&mut give);
        }
        taken
    }

    /// Of two completions that one packet brought, the second is announced.
    fn one_of(&self, [first, second]: Outcome) -> Option<Completion> {
        match (first, second) {
            (Some(first), Some(second)) => {
                self.announce(second);
                Some(first)
            }
            (first, second) => first.or(second),
        }
    }
}

impl fmt::Debug for Iocp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iocp").finish_non_exhaustive()
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

fn submitted(id: u64) -> Submitted {
    Submitted {
        id: OperationId(id),
        lanes: 0,
    }
}

/// The order that an operation takes part in, if any.
fn way_of(kind: &Kind) -> Option<Way> {
    match kind {
        Kind::Receive(_)
        | Kind::Pooled { .. }
        | Kind::Datagram(..)
        | Kind::DatagramFrom(..)
        | Kind::Readable
        | Kind::ReadableDatagram(_)
        | Kind::FirstData(..) => Some(Way::Receives),
        Kind::Send(_)
        | Kind::SendVectored(_)
        | Kind::SendTo(..)
        | Kind::SendFile(_)
        | Kind::Connect(..)
        | Kind::Shutdown(_) => Some(Way::Sends),
        Kind::SetOption(_) | Kind::File(_) => None,
    }
}

/// A vector whose spare capacity holds bytes of some value: a datagram that was cut is taken to have
/// filled it, without a count of the kernel's to say so.
fn written(mut vec: Vec<u8>) -> Vec<u8> {
    vec.spare_capacity_mut().fill(MaybeUninit::new(0));
    vec
}

/// Pairs an operation that fits the socket with the memory it needs.
fn kind_of(socket: &Socket, buffer_size: usize, operation: Operation) -> Kind {
    match operation {
        Operation::Receive(buffer) if socket.datagram => {
            Kind::Datagram(written(buffer), Owner::Program)
        }
        Operation::Receive(buffer) => Kind::Receive(buffer),
        Operation::ReceiveFrom(buffer) => Kind::DatagramFrom(written(buffer), Sender::new()),
        Operation::ReceiveStream => Kind::Pooled { once: false },
        Operation::ReceiveOnce if socket.datagram => {
            let buffer = written(Vec::with_capacity(buffer_size));
            Kind::Datagram(buffer, Owner::Driver)
        }
        Operation::ReceiveOnce => Kind::Pooled { once: true },
        Operation::WaitReadable if socket.datagram => Kind::ReadableDatagram(Vec::with_capacity(1)),
        Operation::WaitReadable => Kind::Readable,
        Operation::WaitWritable => unreachable!("refused"),
        Operation::Connect(address) => Kind::Connect(address, socket.datagram),
        Operation::Send(buffer) | Operation::SendZeroCopy(buffer) => Kind::Send(buffer),
        Operation::SendVectored(buffers) => Kind::SendVectored(buffers),
        Operation::SendTo { address, buffer } => Kind::SendTo(buffer, address),
        Operation::Shutdown(how) => Kind::Shutdown(how),
        Operation::SetOption(option) => Kind::SetOption(option),
        Operation::SendFile {
            file,
            offset,
            length,
        } => Kind::SendFile(FileRange::new(file, offset, length)),
        Operation::ReadAt { .. }
        | Operation::WriteAt { .. }
        | Operation::SyncAll
        | Operation::SyncData => unreachable!("refused on sockets"),
        Operation::Accept(_) => unreachable!("accepts are submitted as streams"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use crate::port::{CompletionPort, DriverChoice};

    use super::*;

    pub(super) fn port() -> CompletionPort {
        let builder = CompletionPort::builder().driver(DriverChoice::Iocp);
        builder.build().expect("Windows has ports")
    }

    /// Both sides of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let peer = TcpStream::connect(address).expect("connects");
        let (ours, _) = listener.accept().expect("accepts");
        (ours, peer)
    }

    /// A driver, a connection in it, and the other side.
    fn connected() -> (Iocp, SocketRef, TcpStream) {
        let driver = Iocp::new(1, BufferPolicy::default()).expect("Windows has ports");
        let (ours, peer) = pair();
        let socket = driver
            .attach(ours.into(), Origin::Program, None)
            .expect("associates");
        (driver, socket, peer)
    }

    #[test]
    fn packets_of_others_are_dropped_unread() {
        let (driver, socket, _peer) = connected();
        let core = &driver.0;
        let name = core.sockets.at(socket.index).name;
        let soon = || Some(Duration::from_millis(1));
        let strangers = [
            // A block of somebody's on our socket, one that is no pointer at all,
            (name, &raw const soon as usize),
            (name, 1),
            // a socket that was, one that never was,
            (name + (1 << 40), 0),
            (name + 1, 0),
            // and announcements of nothing.
            (key::READY, 0),
            (key::POSTED, 77),
            (key::WAKE, 0),
        ];
        for (key, block) in strangers {
            core.queue.post(key, block).expect("memory for a packet");
            let mut taken = Vec::new();
            assert_eq!(
                core.take(&mut Sink::Many(&mut taken), 8, soon()),
                Err(GetError::TimedOut),
                "key {key:x}"
            );
            assert!(taken.is_empty());
        }
        driver.shutdown();
    }

    #[test]
    fn a_packet_of_an_operation_is_told_from_one_of_a_duplicate() {
        let port = port();
        let (ours, mut peer) = pair();
        let ours = port.associate(ours, 1).expect("associates");
        let duplicate = SystemSocket::from(ours.try_clone_to_owned_socket().expect("open"));
        // The program's own operation, on the same socket, with a block of its own.
        let mut foreign = op::Op::new(0, Kind::Readable, 0, None);
        let extensions = Extensions::look_up().expect("Winsock has them");
        assert!(matches!(
            foreign.begin(&duplicate, &extensions),
            Ok(Begun::Pending)
        ));
        ours.submit(Operation::ReceiveOnce, 2).expect("submits");
        peer.write_all(b"for one").expect("connected");
        let received = port.get(Some(Duration::from_secs(10))).expect("comes");
        assert_eq!((received.token(), received.bytes()), (2, 7));
        let more = port.get(Some(Duration::from_millis(50)));
        assert_eq!(more.expect_err("one completion"), GetError::TimedOut);
    }

    #[test]
    fn nothing_follows_a_send_that_fails_at_once_when_its_turn_comes() {
        let port = port();
        let (ours, mut peer) = pair();
        let ours = port.associate(ours, 1).expect("associates");
        let no_file = Operation::SendFile {
            file: Arc::new(File::open("NUL").expect("a device")),
            offset: 0,
            length: 1,
        };
        let behind = || Operation::Send("behind".into());
        let operations = [
            Operation::Send("before".into()),
            no_file,
            behind(),
            behind(),
        ];
        for (token, operation) in operations.into_iter().enumerate() {
            ours.submit(operation, token).expect("submits");
        }
        let next = || port.get(Some(Duration::from_secs(10))).expect("comes");
        assert_eq!(next().result().expect("sent"), 6);
        let failed = next();
        let error = failed.result().expect_err("it has no length");
        assert_eq!((failed.token(), failed.bytes()), (1, 0));
        for token in 2..4 {
            let other = next();
            assert_eq!((other.token(), other.bytes()), (token, 0));
            let other = other.result().expect_err("it would follow a gap");
            assert_eq!(other.raw_os_error(), error.raw_os_error());
        }
        ours.close();
        let mut arrived = Vec::new();
        std::io::Read::read_to_end(&mut peer, &mut arrived).expect("a clean end");
        assert_eq!(arrived, b"before");
    }

    #[test]
    fn a_socket_that_lingers_is_closed_without_a_wait() {
        let (driver, socket, mut peer) = connected();
        let duplicate = SystemSocket::from(driver.descriptor(socket).expect("open"));
        let lingers = Some(Duration::from_secs(5));
        duplicate.set_linger(lingers).expect("an option");
        drop(duplicate);
        let begun = Instant::now();
        driver.close(socket, false);
        let end = std::io::Read::read(&mut peer, &mut [0]);
        assert_eq!(end.expect("no reset"), 0);
        assert!(begun.elapsed() < Duration::from_secs(4));
        driver.shutdown();
    }

    #[test]
    fn a_name_is_not_used_twice() {
        let (driver, socket, _peer) = connected();
        let before = driver.0.sockets.at(socket.index).name;
        driver.release(socket, false);
        let (other, _peer) = pair();
        let again = driver
            .attach(other.into(), Origin::Program, None)
            .expect("associates");
        assert_eq!(again.index, socket.index, "its place is free again");
        assert_ne!(driver.0.sockets.at(again.index).name, before);
        assert!(driver.0.sockets.named(before).is_none());
        driver.shutdown();
    }
}
