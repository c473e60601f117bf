//! The peers of a datagram socket, told apart.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::UdpSocket;
use crate::buffer::Buffer;
use crate::clock::now;
use crate::runtime::time::{Sleep, sleep};
use crate::waiting::{Waiting, until};

/// How long a session lasts without a datagram, unless told otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How many sessions there are at most, unless told otherwise.
const MOST_SESSIONS: usize = 1024;

/// What a datagram has at most, over IPv6.
const LONGEST: usize = 65_527;

/// Vectors that are kept for datagrams to come.
const MOST_SPARES: usize = 16;

/// The datagrams of one socket, told apart by who sends them. Clones are the same.
///
/// Datagrams make no connection, so a program that has something to keep for each peer makes one of
/// them: it [opens](Self::open) a session for a peer that it hears from, with a value of its own, which
/// comes with that peer's datagrams from then on. There are so many sessions
/// [and no more](Self::set_max_sessions), and each ends when no datagram has come or gone
/// [for a while](Self::set_idle_timeout).
///
/// One task receives for all of them, into one vector that is used again: a datagram costs no
/// allocation, and waits nowhere but in the system. This one passes datagrams on to another address,
/// from a socket for each peer, and what is answered there back:
///
/// ```
/// use std::io;
/// use std::net::SocketAddr;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use landfall::net::{FromPeer, UdpSessions, UdpSocket};
/// use landfall::runtime::time::sleep;
/// use landfall::runtime::{self, Runtime};
///
/// /// A datagram that does not go on is lost, as datagrams are: no peer can end it for the others.
/// async fn relay(sessions: UdpSessions<UdpSocket>, target: SocketAddr) {
///     let mut vec = Vec::with_capacity(65_527);
///     loop {
///         vec.clear();
///         let (received, mut datagram) = sessions.receive(vec).await;
///         let upstream = match received {
///             Ok(FromPeer { session: Some(upstream), .. }) => Some(upstream),
///             Ok(received) => begin(&sessions, received.peer, target).await.ok().flatten(),
///             Err(_) => {
///                 sleep(Duration::from_millis(10)).await;
///                 None
///             }
///         };
///         if let Some(upstream) = upstream {
///             let (_, sent) = upstream.send_owned(datagram).await;
///             datagram = sent.into_vec();
///         }
///         vec = datagram;
///     }
/// }
///
/// /// A session for a new peer, unless there are too many.
/// async fn begin(
///     sessions: &UdpSessions<UdpSocket>,
///     peer: SocketAddr,
///     target: SocketAddr,
/// ) -> io::Result<Option<Arc<UdpSocket>>> {
///     if sessions.is_full() {
///         return Ok(None);
///     }
///     let upstream = UdpSocket::bind("127.0.0.1:0")?;
///     upstream.connect(target).await?;
///     let Some(mut session) = sessions.open(peer, upstream) else {
///         return Ok(None);
///     };
///     let upstream = session.value().clone();
///     let answers = upstream.clone();
///     drop(runtime::spawn(async move {
///         // Until it has been quiet for too long, or the target is not there.
///         while let Ok(Some(_)) = session.forward(&answers).await {}
///     }));
///     Ok(Some(upstream))
/// }
///
/// let runtime = Runtime::new()?;
/// runtime.block_on(async {
///     let target = UdpSocket::bind("127.0.0.1:0")?;
///     let sessions = UdpSessions::new(UdpSocket::bind("127.0.0.1:0")?);
///     let address = sessions.socket().local_addr()?;
///     drop(runtime::spawn(relay(sessions, target.local_addr()?)));
///
///     let client = UdpSocket::bind("127.0.0.1:0")?;
///     client.connect(address).await?;
///     client.send("a question").await?;
///     let (received, question) = target.receive_from(Vec::with_capacity(2048)).await;
///     target.send_to(question, received?.1).await?;
///     let (received, answer) = client.receive(Vec::with_capacity(2048)).await;
///     assert_eq!(received?, 10);
///     assert_eq!(answer, b"a question");
///     Ok::<(), io::Error>(())
/// })?;
/// # Ok::<(), io::Error>(())
/// ```
pub struct UdpSessions<T>(Arc<Table<T>>);

struct Table<T> {
    socket: UdpSocket,
    /// What times are counted from.
    began: Instant,
    state: Mutex<State<T>>,
    /// For datagrams on their way to peers.
    spares: Mutex<Vec<Vec<u8>>>,
}

struct State<T> {
    sessions: HashMap<SocketAddr, Arc<Entry<T>>>,
    idle: Duration,
    most: usize,
    is_draining: bool,
    /// Of those who wait for the end.
    waiting: Waiting,
}

struct Entry<T> {
    peer: SocketAddr,
    value: Arc<T>,
    /// When a datagram last came or went, in microseconds since the table began.
    last: AtomicU64,
    /// How long it lasts after that, in microseconds. None at all: it has ended.
    period: AtomicU64,
    /// The session's task.
    task: Mutex<Option<Waker>>,
}

/// A datagram that has come.
#[non_exhaustive]
pub struct FromPeer<T> {
    /// How long it is.
    pub bytes: usize,
    /// Who has sent it.
    pub peer: SocketAddr,
    /// The value of the peer's session, if it has one.
    pub session: Option<Arc<T>>,
}

impl<T> UdpSessions<T> {
    /// With no session, on a socket. 1,024 sessions can be opened, which may be idle for a minute.
    pub fn new(socket: UdpSocket) -> Self {
        UdpSessions(Arc::new(Table {
            socket,
            began: now(),
            state: Mutex::new(State {
                sessions: HashMap::new(),
                idle: IDLE_TIMEOUT,
                most: MOST_SESSIONS,
                is_draining: false,
                waiting: Waiting::default(),
            }),
            spares: Mutex::default(),
        }))
    }

    /// How long sessions last without a datagram, of those that are opened from now on.
    pub fn set_idle_timeout(&self, time: Duration) {
        self.0.state.lock().idle = time;
    }

    /// How many sessions there are at most. Those that are there already stay.
    pub fn set_max_sessions(&self, sessions: usize) {
        self.0.state.lock().most = sessions;
    }

    /// The socket.
    pub fn socket(&self) -> &UdpSocket {
        &self.0.socket
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.0.state.lock().sessions.len()
    }

    /// Whether no further session can be opened now.
    pub fn is_full(&self) -> bool {
        self.0.state.lock().is_full()
    }

    /// Receives a datagram, as [`UdpSocket::receive_from`] does, and tells the session that it belongs
    /// to, which lasts longer by it. While the sessions [drain](Self::drain), those of peers that have
    /// none are dropped.
    ///
    /// It goes on to wait once all sessions have ended: race it with [`drained`](Self::drained).
    ///
    /// # Errors
    ///
    /// As [`UdpSocket::receive_from`]. The socket stays usable after any of them.
    pub async fn receive(&self, mut vec: Vec<u8>) -> (io::Result<FromPeer<T>>, Vec<u8>) {
        let length = vec.len();
        loop {
            let received = self.0.socket.receive_from(vec).await;
            vec = received.1;
            let (bytes, peer) = match received.0 {
                Ok(received) => received,
                Err(error) => return (Err(error), vec),
            };
            let (session, is_draining) = self.0.find(peer);
            if session.is_some() || !is_draining {
                let received = FromPeer {
                    bytes,
                    peer,
                    session,
                };
                return (Ok(received), vec);
            }
            vec.truncate(length);
        }
    }

    /// Begins a session, with a value that comes with the peer's datagrams. Nothing if there are as
    /// many as may be, if the peer has one already, or while they [drain](Self::drain).
    ///
    /// It lasts as long as what this returns, which a task is to keep that waits for its end.
    pub fn open(&self, peer: SocketAddr, value: T) -> Option<UdpSession<T>> {
        let value = Arc::new(value);
        let mut state = self.0.state.lock();
        if state.is_full() || state.sessions.contains_key(&peer) {
            return None;
        }
        let entry = Arc::new(Entry {
            peer,
            value,
            last: AtomicU64::new(self.0.micros()),
            period: AtomicU64::new(micros(state.idle)),
            task: Mutex::default(),
        });
        state.sessions.insert(peer, entry.clone());
        drop(state);
        Some(UdpSession {
            table: self.0.clone(),
            entry,
            wait: None,
        })
    }

    /// Ends a peer's session. Its next datagram belongs to none.
    pub fn end(&self, peer: SocketAddr) {
        let mut state = self.0.state.lock();
        let ended = state.sessions.remove(&peer);
        let waiters = state.waiting_for_the_end();
        drop(state);
        if let Some(entry) = ended {
            entry.shorten(Duration::ZERO);
        }
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Opens no more sessions, until told to [go on](Self::resume). Those that are there last until they
    /// have been quiet for so long, if that is less than their idle time: no datagram says that it is
    /// the last.
    pub fn drain(&self, quiet: Duration) {
        let mut state = self.0.state.lock();
        state.is_draining = true;
        let sessions: Vec<_> = state.sessions.values().cloned().collect();
        let waiters = state.waiting_for_the_end();
        drop(state);
        for entry in sessions {
            entry.shorten(quiet);
        }
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Opens sessions again, after a [drain](Self::drain). Times that it has shortened stay so.
    pub fn resume(&self) {
        self.0.state.lock().is_draining = false;
    }

    /// Waits until they have been [drained](Self::drain), and the last session has ended.
    pub async fn drained(&self) {
        let drained =
            |state: &mut State<T>| (state.is_draining && state.sessions.is_empty()).then_some(());
        until(&self.0.state, |state| &mut state.waiting, drained).await;
    }
}

impl<T> State<T> {
    fn is_full(&self) -> bool {
        self.is_draining || self.sessions.len() >= self.most
    }

    fn waiting_for_the_end(&mut self) -> Vec<Waker> {
        match self.is_draining && self.sessions.is_empty() {
            true => self.waiting.take(),
            false => Vec::new(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl<T> Table<T> {
    fn micros(&self) -> u64 {
        micros(now().saturating_duration_since(self.began))
    }

    /// The value of a peer that a datagram has come from, and whether the table drains.
    fn find(&self, peer: SocketAddr) -> (Option<Arc<T>>, bool) {
        let state = self.state.lock();
        let found = state.sessions.get(&peer);
        if let Some(entry) = found {
            // Under the lock, so that it does not end meanwhile.
            self.touch(entry);
        }
        (found.map(|entry| entry.value.clone()), state.is_draining)
    }

    /// A datagram has come or gone.
    fn touch(&self, entry: &Entry<T>) {
        entry.last.store(self.micros(), Ordering::Relaxed);
    }

    /// How long a session still lasts, as things stand.
    fn left(&self, entry: &Entry<T>) -> Duration {
        let end = entry
            .last
            .load(Ordering::Relaxed)
            .saturating_add(entry.period());
        Duration::from_micros(end.saturating_sub(self.micros()))
    }

    /// Takes a session out, if `is_over` says so with the lock held. Returns what it has said.
    fn remove(&self, entry: &Arc<Entry<T>>, is_over: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.lock();
        if !is_over() {
            return false;
        }
        let known = state.sessions.get(&entry.peer);
        // After its end, the peer may have another one.
        let is_own = known.is_some_and(|known| Arc::ptr_eq(known, entry));
        let removed = is_own.then(|| state.sessions.remove(&entry.peer));
        let waiters = state.waiting_for_the_end();
        drop(state);
        drop(removed);
        waiters.into_iter().for_each(Waker::wake);
        true
    }

    /// An empty vector that any datagram fits in.
    fn spare(&self) -> Vec<u8> {
        let spare = self.spares.lock().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(LONGEST))
    }

    fn keep_spare(&self, mut vec: Vec<u8>) {
        vec.clear();
        let mut spares = self.spares.lock();
        if vec.capacity() >= LONGEST && spares.len() < MOST_SPARES {
            spares.push(vec);
        }
    }
}

impl<T> Entry<T> {
    fn period(&self) -> u64 {
        self.period.load(Ordering::Acquire)
    }

    /// Has it last no longer than so long after its last datagram, and tells its task.
    fn shorten(&self, period: Duration) {
        self.period.fetch_min(micros(period), Ordering::AcqRel);
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Has the context's task told when the time gets shorter.
    fn register(&self, cx: &Context<'_>) {
        let mut task = self.task.lock();
        let outdated = match &*task {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => task.replace(cx.waker().clone()),
        };
        drop(task);
        drop(outdated);
    }
}

/// A session of [`UdpSessions`], which lasts as long as this.
pub struct UdpSession<T> {
    table: Arc<Table<T>>,
    entry: Arc<Entry<T>>,
    /// A wait, and the time after the last datagram that it was for.
    wait: Option<(u64, Sleep)>,
}

impl<T> UdpSession<T> {
    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.entry.peer
    }

    /// What it was opened with.
    pub fn value(&self) -> &Arc<T> {
        &self.entry.value
    }

    /// Sends the peer a datagram, as [`UdpSocket::send_to_owned`] does. The session lasts longer by it.
    ///
    /// # Errors
    ///
    /// As [`UdpSocket::send_to`].
    pub async fn send(&self, buffer: impl Into<Buffer>) -> (io::Result<()>, Buffer) {
        self.table.touch(&self.entry);
        let sent = self.table.socket.send_to_owned(buffer, self.entry.peer);
        sent.await
    }

    /// Waits for a datagram of another socket and sends it to the peer. Returns how long it was, or
    /// nothing once the session is [quiet](Self::quiet). One that cannot be sent is lost, as datagrams
    /// may be.
    ///
    /// A session that waits holds no memory for what may come.
    ///
    /// # Errors
    ///
    /// What receiving answers, as [`UdpSocket::receive`].
    pub async fn forward(&mut self, from: &UdpSocket) -> io::Result<Option<usize>> {
        match self.unless_quiet(from.readable()).await {
            Some(readable) => readable?,
            None => return Ok(None),
        }
        let spare = self.table.spare();
        let Some((received, datagram)) = self.unless_quiet(from.receive(spare)).await else {
            return Ok(None);
        };
        let bytes = received?;
        let (_, datagram) = self.send(datagram).await;
        self.table.keep_spare(datagram.into_vec());
        Ok(Some(bytes))
    }

    /// Waits until no datagram has come from the peer or gone to it for the session's idle time, or it
    /// is ended. The peer's next datagram belongs to no session.
    pub async fn quiet(&mut self) {
        poll_fn(|cx| self.poll_quiet(cx)).await;
    }

    /// Awaits something, or nothing once the session is quiet.
    async fn unless_quiet<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            // One that has ended does not go on for as long as there is always something ready.
            if self.entry.period() > 0 {
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    return Poll::Ready(Some(output));
                }
            }
            self.poll_quiet(cx).map(|()| None)
        })
        .await
    }

    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let UdpSession { table, entry, wait } = self;
        // Before the period is looked at, so that no change of it is missed.
        entry.register(cx);
        loop {
            let period = entry.period();
            let sleep = match wait {
                Some((of, sleep)) if *of == period => sleep,
                _ => &mut wait.insert((period, sleep(table.left(entry)))).1,
            };
            if Pin::new(sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Datagrams may have come or gone meanwhile.
            *wait = None;
            if table.remove(entry, || table.left(entry).is_zero()) {
                return Poll::Ready(());
            }
        }
    }
}

impl<T> Drop for UdpSession<T> {
    fn drop(&mut self) {
        self.table.remove(&self.entry, || true);
    }
}

impl<T> Clone for UdpSessions<T> {
    fn clone(&self) -> Self {
        UdpSessions(self.0.clone())
    }
}

impl<T> fmt::Debug for UdpSessions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSessions")
            .field("socket", &self.0.socket)
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for UdpSession<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSession")
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for FromPeer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromPeer")
            .field("bytes", &self.bytes)
            .field("peer", &self.peer)
            .field("has_session", &self.session.is_some())
            .finish()
    }
}
