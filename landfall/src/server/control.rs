//! What a server, its handles, its listeners and its connections share.

use std::io;
use std::mem::take;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;

use super::Stats;
use super::counter::Counter;
use super::listeners::{Added, Listeners, ListeningSocket};
use crate::net::{ListenOptions, TcpListener};
use crate::runtime::{self, Observer, Shared};
use crate::waiting::{Waiting, until};

#[derive(Default)]
pub(super) struct Control {
    state: Mutex<State>,
    /// Held while listeners are made ready, which takes system calls. Whoever removes one waits for that,
    /// and finds what is to be closed.
    readying: Mutex<()>,
    /// Handlers and tasks that have not ended are to be dropped.
    is_cut: AtomicBool,
    received: Counter,
    sent: Counter,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// The runtime that it serves on, while it does.
    runtime: Option<Arc<Shared>>,
    /// Those that tasks were spawned on before.
    early_runtimes: Vec<Arc<Shared>>,
    /// A drain ends no receives.
    leaves_receives: bool,
    options: ListenOptions,
    listeners: Listeners,
    /// Listeners' tasks that have not ended.
    accepting: u64,
    /// Connections that may be open at a time.
    limit: u64,
    /// Handlers that have not ended.
    running: u64,
    /// The server's own task, and others that wait for its end.
    waiting: Waiting,
    /// Why it cannot go on.
    failure: Option<io::Error>,
    /// All counts but those of bytes. Active connections are those that are open.
    counts: Stats,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Serving,
    Draining,
    Stopped,
    /// Nobody drives it any more.
    Over,
}

/// How a handler ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done,
    Failed,
    /// With the error of the idle timeout.
    TimedOut,
    Panicked,
    /// It was dropped before its end.
    Cut,
}

/// Whether a listener may accept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    Open,
    /// There are as many connections as may be.
    Full,
    /// It has been removed, or the server is to end.
    Closed,
}

/// What a server that is to end still has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remains {
    pub(super) phase: Phase,
    /// Listeners' tasks.
    pub(super) accepting: u64,
    /// Handlers or connections, whichever are more, and tasks.
    pub(super) left: u64,
}

impl State {
    fn admission(&self, listener: u64) -> Admission {
        if !self.listeners.has(listener) {
            Admission::Closed
        } else if self.counts.active >= self.limit {
            Admission::Full
        } else {
            Admission::Open
        }
    }

    fn remains(&self) -> Remains {
        Remains {
            phase: self.phase,
            accepting: self.accepting,
            left: self.counts.active.max(self.running) + self.counts.tasks,
        }
    }

    /// Whom to wake when something has ended: nobody while the server is not to end.
    fn waiting_for_the_end(&mut self) -> Vec<Waker> {
        match self.phase {
            Phase::Serving => Vec::new(),
            _ => self.waiting.take(),
        }
    }

    /// Whom to wake if there is room: it takes it, or says that it does not.
    fn call_if_there_is_room(&mut self) -> Option<Waker> {
        match self.counts.active < self.limit {
            true => self.listeners.call_for_room(),
            false => None,
        }
    }

    /// The same, when a listener needs none of it any more.
    fn call_next(&mut self, listener: u64) -> Option<Waker> {
        self.listeners.wait_no_more(listener);
        self.call_if_there_is_room()
    }
}

impl Control {
    /// Changes the state, and wakes whom `change` names, with the lock open.
    fn change<T, W>(&self, change: impl FnOnce(&mut State) -> (W, T)) -> T
    where
        W: IntoIterator<Item = Waker>,
    {
        let (wakers, result) = change(&mut self.state.lock());
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            received_bytes: self.received.sum(),
            sent_bytes: self.sent.sum(),
            ..self.state.lock().counts
        }
    }

    #[cfg(all(test, unix, not(loom)))]
    pub(super) fn is_serving(&self) -> bool {
        self.state.lock().phase == Phase::Serving
    }

    /// The server serves.
    pub(super) fn begin(&self, runtime: &Arc<Shared>) {
        self.state.lock().runtime = Some(runtime.clone());
    }

    /// The runtime that it serves on, while it does.
    pub(super) fn runtime(&self) -> Option<Arc<Shared>> {
        self.state.lock().runtime.clone()
    }

    /// The runtime for a task that is spawned now: before the server serves, that of the calling code.
    pub(super) fn runtime_for_task(&self) -> Option<Arc<Shared>> {
        let mut state = self.state.lock();
        if let Some(runtime) = &state.runtime {
            return Some(runtime.clone());
        }
        let runtime = runtime::current()?;
        let is_known = (state.early_runtimes.iter()).any(|known| Arc::ptr_eq(known, &runtime));
        if state.phase != Phase::Over && !is_known {
            state.early_runtimes.push(runtime.clone());
        }
        Some(runtime)
    }

    /// Whether a drain leaves receives alone that find nothing.
    pub(super) fn leave_receives(&self, leaves: bool) {
        self.state.lock().leaves_receives = leaves;
    }

    /// How many connections may be open at a time.
    pub(super) fn set_limit(&self, connections: u64) {
        self.change(|state| {
            state.limit = connections;
            (state.call_if_there_is_room(), ())
        });
    }

    /// Goes on to a phase, unless it is past that already: one that was stopped does not drain.
    pub(super) fn enter(&self, phase: Phase) {
        let (wakers, removed) = {
            let _readying = self.readying.lock();
            let mut state = self.state.lock();
            if state.phase >= phase {
                return;
            }
            state.phase = phase;
            (state.waiting.take(), state.listeners.remove(|_| true))
        };
        wakers.into_iter().for_each(Waker::wake);
        removed.close();
    }

    /// Nobody drives the server any more: what is left of it can be told to end now, and not later.
    pub(super) fn abandon(self: &Arc<Self>) {
        self.enter(Phase::Over);
        if self.state.lock().remains().left > 0 && !self.is_cut() {
            self.cut();
            // Whoever is let in meanwhile is cut before a handler has it.
            self.end_receives();
        }
        let mut state = self.state.lock();
        let runtimes = (state.runtime.take(), take(&mut state.early_runtimes));
        drop(state);
        drop(runtimes);
    }

    /// Has receives that find nothing end, unless they are to be left alone.
    pub(super) fn end_receives(self: &Arc<Self>) {
        let runtime = {
            let state = self.state.lock();
            state.runtime.clone().filter(|_| !state.leaves_receives)
        };
        if let Some(runtime) = runtime {
            let observer: Arc<dyn Observer> = self.clone();
            runtime.drain(&observer);
        }
    }

    /// Waits until what is left is as wanted, of a server that is to end.
    pub(super) async fn until<T>(&self, mut wanted: impl FnMut(Remains) -> Option<T>) -> T {
        let wanted = |state: &mut State| wanted(state.remains());
        until(&self.state, |state| &mut state.waiting, wanted).await
    }

    /// Has handlers and tasks dropped where they wait.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        let runtimes: Vec<_> = {
            let state = self.state.lock();
            let early = state.early_runtimes.iter();
            early.chain(&state.runtime).cloned().collect()
        };
        for runtime in runtimes {
            runtime.wake_all_tasks();
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// A listener has failed in a way that trying again does not mend.
    pub(super) fn fail(&self, error: io::Error) {
        self.state.lock().failure.get_or_insert(error);
        self.enter(Phase::Stopped);
    }

    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.state.lock().failure.take()
    }
}

/// Listeners.
impl Control {
    pub(super) fn set_options(&self, options: ListenOptions) {
        self.state.lock().options = options;
    }

    pub(super) fn bind(&self, address: impl ToSocketAddrs) -> io::Result<SocketAddr> {
        let (options, runtime) = {
            let state = self.state.lock();
            (state.options.clone(), state.runtime.clone())
        };
        let socket = options.bind(address)?;
        let address = socket.local_addr()?;
        let address = address.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let mut socket = ListeningSocket::Own(socket);
        if let Some(runtime) = runtime {
            // Here, so that a refusal goes to the caller.
            socket = ListeningSocket::Associated(socket.associate(&runtime)?);
        }
        self.add(address, socket)?;
        Ok(address)
    }

    pub(super) fn add(&self, address: SocketAddr, socket: ListeningSocket) -> io::Result<()> {
        if let Some(runtime) = self.runtime() {
            socket.check_runtime(&runtime)?;
        }
        self.change(|state| {
            if state.phase != Phase::Serving {
                let error = io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the server drains or has ended, and takes no more listeners",
                );
                return (Vec::new(), Err((error, socket)));
            }
            state.listeners.add(address, socket);
            (state.waiting.take(), Ok(()))
        })
        .map_err(|(error, _socket)| error)
    }

    /// Returns whether there was one at the address.
    pub(super) fn remove(&self, address: SocketAddr) -> bool {
        let readying = self.readying.lock();
        let removed = (self.state.lock().listeners).remove(|other| other == address);
        drop(readying);
        let was_there = !removed.is_empty();
        removed.close();
        was_there
    }

    pub(super) fn first_address(&self) -> Option<SocketAddr> {
        self.state.lock().listeners.first()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.state.lock().listeners.addresses()
    }

    /// Waits for listeners that need a task, each of which is counted from now on; nothing when the
    /// server is to end.
    ///
    /// # Errors
    ///
    /// A listener cannot be made `ready`.
    pub(super) async fn added(
        &self,
        ready: &impl Fn(ListeningSocket) -> io::Result<TcpListener>,
    ) -> Option<io::Result<Vec<Added>>> {
        let is_more = |state: &mut State| match state.phase {
            Phase::Serving => state.listeners.has_added().then_some(true),
            _ => Some(false),
        };
        match until(&self.state, |state| &mut state.waiting, is_more).await {
            true => Some(self.make_ready(ready)),
            false => None,
        }
    }

    fn make_ready(
        &self,
        ready: &impl Fn(ListeningSocket) -> io::Result<TcpListener>,
    ) -> io::Result<Vec<Added>> {
        let _readying = self.readying.lock();
        let taken = self.state.lock().listeners.take_added();
        let listeners: Vec<_> = taken
            .into_iter()
            .map(|(number, socket)| Ok((number, ready(socket)?)))
            .collect::<io::Result<_>>()?;
        let mut state = self.state.lock();
        let added: Vec<_> = listeners
            .into_iter()
            .filter_map(|(number, listener)| state.listeners.put(number, listener))
            .collect();
        state.accepting += added.len() as u64;
        Ok(added)
    }

    /// Whether a listener has not been removed.
    pub(super) fn has(&self, listener: u64) -> bool {
        self.state.lock().listeners.has(listener)
    }

    /// Whether a listener may accept. Wakes the context's task when it may no more, or once again. One
    /// that may has a connection [let in](Self::admit) or [passes](Self::pass): others wait for that.
    pub(super) fn admission(&self, listener: u64, cx: &Context<'_>) -> Admission {
        let mut state = self.state.lock();
        let admission = state.admission(listener);
        let for_room = admission == Admission::Full;
        let outdated = state.listeners.wait(listener, for_room, cx);
        drop(state);
        drop(outdated);
        admission
    }

    /// Lets a connection in, if its listener still may: it is open from now on.
    pub(super) fn admit(&self, listener: u64) -> bool {
        self.change(|state| {
            let is_open = state.admission(listener) == Admission::Open;
            if !is_open {
                return (None, false);
            }
            state.counts.active += 1;
            (state.call_next(listener), true)
        })
    }

    /// Nobody has come to a listener that may accept: what room there is goes to the next.
    pub(super) fn pass(&self, listener: u64) {
        self.change(|state| (state.call_next(listener), ()));
    }

    pub(super) fn accept_failed(&self) {
        self.state.lock().counts.accept_errors += 1;
    }

    /// A listener's task has ended, and refused connections that had come.
    pub(super) fn left(&self, refused: u64) {
        self.change(|state| {
            state.accepting -= 1;
            state.counts.refused += refused;
            let mut wakers = state.waiting_for_the_end();
            // It may have been called for room that others can use.
            wakers.extend(state.call_if_there_is_room());
            (wakers, ())
        });
    }
}

/// Handlers and tasks.
impl Control {
    pub(super) fn started(&self) {
        let mut state = self.state.lock();
        state.counts.accepted += 1;
        state.running += 1;
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        self.change(|state| {
            match outcome {
                Outcome::Done | Outcome::Cut => {}
                Outcome::Failed => state.counts.failed += 1,
                Outcome::TimedOut => state.counts.timed_out += 1,
                Outcome::Panicked => state.counts.panicked += 1,
            }
            state.running -= 1;
            (state.waiting_for_the_end(), ())
        });
    }

    /// Counts a task, unless the server is over.
    pub(super) fn task_started(&self) -> bool {
        let mut state = self.state.lock();
        let is_wanted = state.phase != Phase::Over;
        state.counts.tasks += u64::from(is_wanted);
        is_wanted
    }

    pub(super) fn task_ended(&self) {
        self.change(|state| {
            state.counts.tasks -= 1;
            (state.waiting_for_the_end(), ())
        });
    }
}

impl Observer for Control {
    fn received(&self, bytes: usize) {
        self.received.add(bytes as u64);
    }

    fn sent(&self, bytes: usize) {
        self.sent.add(bytes as u64);
    }

    fn closed(&self) {
        self.change(|state| {
            state.counts.active -= 1;
            let mut wakers = state.waiting_for_the_end();
            wakers.extend(state.call_if_there_is_room());
            (wakers, ())
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::task::Wake;

    use super::*;

    /// A listener's task, which is told to look again.
    #[derive(Default)]
    struct Task(AtomicBool);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl Task {
        fn looks(self: &Arc<Self>, control: &Control, listener: u64) -> Admission {
            let waker = Waker::from(self.clone());
            control.admission(listener, &Context::from_waker(&waker))
        }

        fn was_called(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }
    }

    /// A server with one connection, which is all that it may have, and listeners whose tasks wait.
    fn full(listeners: u64) -> (Control, Vec<Arc<Task>>) {
        let control = Control::default();
        control.set_limit(1);
        for number in 1..=listeners {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is left");
            let address = socket.local_addr().expect("an address");
            let socket = ListeningSocket::Given(socket);
            control.add(address, socket).expect("it serves");
            control.state.lock().accepting += 1;
            assert!(number > 1 || control.admit(number));
        }
        let tasks: Vec<Arc<Task>> = (0..listeners).map(|_| Arc::default()).collect();
        for (task, number) in tasks.iter().zip(1..) {
            assert_eq!(task.looks(&control, number), Admission::Full);
            assert!(!control.admit(number));
        }
        (control, tasks)
    }

    #[test]
    fn listeners_are_made_ready_with_the_state_unlocked() {
        let (control, _) = full(1);
        let added = control.make_ready(&|_| {
            assert!(control.state.try_lock().is_some(), "others wait for it");
            Err(io::ErrorKind::Unsupported.into())
        });
        assert!(added.is_err());
    }

    #[test]
    fn room_is_for_whoever_has_waited_longest() {
        let (control, tasks) = full(2);
        control.closed();
        assert!(tasks[0].was_called() && !tasks[1].was_called());
        assert!(control.admit(1));
        assert_eq!(tasks[0].looks(&control, 1), Admission::Full);
        control.closed();
        assert!(tasks[1].was_called() && !tasks[0].was_called());
    }

    #[test]
    fn room_that_nobody_has_come_for_is_offered_to_the_next() {
        let (control, tasks) = full(3);
        control.closed();
        assert!(tasks[0].was_called() && !tasks[1].was_called());
        assert_eq!(tasks[0].looks(&control, 1), Admission::Open);
        assert!(!tasks[1].was_called(), "it may be wanted yet");
        control.pass(1);
        assert!(tasks[1].was_called() && !tasks[2].was_called());
        assert_eq!(tasks[1].looks(&control, 2), Admission::Open);
        control.pass(2);
        assert!(tasks[2].was_called());
    }

    #[test]
    fn room_that_is_left_is_offered_to_the_next() {
        let (control, tasks) = full(3);
        control.set_limit(3);
        assert!(tasks[0].was_called() && !tasks[1].was_called());
        assert_eq!(tasks[0].looks(&control, 1), Admission::Open);
        assert!(control.admit(1));
        assert!(tasks[1].was_called() && !tasks[2].was_called());
        assert_eq!(tasks[1].looks(&control, 2), Admission::Open);
        assert!(control.admit(2));
        assert!(!tasks[2].was_called(), "none is left");
    }

    #[test]
    fn whoever_is_called_too_late_keeps_its_place() {
        let (control, tasks) = full(3);
        control.closed();
        assert!(tasks[0].was_called());
        // By one that had not waited.
        assert!(control.admit(3));
        assert_eq!(tasks[0].looks(&control, 1), Admission::Full);
        control.closed();
        assert!(tasks[0].was_called() && !tasks[1].was_called());
    }

    #[test]
    fn room_that_is_made_by_another_limit_is_offered() {
        let (control, tasks) = full(2);
        control.set_limit(0);
        assert!(!tasks[0].was_called() && !tasks[1].was_called());
        control.set_limit(2);
        assert!(tasks[0].was_called() && !tasks[1].was_called());
        assert!(control.admit(1) && !control.admit(2));
    }

    #[test]
    fn whoever_is_removed_when_it_is_called_for_room_leaves_it_to_the_next() {
        let (control, tasks) = full(2);
        control.closed();
        assert!(tasks[0].was_called());
        control.remove(control.addresses()[0]);
        assert_eq!(tasks[0].looks(&control, 1), Admission::Closed);
        control.left(0);
        assert!(tasks[1].was_called());
    }

    #[test]
    fn who_is_removed_hears_of_it_and_is_not_called_for_room() {
        let (control, tasks) = full(2);
        control.remove(control.addresses()[0]);
        assert!(tasks[0].was_called());
        control.closed();
        assert!(tasks[1].was_called() && !tasks[0].was_called());
    }
}
