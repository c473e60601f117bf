//! A socket of the port, and what its completions are kept in until somebody asks.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::calls::Calls;
use super::idle::Idle;
use super::inbox::Inbox;
use super::os::RESET;
use crate::driver::OwnedDescriptor;
use crate::port::{CompletionKind, Handle, Operation, SocketOption, Source};
use crate::runtime::time::timeout;
use crate::runtime::{self, Event, Observer, Respond, Shared};

/// A connected socket, or one that is being connected.
pub(super) struct Socket {
    pub(super) handle: Handle,
    pub(super) state: Arc<SocketState>,
    /// Another descriptor of it, once something has been sent past the port.
    pub(super) past_port: OnceLock<OwnedDescriptor>,
}

/// The two directions of a socket, each behind its own lock. Kept small: there is one for each
/// connection, however idle.
pub(crate) struct SocketState {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Mutex<Inbox>,
    pub(super) calls: Mutex<Calls>,
    /// A reset has been reported to one direction; the other may see only an end.
    was_reset: AtomicBool,
    pub(super) idle: OnceLock<Box<Idle>>,
    observer: Option<Arc<dyn Observer>>,
    /// Its number among the runtime's responders.
    number: OnceLock<u32>,
}

impl Socket {
    pub(super) fn associate(
        shared: Arc<Shared>,
        source: impl Into<Source>,
        observer: Option<Arc<dyn Observer>>,
        beside: Option<&Socket>,
    ) -> io::Result<Self> {
        let state = Arc::new(SocketState {
            shared,
            inbox: Mutex::default(),
            calls: Mutex::default(),
            was_reset: AtomicBool::new(false),
            idle: OnceLock::new(),
            observer,
            number: OnceLock::new(),
        });
        let (handle, number) =
            state
                .shared
                .associate(source, state.clone(), beside.map(|other| &other.handle))?;
        // A process has no room for 2^32 sockets.
        state.number.get_or_init(|| number as u32);
        Ok(Socket {
            handle,
            state,
            past_port: OnceLock::new(),
        })
    }

    pub(super) async fn set_option(&self, option: SocketOption) -> io::Result<()> {
        self.call(Operation::SetOption(option))
            .await
            .result
            .map(drop)
    }

    /// What to answer when the port has refused an operation.
    pub(super) fn refused(&self, error: io::Error) -> Poll<io::Error> {
        self.state.shared.refused(error)
    }

    /// What to answer instead of waiting when nothing more will come.
    pub(super) fn abandoned(&self) -> Option<io::Error> {
        self.state.shared.abandoned()
    }

    /// Finishes what is queued and closes, or resets the connection at the deadline.
    async fn close_when_sent(self) {
        let deadline = self.state.shared.close_deadline();
        let sent = std::future::poll_fn(|cx| self.poll_flushed(cx));
        match timeout(deadline, sent).await {
            Ok(()) => self.handle.close(),
            Err(_) => self.reset().await,
        }
    }

    /// Closes, so that the peer is told that the connection was cut.
    pub(super) async fn reset(self) {
        // A failure leaves an ordinary close, which is all that can be done.
        let _ = self
            .set_option(SocketOption::Linger(Some(Duration::ZERO)))
            .await;
        self.handle.close();
        self.stop_receiving();
    }
}

/// The system's code, if the operation failed.
pub(super) fn error_code(event: &Event<'_>) -> Option<i32> {
    let error = event.completion.result().err()?;
    // Every failure of the system has one.
    Some(error.raw_os_error().unwrap_or(RESET))
}

/// Makes the context's task the one to wake. Returns the waker it replaces, to be dropped without
/// a lock held.
pub(super) fn register(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => slot.replace(cx.waker().clone()),
    }
}

impl SocketState {
    pub(super) fn set_reset(&self) {
        self.was_reset.store(true, Ordering::Relaxed);
    }

    /// Bytes have moved: the idle timeout begins anew.
    pub(super) fn touch(&self, bytes: usize) {
        if let Some(idle) = self.idle.get().filter(|_| bytes > 0) {
            idle.touch();
        }
    }

    /// Counts bytes that were received past the port.
    pub(super) fn received_past_port(&self, bytes: usize) {
        self.touch(bytes);
        if let Some(observer) = &self.observer {
            observer.received(bytes);
        }
    }

    /// Counts bytes that were sent past the port.
    pub(super) fn sent_past_port(&self, bytes: usize) {
        self.touch(bytes);
        if let Some(observer) = &self.observer {
            observer.sent(bytes);
        }
    }

    fn respond_to_receive(&self, handle: &Handle, mut event: Event<'_>) {
        let was_reset = self.was_reset.load(Ordering::Relaxed);
        let arrival = self.inbox.lock().arrive(&mut event, was_reset);
        if error_code(&event) == Some(RESET) {
            self.set_reset();
        }
        if let Some(id) = arrival.cancel {
            handle.cancel(id);
        }
        if let Some(observer) = &self.observer {
            observer.received(event.completion.bytes());
        }
        if let Some(reader) = arrival.reader {
            reader.wake();
        }
    }

    fn respond_to_call(&self, mut event: Event<'_>) {
        let waiter = self.finish_call(&mut event);
        if event.completion.kind() == CompletionKind::Send {
            if let Some(observer) = &self.observer {
                observer.sent(event.completion.bytes());
            }
        }
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl Respond for SocketState {
    fn respond(&self, handle: &Handle, event: Event<'_>) {
        self.touch(event.completion.bytes());
        match event.completion.kind() {
            CompletionKind::Receive => self.respond_to_receive(handle, event),
            _ => self.respond_to_call(event),
        }
    }

    fn abandon(&self) {
        let reader = self.inbox.lock().stop_waiting();
        let waiter = self.calls.lock().stop_waiting();
        for waker in [reader, waiter].into_iter().flatten() {
            waker.wake();
        }
    }

    fn drain(&self, observer: &Arc<dyn Observer>) {
        if !self
            .observer
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, observer))
        {
            return;
        }
        let reader = self.inbox.lock().drain();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Drop for SocketState {
    fn drop(&mut self) {
        if let Some(number) = self.number.get() {
            self.shared.forget(*number as usize);
        }
        if let Some(observer) = &self.observer {
            observer.closed();
        }
    }
}

const TAKEN_AT_THE_END: &str = "taken only at the end";

/// A socket that is closed when dropped, after what is queued has been sent.
pub(super) struct Owned(Option<Socket>);

impl Owned {
    pub(super) fn new(socket: Socket) -> Self {
        Owned(Some(socket))
    }

    /// The socket, which nobody closes any more.
    pub(super) fn into_socket(mut self) -> Socket {
        self.0.take().expect(TAKEN_AT_THE_END)
    }
}

impl std::ops::Deref for Owned {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        self.0.as_ref().expect(TAKEN_AT_THE_END)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let Some(socket) = self.0.take() else {
            return;
        };
        if !socket.state.calls.lock().has_bytes_to_send() {
            socket.handle.close();
            // Frees what arrived and nobody will ask for, while others still refer to the state.
            socket.stop_receiving();
            return;
        }
        socket.stop_receiving();
        socket.state.set_idle_timeout(None);
        let shared = socket.state.shared.clone();
        // A runtime that is being dropped refuses the task, and with it goes the socket.
        drop(runtime::spawn_on(&shared, socket.close_when_sent()));
    }
}
