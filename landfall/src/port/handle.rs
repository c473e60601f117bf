//! A socket or file that belongs to a port.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use super::address::Address;
use super::error::SubmitError;
use super::operation::{Operation, OperationId};
use super::{CompletionPort, Shared};
use crate::driver::{Driver, OwnedDescriptor, SocketRef};
use crate::sync::atomic::{AtomicU8, Ordering};

/// What a handle is associated with: a key, and how its completions are delivered.
#[derive(Clone, Default)]
#[must_use = "it does nothing before a port is given it"]
pub struct Association {
    pub(crate) key: usize,
    pub(crate) serial: bool,
    pub(crate) context: Option<Arc<dyn Any + Send + Sync>>,
    pub(crate) beside: Option<Handle>,
}

impl Association {
    /// An ordinary association: completions go to whichever worker asks first.
    pub fn new(key: usize) -> Self {
        Association {
            key,
            ..Association::default()
        }
    }

    /// Delivers the handle's completions one at a time, in order: the next one is held back until
    /// the last has been dropped, whoever took it.
    pub fn serial(mut self, serial: bool) -> Self {
        self.serial = serial;
        self
    }

    /// Anything the program wants to find again from a completion, by [`Handle::context`].
    pub fn context(mut self, context: Arc<dyn Any + Send + Sync>) -> Self {
        self.context = Some(context);
        self
    }

    /// Puts the socket into the [lane](super::Builder::lanes) of another one of the same port, and
    /// not into the lane that has the fewest: for two sockets of which each answers what comes by the
    /// other, as in a proxy. One worker then waits for both, where two would wake each other.
    ///
    /// Any worker still takes any completion. A connection that the port accepted is in a lane already
    /// and stays there; files, and Windows, where a port has one queue, need no such advice.
    ///
    /// The association refers to the other socket, which stays open as long as this does: associate
    /// with it soon.
    pub fn beside(mut self, other: &Handle) -> Self {
        self.beside = Some(other.clone());
        self
    }
}

impl fmt::Debug for Association {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Association")
            .field("key", &self.key)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// A socket or file associated with a port.
///
/// Clones name the same socket and the same key. An operation that is pending keeps the socket
/// alive; when neither a clone nor an operation is left, the socket is closed.
///
/// All of that is true of files as well. They take the operations
/// [`ReadAt`](Operation::ReadAt), [`WriteAt`](Operation::WriteAt), [`SyncAll`](Operation::SyncAll)
/// and [`SyncData`](Operation::SyncData), and sockets take all others.
///
/// ```
/// use std::io::Write;
/// use std::net::{TcpListener, TcpStream};
///
/// use landfall::port::{CompletionPort, Operation};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// let (connection, _) = listener.accept()?;
///
/// let port = CompletionPort::new(0)?;
/// let connection = port.associate(connection, 7)?;
/// connection.submit(Operation::ReceiveOnce, 1)?;
/// client.write_all(b"hello")?;
/// let mut received = port.get(None)?;
/// assert_eq!((received.key(), received.token(), received.result()?), (7, 1, 5));
/// let data = received.take_buffer().expect("what was received");
/// connection.submit(Operation::Send(data), 2)?;
/// let sent = port.get(None)?;
/// assert_eq!((sent.key(), sent.token(), sent.result()?), (7, 2, 5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    socket: SocketRef,
    key: usize,
    turn: Turn,
    context: Option<Arc<dyn Any + Send + Sync>>,
    peer: OnceLock<Address>,
}

impl Handle {
    pub(crate) fn new(
        shared: Arc<Shared>,
        socket: SocketRef,
        association: Association,
        peer: Option<SocketAddr>,
    ) -> Self {
        Handle(Arc::new(Inner {
            shared,
            socket,
            key: association.key,
            turn: Turn::new(association.serial),
            context: association.context,
            peer: peer
                .map(Address::from)
                .map(OnceLock::from)
                .unwrap_or_default(),
        }))
    }

    /// Queues an operation. It completes on the port, whatever becomes of it, exactly once (a
    /// stream of accepts or receives: any number of times, the last of them marked
    /// [final](super::Completion::is_final)).
    ///
    /// The completion may be taken by another thread before this call returns: publish what its
    /// handler needs first. `token` comes back with each completion.
    ///
    /// At most one receive and one send of a socket are with the system at a time; others wait
    /// their turn in the port, in the order of submission, and move up when a thread takes from
    /// the port.
    ///
    /// Operations on a file have no order: any number may be with the system at a time, and each
    /// completes when it is done. Ranges that overlap are the program's own affair, as with the
    /// system's calls. Where the system does a file's operation only while the caller waits, it is
    /// done in this call, which then blocks as any other call on a file would: on readiness all of
    /// them, on Windows those that store (`SyncAll`, `SyncData`). A worker that blocks is covered by
    /// another one.
    ///
    /// # Errors
    ///
    /// Only what is known before anything is queued: the port or the handle is closed, the
    /// operation does not fit the handle. The operation comes back with its buffers. Every failure
    /// of the system is a completion.
    pub fn submit(&self, operation: Operation, token: usize) -> Result<OperationId, SubmitError> {
        self.0.shared.submit(self, operation, token)
    }

    /// Asks for an end of one operation. `true` means that it was asked: the operation still
    /// completes exactly once, as aborted or as whatever it had come to. `false`: there is no such
    /// operation any more.
    ///
    /// ```
    /// use std::net::UdpSocket;
    ///
    /// use landfall::port::{CompletionPort, Operation, is_aborted};
    ///
    /// let port = CompletionPort::new(0)?;
    /// let socket = port.associate(UdpSocket::bind("127.0.0.1:0")?, 7)?;
    /// let receive = socket.submit(Operation::ReceiveOnce, 1)?;
    /// assert!(socket.cancel(receive));
    /// let cancelled = port.get(None)?;
    /// assert_eq!(cancelled.id(), receive);
    /// assert!(is_aborted(&cancelled.result().unwrap_err()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cancel(&self, id: OperationId) -> bool {
        self.0.shared.cancel(self.0.socket, id)
    }

    /// Asks for an end of every operation of this handle, whichever thread submitted it, and
    /// tells how many there were.
    pub fn cancel_all(&self) -> usize {
        self.0.shared.cancel_all(self.0.socket)
    }

    /// Closes the socket now. Pending operations complete as aborted, later ones are refused.
    pub fn close(&self) {
        self.0.shared.close_socket(self.0.socket);
    }

    /// Closes a listener that nobody else has: on Linux its address is free when this returns, to whoever
    /// binds with `SO_REUSEADDR`, also while the system ends accepts that were under way.
    pub(crate) fn close_listener(&self) {
        self.cancel_all();
        self.driver().stop_listening(self.0.socket);
        self.close();
    }

    /// The key given at association.
    pub fn key(&self) -> usize {
        self.0.key
    }

    /// The context given at association.
    pub fn context(&self) -> Option<&Arc<dyn Any + Send + Sync>> {
        self.0.context.as_ref()
    }

    /// The port that the handle belongs to.
    ///
    /// # Errors
    ///
    /// Fails when every clone of the port is gone.
    pub fn port(&self) -> io::Result<CompletionPort> {
        CompletionPort::of(&self.0.shared)
    }

    /// The local address.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) for a Unix socket, which has
    /// `Handle::unix_local_addr`. What the system answers; asking costs a few system calls.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        super::os::local_addr(self.driver(), self.0.socket)
    }

    /// The peer's address. It is kept from the accept or the first time it was asked for: of a datagram
    /// socket that is connected to one after another, it is the first of which it was asked.
    ///
    /// # Errors
    ///
    /// What the system answers, `NotConnected` for one. [`Unsupported`](io::ErrorKind::Unsupported)
    /// for a Unix socket, which has `Handle::unix_peer_addr`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        if let Some(address) = self.0.peer.get() {
            return Ok(address.get());
        }
        let address = super::os::peer_addr(self.driver(), self.0.socket)?;
        Ok(self.0.peer.get_or_init(|| address.into()).get())
    }

    /// A socket of the program's own for the port's.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedDescriptor> {
        self.driver().descriptor(self.0.socket)
    }

    pub(crate) fn driver(&self) -> &dyn Driver {
        self.0.shared.driver.as_ref()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.0.shared, shared)
    }

    pub(crate) fn socket(&self) -> SocketRef {
        self.0.socket
    }

    /// Whether a completion may be handed out now; if not, it must be held back until
    /// [`Driver::next_turn`] asks for it.
    pub(crate) fn take_turn(&self) -> bool {
        self.0.turn.take()
    }

    pub(crate) fn completion_dropped(&self) {
        if self.0.turn.give_back() {
            self.0.shared.next_turn(self.0.socket);
        }
    }

    /// Called with the lane's lock held when one held-back completion goes out and `more` follow.
    pub(crate) fn keep_turn(&self, more: bool) {
        self.0.turn.keep(more);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.release(self.socket);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("key", &self.0.key)
            .field("socket", &self.0.socket)
            .finish_non_exhaustive()
    }
}

/// Whose turn it is on a serial handle: at most one of its completions is out at a time.
struct Turn(AtomicU8);

impl Turn {
    const NOT_SERIAL: u8 = 0;
    const FREE: u8 = 1;
    const OUT: u8 = 2;
    /// One is out and others are held back.
    const OUT_AND_HELD: u8 = 3;

    fn new(serial: bool) -> Self {
        Turn(AtomicU8::new(if serial {
            Self::FREE
        } else {
            Self::NOT_SERIAL
        }))
    }

    /// Callers hold the lane's lock, so only `give_back` runs beside this, which writes to a turn that
    /// is out and to no other: one that is free is ours to write.
    fn take(&self) -> bool {
        match self.0.load(Ordering::Acquire) {
            Self::NOT_SERIAL => true,
            Self::FREE => {
                self.0.store(Self::OUT, Ordering::Relaxed);
                true
            }
            _ => self.take_behind(),
        }
    }

    /// Takes the turn if it has just come free, or notes that another one waits for it.
    fn take_behind(&self) -> bool {
        let free = self.0.compare_exchange(
            Self::OUT,
            Self::OUT_AND_HELD,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) == Err(Self::FREE);
        if free {
            self.0.store(Self::OUT, Ordering::Relaxed);
        }
        free
    }

    /// Returns whether a held-back completion is to be let out; the turn then stays taken.
    fn give_back(&self) -> bool {
        if self.0.load(Ordering::Relaxed) == Self::NOT_SERIAL {
            return false;
        }
        self.0
            .compare_exchange(Self::OUT, Self::FREE, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
    }

    fn keep(&self, more: bool) {
        let state = if more { Self::OUT_AND_HELD } else { Self::OUT };
        self.0.store(state, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::sync::Mutex;

    /// One completion is out and is dropped, while the next one comes.
    #[test]
    fn loom_the_next_turn_is_taken_or_handed_on_however_they_meet() {
        loom::model(|| {
            let turn = loom::sync::Arc::new(Turn::new(true));
            let held = loom::sync::Arc::new(Mutex::new(false));
            assert!(turn.take());
            let comes = {
                let (turn, held) = (turn.clone(), held.clone());
                loom::thread::spawn(move || {
                    let mut held = held.lock();
                    let taken = turn.take();
                    *held = !taken;
                    taken
                })
            };
            let handed_on = turn.give_back() && {
                let mut held = held.lock();
                turn.keep(false);
                std::mem::take(&mut *held)
            };
            let taken = comes.join().expect("no panic");
            assert!(taken != handed_on, "taken {taken}, handed on {handed_on}");
            assert!(!turn.give_back(), "nobody waits any more");
            assert!(turn.take(), "and it is free");
        });
    }
}

#[cfg(all(test, unix, not(loom)))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::port::{Builder, DriverChoice};

    #[test]
    fn a_socket_beside_another_is_in_its_lane() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("is bound");
        let connect = || TcpStream::connect(address).expect("connects");
        for driver in [DriverChoice::Auto, DriverChoice::Poll] {
            let port = Builder::new().lanes(4).driver(driver).build();
            let port = port.expect("the driver can be set up");
            let sockets: Vec<_> = (0..4)
                .map(|key| port.associate(connect(), key).expect("associates"))
                .collect();
            for socket in &sockets {
                let beside = Association::new(9).beside(socket);
                let other = port.associate_with(connect(), beside).expect("associates");
                assert_eq!(other.socket().lane, socket.socket().lane);
            }
        }
    }
}
