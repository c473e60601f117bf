//! Listeners.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::family::Family;
use super::socket::Socket;
use super::stream::Stream;
use crate::port::{self, Accepted, Handle, Operation, OperationId, Source, is_aborted};
use crate::runtime::{self, Event, Observer, Respond, Shared};

/// Connections that a listener keeps ready for the next accepts. Past it the stream of accepts is ended,
/// so that others wait in the system's backlog, and begun again when these have been taken. Until the
/// system has ended it, some more may come.
pub const MOST_READY: usize = 64;

/// Listens for connections: a [`TcpListener`](super::TcpListener) or, not on Windows, a `UnixListener`.
///
/// Several tasks may accept at a time; each connection goes to the one that waits longest.
pub struct Listener<F> {
    shared: Arc<Shared>,
    handle: Handle,
    state: Arc<ListenerState>,
    /// Its number among the runtime's responders.
    number: usize,
    /// Told of what happens on the connections.
    observer: Option<Arc<dyn Observer>>,
    /// Nobody else has the socket.
    is_own: bool,
    is_stopped: AtomicBool,
    family: PhantomData<fn() -> F>,
}

impl<F: Family> Listener<F> {
    /// Takes a listener of the standard library over.
    ///
    /// # Errors
    ///
    /// Outside of a runtime, or when the port refuses the socket.
    pub fn from_std(listener: F::StdListener) -> io::Result<Self> {
        Self::associate(runtime::current_or_error()?, listener)
    }

    pub(crate) fn associate(shared: Arc<Shared>, source: impl Into<Source>) -> io::Result<Self> {
        let state = Arc::new(ListenerState::default());
        let (handle, number) = shared.associate(source, state.clone(), None)?;
        Ok(Listener {
            shared,
            handle,
            state,
            number,
            observer: None,
            is_own: false,
            is_stopped: AtomicBool::new(false),
            family: PhantomData,
        })
    }

    /// Says that the library has made the socket, and given it to nobody.
    pub(crate) fn own(mut self) -> Self {
        self.is_own = true;
        self
    }

    /// Waits for the next connection. A future that is dropped leaves it to the next accept.
    ///
    /// # Errors
    ///
    /// The system has no descriptor or memory left for a connection, for one. The next accept
    /// tries again; wait a moment before.
    pub fn accept(&self) -> impl Future<Output = io::Result<Stream<F>>> + Send + '_ {
        let next = self.next();
        async move { self.open(next.await?) }
    }

    /// As [`accept`](Self::accept), for who decides later whether to [open](Self::open) it.
    pub(crate) fn next(&self) -> Next<'_, F> {
        Next {
            listener: self,
            place: None,
        }
    }

    /// The address that is listened on.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn local_addr(&self) -> io::Result<F::Address> {
        F::local_addr(&self.handle)
    }

    /// The stream of a connection that has been accepted here.
    pub(crate) fn open(&self, accepted: Accepted) -> io::Result<Stream<F>> {
        let socket = Socket::associate(self.shared.clone(), accepted, self.observer.clone(), None)?;
        Ok(Stream::new(socket))
    }

    /// Has an observer told of what happens on the connections accepted from now on.
    pub(crate) fn observe(&mut self, observer: Arc<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// Whether it belongs to a runtime.
    pub(crate) fn is_of(&self, runtime: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, runtime)
    }

    /// Leaves further connections in the system's backlog until the next accept.
    pub(crate) fn pause(&self) {
        let id = self.state.0.lock().end();
        if let Some(id) = id {
            self.handle.cancel(id);
        }
    }
}

impl<F> Listener<F> {
    /// Listens no more.
    pub(crate) fn stop(&self) {
        if self.is_stopped.load(Ordering::Acquire) {
            return;
        }
        match self.is_own {
            true => self.handle.close_listener(),
            false => self.handle.close(),
        }
        // Not before: the next to come finds the address free, too.
        self.is_stopped.store(true, Ordering::Release);
    }

    /// Closes the listener and the connections that nobody has accepted. Returns their number.
    pub(crate) fn close(&self) -> usize {
        self.stop();
        let ready = std::mem::take(&mut self.state.0.lock().ready);
        ready.iter().filter(|ready| ready.is_ok()).count()
    }
}

impl<F> Drop for Listener<F> {
    fn drop(&mut self) {
        self.close();
        self.shared.forget(self.number);
    }
}

impl<F: Family> fmt::Debug for Listener<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(F::LISTENER)
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct ListenerState(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    ready: VecDeque<io::Result<Accepted>>,
    accepting: Accepting,
    id: Option<OperationId>,
    /// Tasks that wait for a connection, the longest first, each with the place it drew.
    waiting: VecDeque<(u64, Waker)>,
    places: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Accepting {
    #[default]
    Nothing,
    Stream,
    /// A cancel has been asked for.
    Ending,
}

impl Queue {
    /// Ends the stream of accepts. Returns the operation to cancel.
    fn end(&mut self) -> Option<OperationId> {
        if self.accepting != Accepting::Stream {
            return None;
        }
        self.accepting = Accepting::Ending;
        self.id
    }

    /// Takes an accept completion in. Returns the task to wake and the operation to cancel.
    fn arrive(&mut self, event: &mut Event<'_>) -> (Option<Waker>, Option<OperationId>) {
        let cancelled = self.accepting == Accepting::Ending;
        if event.completion.is_final() {
            self.accepting = Accepting::Nothing;
            self.id = None;
        }
        if let Some(accepted) = event.accepted.take() {
            self.ready.push_back(Ok(*accepted));
        } else if let Err(error) = event.completion.result() {
            if !(cancelled && is_aborted(&error)) {
                self.ready.push_back(Err(error));
            }
        }
        let id = match self.ready.len() >= MOST_READY && self.accepting == Accepting::Stream {
            true => {
                self.accepting = Accepting::Ending;
                Some(event.completion.id())
            }
            false => None,
        };
        // Also when the stream has only ended: whoever waits begins it again.
        (self.next_waiting(), id)
    }

    fn next_waiting(&mut self) -> Option<Waker> {
        self.waiting.pop_front().map(|(_, waker)| waker)
    }
}

impl Respond for ListenerState {
    fn respond(&self, handle: &Handle, mut event: Event<'_>) {
        let (waker, id) = self.0.lock().arrive(&mut event);
        if let Some(id) = id {
            handle.cancel(id);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn abandon(&self) {
        let waiting = std::mem::take(&mut self.0.lock().waiting);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

/// What [`Listener::next`] returns.
pub(crate) struct Next<'a, F> {
    listener: &'a Listener<F>,
    /// The place drawn, from the first wait to the result.
    place: Option<u64>,
}

impl<F: Family> Future for Next<'_, F> {
    type Output = io::Result<Accepted>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let listener = self.listener;
        let mut queue = listener.state.0.lock();
        if let Some(ready) = queue.ready.pop_front() {
            drop(queue);
            self.leave();
            return Poll::Ready(ready);
        }
        if let Some(error) = listener.shared.abandoned() {
            return Poll::Ready(Err(error));
        }
        let outdated = self.wait(&mut queue, cx);
        let begin = queue.accepting == Accepting::Nothing;
        if begin {
            queue.accepting = Accepting::Stream;
        }
        drop(queue);
        drop(outdated);
        if !begin {
            return Poll::Pending;
        }
        let submitted = listener
            .handle
            .submit(Operation::Accept(port::Accept::stream()), 0);
        let mut queue = listener.state.0.lock();
        match submitted {
            Ok(id) => {
                if queue.accepting != Accepting::Nothing {
                    queue.id = Some(id);
                }
                Poll::Pending
            }
            Err(error) => {
                queue.accepting = Accepting::Nothing;
                drop(queue);
                listener.shared.refused(error.error).map(Err)
            }
        }
    }
}

impl<F> Next<'_, F> {
    /// Makes the context's task wait in the place that it has, or in a new one.
    fn wait(&mut self, queue: &mut Queue, cx: &Context<'_>) -> Option<Waker> {
        let held = self
            .place
            .and_then(|place| queue.waiting.iter_mut().find(|(other, _)| *other == place));
        if let Some((_, waker)) = held {
            return Some(std::mem::replace(waker, cx.waker().clone()));
        }
        queue.places += 1;
        self.place = Some(queue.places);
        queue.waiting.push_back((queue.places, cx.waker().clone()));
        None
    }

    /// Stops waiting. If this one was woken and leaves something, or leaves it to others to begin the
    /// stream again, the next in line is woken.
    fn leave(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        let mut queue = self.listener.state.0.lock();
        let held = queue.waiting.iter().position(|(other, _)| *other == place);
        let own = held.and_then(|index| queue.waiting.remove(index));
        let is_left = !queue.ready.is_empty() || queue.accepting == Accepting::Nothing;
        let next = match own.is_none() && is_left {
            true => queue.next_waiting(),
            false => None,
        };
        drop(queue);
        drop(own);
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl<F> Drop for Next<'_, F> {
    fn drop(&mut self) {
        self.leave();
    }
}
