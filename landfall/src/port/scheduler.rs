//! Who waits where, who is released, and how many run: the part of a completion port that Windows
//! keeps in its kernel, shared by all drivers with lanes.
//!
//! Each lane of the driver has a *home* worker, the one whose submissions it mostly carries. Home
//! workers wait in their own lane; the others (spares) are parked. A thread that goes to wait also
//! covers every lane that nobody looks after, because its home worker is blocked, computes for
//! long, or is gone. A home worker that comes back takes its lane over again.
//!
//! A thread *runs*, and holds one of `limit` permits, from the return of `get` to its next call,
//! except while the watcher finds it blocked.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use slab::Slab;

use super::Shared;
use super::completion::{Completion, CompletionKind, Packet};
use super::error::GetError;
use super::operation::OperationId;
use super::os::{ThreadProbe, ThreadState, ask_for_short_slices};
use super::queue::Queue;
use crate::driver::{Driver, MAX_LANES, Sink};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::{self, Thread};
use crate::sync::{Mutex, MutexGuard, thread_local};

/// A completion that belongs to no handle, on its way through the port's own queue.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) kind: CompletionKind,
    pub(crate) id: OperationId,
    pub(crate) packet: Packet,
}

impl From<Posted> for Completion {
    fn from(posted: Posted) -> Self {
        Completion::unbound(posted.kind, posted.id, posted.packet)
    }
}

pub(super) struct Scheduler {
    limit: usize,
    lanes: usize,
    /// Permits in use. Written with `state` locked.
    running: AtomicUsize,
    /// Length of the posted queue. Written with `state` locked.
    queued: AtomicUsize,
    /// Lanes whose home worker is blocked or computes for long. Written with `state` locked.
    stuck: AtomicU64,
    /// Lanes that the watcher is to flush.
    to_flush: AtomicU64,
    closed: AtomicBool,
    state: Mutex<State>,
    watcher: OnceLock<std::thread::Thread>,
    watcher_asleep: AtomicBool,
}

struct State {
    posted: VecDeque<Posted>,
    /// Packets ever taken, and how many that were at the watcher's last look.
    taken: u64,
    taken_before: u64,
    workers: Slab<Slot>,
    /// Indices of waiting workers, the newest last.
    waiting: Vec<usize>,
    /// Counts waits, to tell which is newer.
    arrivals: u64,
    lanes: Vec<Lane>,
}

#[derive(Clone, Default)]
struct Lane {
    home: Option<usize>,
    poller: Option<usize>,
}

struct Slot {
    worker: Arc<Worker>,
    /// When it began to wait.
    arrival: u64,
    /// The lanes it waits in, as bits; none when parked or not waiting.
    covers: u64,
    release: Option<Release>,
    /// The lane it is roused in for that, unless parked.
    roused_in: Option<usize>,
    /// The phase at the watcher's last look, and at how many looks since it was the same.
    seen: u64,
    stayed: u32,
}

impl State {
    fn add(&mut self, worker: Arc<Worker>) -> Arc<Worker> {
        let index = self.workers.insert(Slot {
            worker: worker.clone(),
            arrival: 0,
            covers: 0,
            release: None,
            roused_in: None,
            seen: OUT,
            stayed: 0,
        });
        worker.index.get_or_init(|| index);
        worker
    }
}

/// What a waiter is woken with.
enum Release {
    /// A packet, and a permit.
    Packet(Posted),
    /// A permit to look for completions.
    Permit,
    /// Nothing: choose again where to wait.
    Reconsider,
}

/// One thread that calls `get`.
struct Worker {
    index: OnceLock<usize>,
    thread: Thread,
    probe: ThreadProbe,
    /// `completions taken << 2 | state`.
    phase: AtomicU64,
    /// It has been released from its wait and has not noticed yet.
    released: AtomicBool,
    /// Lanes that this worker submitted to since it last flushed them. Only it writes.
    dirty: AtomicU64,
    /// Counts calls to `get`, to alternate between packets and lanes. Only it writes.
    turns: AtomicUsize,
    /// Completions taken since the last flush. Only it writes.
    unflushed: AtomicUsize,
    /// The lane it is at home in, or `NO_HOME`. Written with the scheduler's state locked.
    home: AtomicUsize,
}

const NO_HOME: usize = usize::MAX;

/// Neither in `get` nor counted, or waiting in `get`.
const OUT: u64 = 0;
/// In user code, counted.
const RUNNING: u64 = 1;
/// In user code, found blocked, not counted.
const BLOCKED: u64 = 2;
/// In `get`, counted.
const TAKING: u64 = 3;
const STATE: u64 = 3;

/// After this many completions taken without entering the system, enter it once, so that what they
/// were answered with goes out while it is in the processor's cache, and what the system holds back
/// is posted.
const MOST_TAKEN_UNFLUSHED: usize = 64;

/// Looks in a row that must find a worker at the same completion before computing is news: at the
/// first, it may have lost its processor for a moment.
const CONFIRMED: u32 = 2;

/// This thread's membership in a port; leaves on exit or on `get` at another port.
struct Membership {
    scheduler: *const Scheduler,
    shared: Weak<Shared>,
    worker: Arc<Worker>,
}

thread_local! {
    static MEMBERSHIP: RefCell<Option<Membership>> = const { RefCell::new(None) };
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            if let Queue::Lanes(scheduler) = &shared.queue {
                scheduler.leave(shared.driver.as_ref(), &self.worker);
            }
        }
    }
}

/// One call of `get`.
struct Call {
    deadline: Option<Instant>,
    /// The thread holds a permit.
    counted: bool,
    /// Its place among the waiters, once it has waited.
    arrival: Option<u64>,
}

impl Call {
    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// How a wait ended.
enum Woken {
    Packet(Posted),
    LookAgain,
    TimedOut,
    Closed,
}

/// Waiters to wake once the state is unlocked. There is hardly ever more than one, which costs no
/// allocation.
#[derive(Default)]
struct Wakes {
    first: Option<Wake>,
    others: Vec<Wake>,
}

enum Wake {
    Unpark(Thread),
    Lane(usize),
}

impl Wakes {
    fn push(&mut self, wake: Wake) {
        match &self.first {
            None => self.first = Some(wake),
            Some(_) => self.others.push(wake),
        }
    }
}

impl Scheduler {
    pub(super) fn new(limit: usize, lanes: usize) -> Self {
        assert!(lanes <= MAX_LANES, "{lanes} lanes do not fit into a set");
        Scheduler {
            limit,
            lanes,
            running: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            stuck: AtomicU64::new(0),
            to_flush: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            state: Mutex::new(State {
                posted: VecDeque::with_capacity(64),
                taken: 0,
                taken_before: 0,
                workers: Slab::new(),
                waiting: Vec::new(),
                arrivals: 0,
                lanes: vec![Lane::default(); lanes],
            }),
            watcher: OnceLock::new(),
            watcher_asleep: AtomicBool::new(false),
        }
    }

    pub(super) fn concurrency(&self) -> usize {
        self.limit
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Whether the calling thread is a worker of this port that has taken a completion: it will
    /// come back to `get`, and is watched until then.
    pub(super) fn is_worker(&self) -> bool {
        self.worker_where(|_| true)
    }

    /// Whether the calling thread is such a worker, and no other is at home in these lanes.
    pub(super) fn is_at_home(&self, lanes: u64) -> bool {
        self.worker_where(|worker| {
            let others = lanes & !worker.home().map_or(0, |home| 1 << home);
            others == 0 || {
                let state = self.state.lock();
                bits(others).all(|lane| state.lanes[lane].home.is_none())
            }
        })
    }

    fn worker_where(&self, accept: impl Fn(&Worker) -> bool) -> bool {
        let is_running = |membership: &Membership| {
            let phase = membership.worker.phase.load(Ordering::Relaxed);
            std::ptr::eq(membership.scheduler, self)
                && phase & STATE == RUNNING
                && accept(&membership.worker)
        };
        MEMBERSHIP
            .try_with(|m| m.borrow().as_ref().is_some_and(is_running))
            .unwrap_or(false)
    }

    /// Remembers that the calling worker submitted to these lanes.
    pub(super) fn mark_dirty(&self, lanes: u64) {
        if lanes == 0 {
            return;
        }
        MEMBERSHIP.with(|m| {
            if let Some(membership) = &*m.borrow() {
                membership.worker.touch(lanes);
            }
        });
    }

    /// Flushes these lanes now.
    pub(super) fn flush_lanes(&self, driver: &dyn Driver, lanes: u64) {
        bits(lanes).for_each(|lane| {
            driver.flush(lane);
        });
    }

    /// Has these lanes flushed by whoever waits there or will come by soon, or else by the watcher.
    pub(super) fn nudge(&self, driver: &dyn Driver, lanes: u64) {
        if lanes == 0 {
            return;
        }
        let (polled, unattended) = {
            let state = self.state.lock();
            let polled = bits(lanes).filter(|&lane| state.lanes[lane].poller.is_some());
            (set_of(polled), set_of(self.unattended(&state)) & lanes)
        };
        bits(polled).for_each(|lane| driver.nudge(lane));
        if unattended != 0 {
            self.to_flush.fetch_or(unattended, Ordering::AcqRel);
            self.wake_watcher();
        }
    }

    /// Queues a packet; `false` when the port is closed.
    pub(super) fn post(&self, driver: &dyn Driver, item: Posted, later: bool) -> bool {
        let mut wakes = Wakes::default();
        {
            let mut state = self.state.lock();
            if self.closed.load(Ordering::Relaxed) {
                return false;
            }
            state.posted.push_back(item);
            self.queued.store(state.posted.len(), Ordering::Relaxed);
            let own_turn = later && state.posted.len() == 1 && self.is_worker();
            if !own_turn {
                self.release_for_posted(&mut state, &mut wakes);
            }
        }
        wake(driver, wakes);
        true
    }

    /// Takes up to `max` completions, waiting until there is one.
    pub(super) fn get(
        &self,
        shared: &Arc<Shared>,
        sink: &mut Sink<'_>,
        max: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, GetError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(GetError::Closed);
        }
        let worker = self.join(shared);
        let driver = shared.driver.as_ref();
        let mut call = Call {
            // A timeout too long for the clock is as good as none.
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            counted: self.enter(&worker),
            arrival: None,
        };
        let mut looked_everywhere = false;
        loop {
            let closed = self.closed.load(Ordering::Acquire);
            call.counted = call.counted || self.try_permit(&worker);
            if !closed && call.counted && self.running() <= self.limit {
                let mut taken = self.take(driver, &worker, sink, max);
                if taken == 0 && looked_everywhere {
                    // What others will come for soon is there now.
                    taken = self.take_anywhere(driver, &worker, sink, max);
                }
                if taken > 0 {
                    self.exit(&worker);
                    return Ok(taken);
                }
            }
            if !looked_everywhere && call.is_over() {
                // The system posts what it has only when it is entered.
                (0..self.lanes).for_each(|lane| {
                    driver.flush(lane);
                });
                looked_everywhere = true;
                continue;
            }
            match self.wait(driver, &worker, &mut call) {
                Woken::LookAgain => {}
                Woken::Packet(item) => {
                    sink.push(item.into());
                    let others = self.take_posted(sink, max - 1);
                    self.exit(&worker);
                    return Ok(1 + others);
                }
                Woken::TimedOut => {
                    self.flush(driver, &worker, worker.home());
                    return Err(GetError::TimedOut);
                }
                Woken::Closed => return Err(GetError::Abandoned),
            }
        }
    }

    /// Closes the port for all waiters.
    pub(super) fn close(&self, driver: &dyn Driver) {
        let mut wakes = Wakes::default();
        let dropped;
        {
            let mut state = self.state.lock();
            self.closed.store(true, Ordering::Release);
            dropped = std::mem::take(&mut state.posted);
            self.queued.store(0, Ordering::Relaxed);
            for index in state.waiting.clone() {
                self.release(&mut state, index, Release::Reconsider, &mut wakes);
            }
        }
        drop(dropped);
        wake(driver, wakes);
        self.wake_watcher();
    }

    /// The calling thread's membership, made on its first `get`.
    fn join(&self, shared: &Arc<Shared>) -> Arc<Worker> {
        let member = MEMBERSHIP.with(|membership| {
            let membership = membership.borrow();
            let here = membership
                .as_ref()
                .filter(|m| std::ptr::eq(m.scheduler, self));
            here.map(|m| m.worker.clone())
        });
        if let Some(worker) = member {
            return worker;
        }
        ask_for_short_slices();
        let worker = Worker::current();
        let worker = self.state.lock().add(worker);
        let left = MEMBERSHIP.with(|membership| {
            membership.borrow_mut().replace(Membership {
                scheduler: self,
                shared: Arc::downgrade(shared),
                worker: worker.clone(),
            })
        });
        // Leaving the other port may drop it, which asks for this thread's membership.
        drop(left);
        worker
    }

    /// Forgets a worker whose thread ends or went to another port.
    fn leave(&self, driver: &dyn Driver, worker: &Worker) {
        let mut wakes = Wakes::default();
        {
            let mut state = self.state.lock();
            state.workers.remove(worker.index());
            if let Some(lane) = worker.home() {
                state.lanes[lane].home = None;
                self.stuck.fetch_and(!(1 << lane), Ordering::Relaxed);
            }
            // The watcher may still hold it for a suspect.
            if worker.phase.fetch_and(!STATE, Ordering::AcqRel) & STATE == RUNNING {
                self.running.fetch_sub(1, Ordering::Relaxed);
            }
            self.rebalance(driver, &mut state, &mut wakes);
        }
        wake(driver, wakes);
        self.nudge(driver, worker.touched());
    }

    /// Back from user code: whether the worker still holds its permit. The watcher may at the same
    /// moment take the permit of a worker that blocks, or give it back.
    fn enter(&self, worker: &Worker) -> bool {
        let mut phase = worker.phase.load(Ordering::Relaxed);
        let counted = loop {
            let counted = phase & STATE == RUNNING;
            let to = if counted {
                phase | TAKING
            } else {
                phase & !STATE
            };
            let entered =
                worker
                    .phase
                    .compare_exchange_weak(phase, to, Ordering::AcqRel, Ordering::Relaxed);
            match entered {
                Ok(_) => break counted,
                Err(now) => phase = now,
            }
        };
        if self.stuck.load(Ordering::Relaxed) != 0 {
            let _state = self.state.lock();
            if let Some(lane) = worker.home() {
                self.stuck.fetch_and(!(1 << lane), Ordering::Relaxed);
            }
        }
        counted
    }

    /// Off to user code with a completion.
    fn exit(&self, worker: &Worker) {
        let taken = worker.phase.load(Ordering::Relaxed) >> 2;
        worker
            .phase
            .swap((taken + 1) << 2 | RUNNING, Ordering::SeqCst);
        if self.watcher_asleep.load(Ordering::SeqCst) {
            self.wake_watcher();
        }
    }

    fn try_permit(&self, worker: &Worker) -> bool {
        let _state = self.state.lock();
        let free = self.running() < self.limit;
        if free {
            self.count(worker);
        }
        free
    }

    /// Gives a worker a permit. The state is locked.
    fn count(&self, worker: &Worker) {
        self.running.fetch_add(1, Ordering::Relaxed);
        worker.phase.fetch_or(TAKING, Ordering::AcqRel);
    }

    /// Takes a worker's permit back. The state is locked.
    fn uncount(&self, worker: &Worker) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        worker.phase.fetch_and(!STATE, Ordering::AcqRel);
    }

    /// Takes what there is, in fair turns: packets and the worker's own lane first, then lanes
    /// that nobody looks after; those at times even if it always finds something before, or they
    /// would be left alone for ever.
    fn take(&self, driver: &dyn Driver, worker: &Worker, sink: &mut Sink<'_>, max: usize) -> usize {
        let turn = worker.turns.load(Ordering::Relaxed).wrapping_add(1);
        worker.turns.store(turn, Ordering::Relaxed);
        let home = worker.home();
        let mut taken = 0;
        if worker.unflushed.load(Ordering::Relaxed) >= MOST_TAKEN_UNFLUSHED {
            self.flush(driver, worker, home);
            taken = self.take_unattended(driver, worker, sink, max);
        }
        if turn % 2 == 0 {
            taken += self.take_posted(sink, max - taken);
        }
        taken += home.map_or(0, |home| driver.reap(home, max - taken, sink));
        taken += self.take_posted(sink, max - taken);
        if taken == 0 && self.flush(driver, worker, home) {
            taken = home.map_or(0, |home| driver.reap(home, max, sink));
        }
        if taken == 0 {
            taken = self.take_unattended(driver, worker, sink, max);
        }
        let unflushed = worker.unflushed.load(Ordering::Relaxed);
        worker.unflushed.store(unflushed + taken, Ordering::Relaxed);
        taken
    }

    /// Takes from lanes that nobody else looks after. What others look after is left to them: a
    /// lane taken from by two costs both more than it spares either
    /// (`docs/decisions/0002-accepts-receives-and-the-watcher.md`).
    fn take_unattended(
        &self,
        driver: &dyn Driver,
        worker: &Worker,
        sink: &mut Sink<'_>,
        max: usize,
    ) -> usize {
        let home = worker.home();
        let unattended = set_of(self.unattended(&self.state.lock()));
        let start = worker.turns.load(Ordering::Relaxed) % self.lanes;
        (0..self.lanes)
            .map(|step| (start + step) % self.lanes)
            .filter(|&lane| Some(lane) != home && unattended & 1 << lane != 0)
            .map(|lane| {
                driver.flush(lane);
                // Taking may submit again what is to go on.
                worker.touch(1 << lane);
                driver.reap(lane, max, sink)
            })
            .find(|&taken| taken > 0)
            .unwrap_or(0)
    }

    /// Takes from any lane, for a thread that is about to leave with nothing.
    fn take_anywhere(
        &self,
        driver: &dyn Driver,
        worker: &Worker,
        sink: &mut Sink<'_>,
        max: usize,
    ) -> usize {
        (0..self.lanes)
            .map(|lane| {
                worker.touch(1 << lane);
                let taken = driver.reap(lane, max, sink);
                // An operation of several steps may have gone on.
                match taken == 0 && driver.flush(lane) {
                    true => driver.reap(lane, max, sink),
                    false => taken,
                }
            })
            .find(|&taken| taken > 0)
            .unwrap_or(0)
    }

    /// Takes up to `max` packets.
    fn take_posted(&self, sink: &mut Sink<'_>, max: usize) -> usize {
        if max == 0 || self.queued.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut state = self.state.lock();
        let mut taken = 0;
        while taken < max {
            let Some(item) = self.pop_posted(&mut state) else {
                break;
            };
            sink.push(item.into());
            taken += 1;
        }
        taken
    }

    /// Hands on what the worker submitted; whether that may have completed something at home.
    fn flush(&self, driver: &dyn Driver, worker: &Worker, home: Option<usize>) -> bool {
        worker.unflushed.store(0, Ordering::Relaxed);
        self.flush_dirty(driver, worker, home.map_or(0, |home| 1 << home));
        home.is_some_and(|home| driver.flush(home))
    }

    /// Flushes the lanes that the worker submitted to, but for those in `later`.
    fn flush_dirty(&self, driver: &dyn Driver, worker: &Worker, later: u64) {
        let dirty = worker.dirty.load(Ordering::Relaxed);
        if dirty != 0 {
            worker.dirty.store(0, Ordering::Relaxed);
            bits(dirty & !later).for_each(|lane| {
                driver.flush(lane);
            });
        }
    }

    /// Waits until released, something completes where it waits, or `deadline`.
    fn wait(&self, driver: &dyn Driver, worker: &Worker, call: &mut Call) -> Woken {
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        if std::mem::take(&mut call.counted) {
            self.uncount(worker);
        }
        if self.closed.load(Ordering::Relaxed) {
            return Woken::Closed;
        }
        if self.running() < self.limit {
            let item = self.pop_posted(&mut state);
            if item.is_some() || self.unattended(&state).any(|lane| driver.pending(lane)) {
                self.count(worker);
                call.counted = true;
                return item.map_or(Woken::LookAgain, Woken::Packet);
            }
        }
        if call.is_over() {
            self.rebalance(driver, &mut state, &mut wakes);
            drop(state);
            wake(driver, wakes);
            return Woken::TimedOut;
        }
        self.enlist(&mut state, worker, call);
        loop {
            let covers = self.settle(&mut state, worker, &mut wakes);
            drop(state);
            wake(driver, std::mem::take(&mut wakes));
            self.sleep(driver, worker, covers, call);
            state = self.state.lock();
            let closed = self.closed.load(Ordering::Relaxed);
            match self.released(driver, &mut state, worker) {
                Some(Release::Packet(item)) => {
                    call.counted = true;
                    return Woken::Packet(item);
                }
                Some(Release::Permit) => {
                    call.counted = true;
                    return Woken::LookAgain;
                }
                // It keeps its place among the waiters.
                Some(Release::Reconsider) if !closed && !self.has_work(driver, &state) => {}
                Some(Release::Reconsider) | None => {
                    self.stop_waiting(&mut state, worker.index());
                    if !closed && self.running() < self.limit {
                        self.count(worker);
                        call.counted = true;
                    }
                    return Woken::LookAgain;
                }
            }
        }
    }

    /// Whether a thread with a permit would find something in a lane that nobody looks after.
    fn has_work(&self, driver: &dyn Driver, state: &State) -> bool {
        self.running() < self.limit && self.unattended(state).any(|lane| driver.pending(lane))
    }

    /// Makes a worker a waiter, in the order of arrival, which it keeps while it looks around.
    fn enlist(&self, state: &mut State, worker: &Worker, call: &mut Call) {
        let arrival = *call.arrival.get_or_insert_with(|| {
            state.arrivals += 1;
            state.arrivals
        });
        let index = worker.index();
        state.workers[index].arrival = arrival;
        let before = |&other: &usize| state.workers[other].arrival < arrival;
        let place = state
            .waiting
            .iter()
            .rposition(before)
            .map_or(0, |place| place + 1);
        state.waiting.insert(place, index);
    }

    /// Chooses where a worker waits. Returns the lanes, none if it is to park.
    fn settle(&self, state: &mut MutexGuard<'_, State>, worker: &Worker, wakes: &mut Wakes) -> u64 {
        let index = worker.index();
        self.uncover(state, index);
        let mut covers = 0;
        // Without a free permit it could not take what it finds: whoever gives a permit back
        // looks at every lane first.
        if self.running() < self.limit {
            if worker.home().is_none() {
                let vacant = state.lanes.iter().position(|lane| lane.home.is_none());
                if let Some(lane) = vacant {
                    state.lanes[lane].home = Some(index);
                    worker.home.store(lane, Ordering::Relaxed);
                }
            }
            if let Some(home) = worker.home() {
                if let Some(guest) = state.lanes[home].poller.filter(|&guest| guest != index) {
                    self.evict(state, guest, home, wakes);
                }
                covers |= 1 << home;
            }
            covers |= set_of(self.unattended(state));
            // A worker that was parked for want of a permit can go back to its lane, or be given one.
            let vacant = state.lanes.iter().any(|lane| lane.home.is_none());
            let parked = state.waiting.iter().copied().rev().find(|&waiting| {
                let slot = &state.workers[waiting];
                waiting != index
                    && slot.covers == 0
                    && slot.release.is_none()
                    && (slot.worker.home().is_some() || vacant)
            });
            if let Some(waiting) = parked {
                self.release(state, waiting, Release::Reconsider, wakes);
            }
        }
        for lane in bits(covers) {
            state.lanes[lane].poller = Some(index);
        }
        state.workers[index].covers = covers;
        covers
    }

    /// Lanes that nobody waits in and whose home worker will not come to them soon.
    fn unattended<'a>(&'a self, state: &'a State) -> impl Iterator<Item = usize> + 'a {
        let stuck = self.stuck.load(Ordering::Relaxed);
        state
            .lanes
            .iter()
            .enumerate()
            .filter_map(move |(index, lane)| {
                let attended = lane.poller.is_some()
                    || lane.home.is_some_and(|home| {
                        let slot = &state.workers[home];
                        let phase = slot.worker.phase.load(Ordering::Relaxed);
                        let soon_back =
                            matches!(phase & STATE, RUNNING | TAKING) && stuck & 1 << index == 0;
                        soon_back || slot.release.is_some()
                    });
                (!attended).then_some(index)
            })
    }

    fn sleep(&self, driver: &dyn Driver, worker: &Worker, covers: u64, call: &Call) {
        let left = || {
            call.deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()))
        };
        self.flush_dirty(driver, worker, covers);
        if covers != 0 {
            driver.wait(covers, left(), &worker.released);
            return;
        }
        // What others left there, counting on this worker to come by.
        if let Some(home) = worker.home() {
            driver.flush(home);
        }
        match left() {
            None => thread::park(),
            Some(left) => thread::park_timeout(left),
        }
    }

    /// What a waiter that woke was released with, if it was.
    fn released(&self, driver: &dyn Driver, state: &mut State, worker: &Worker) -> Option<Release> {
        let slot = &mut state.workers[worker.index()];
        worker.released.store(false, Ordering::SeqCst);
        if let Some(lane) = slot.roused_in.take() {
            driver.woken(lane);
        }
        slot.release.take()
    }

    /// Takes a worker off the list of waiters and out of its lanes.
    fn stop_waiting(&self, state: &mut State, index: usize) {
        if let Some(place) = state.waiting.iter().rposition(|&waiting| waiting == index) {
            state.waiting.remove(place);
        }
        self.uncover(state, index);
    }

    /// Takes a waiter out of its lanes. Returns them.
    fn uncover(&self, state: &mut State, index: usize) -> u64 {
        let covers = std::mem::take(&mut state.workers[index].covers);
        for lane in bits(covers) {
            if state.lanes[lane].poller == Some(index) {
                state.lanes[lane].poller = None;
            }
        }
        covers
    }

    /// Ends one worker's wait, with a permit unless it is only to reconsider: then it stays a
    /// waiter.
    fn release(&self, state: &mut State, index: usize, release: Release, wakes: &mut Wakes) {
        let covers = self.uncover(state, index);
        if !matches!(release, Release::Reconsider) {
            self.stop_waiting(state, index);
            self.count(&state.workers[index].worker);
        }
        let slot = &mut state.workers[index];
        if slot.release.replace(release).is_some() {
            // Roused already, to reconsider.
            return;
        }
        slot.roused_in = bits(covers).next();
        slot.worker.released.store(true, Ordering::SeqCst);
        wakes.push(match slot.roused_in {
            Some(lane) => Wake::Lane(lane),
            None => Wake::Unpark(slot.worker.thread.clone()),
        });
    }

    /// Sends a guest out of a lane whose home worker is back. It keeps its other lanes meanwhile, and is
    /// roused in one of them: in this one the home worker would take its wake, and make another, again
    /// and again.
    fn evict(&self, state: &mut State, guest: usize, lane: usize, wakes: &mut Wakes) {
        state.lanes[lane].poller = None;
        let slot = &mut state.workers[guest];
        slot.covers &= !(1 << lane);
        if slot.release.is_none() {
            let rouse_in = bits(slot.covers).next().unwrap_or(lane);
            slot.release = Some(Release::Reconsider);
            slot.roused_in = Some(rouse_in);
            slot.worker.released.store(true, Ordering::SeqCst);
            wakes.push(Wake::Lane(rouse_in));
        }
    }

    fn pop_posted(&self, state: &mut State) -> Option<Posted> {
        let item = state.posted.pop_front();
        state.taken += u64::from(item.is_some());
        self.queued.store(state.posted.len(), Ordering::Relaxed);
        item
    }

    /// Gives the oldest packets to the newest waiters while permits last.
    fn release_for_posted(&self, state: &mut State, wakes: &mut Wakes) {
        while self.running() < self.limit && !state.posted.is_empty() {
            let Some(newest) = state.waiting.last().copied() else {
                break;
            };
            if let Some(item) = self.pop_posted(state) {
                self.release(state, newest, Release::Packet(item), wakes);
            }
        }
    }

    /// After a permit came free or a lane lost its worker: puts waiters where they are needed.
    fn rebalance(&self, driver: &dyn Driver, state: &mut State, wakes: &mut Wakes) {
        self.release_for_posted(state, wakes);
        if self.running() >= self.limit {
            return;
        }
        if self.unattended(state).next().is_none() {
            return;
        }
        if self.unattended(state).any(|lane| driver.pending(lane)) {
            if let Some(newest) = state.waiting.last().copied() {
                self.release(state, newest, Release::Permit, wakes);
            }
            return;
        }
        // A parked waiter, or else one that waits elsewhere and can wait in both.
        let free = |&&index: &&usize| state.workers[index].release.is_none();
        let parked = |&&index: &&usize| state.workers[index].covers == 0;
        let waiting = || state.waiting.iter().rev().filter(free);
        let chosen = waiting().find(parked).or_else(|| waiting().next());
        if let Some(index) = chosen.copied() {
            self.release(state, index, Release::Reconsider, wakes);
        }
    }

    pub(super) fn set_watcher(&self, thread: std::thread::Thread) {
        self.watcher.get_or_init(|| thread);
    }

    /// Announces a long pause of the watcher, which a worker that takes something cuts short.
    pub(super) fn watcher_naps(&self) {
        self.watcher_asleep.store(true, Ordering::SeqCst);
    }

    pub(super) fn wake_watcher(&self) {
        self.watcher_asleep.store(false, Ordering::SeqCst);
        if let Some(thread) = self.watcher.get() {
            thread.unpark();
        }
    }

    /// Announces that the watcher will sleep until woken; `false` if somebody runs after all.
    pub(super) fn watcher_may_sleep(&self) -> bool {
        self.watcher_asleep.store(true, Ordering::SeqCst);
        let state = self.state.lock();
        let busy = state.workers.iter().any(|(_, slot)| {
            let phase = slot.worker.phase.load(Ordering::SeqCst);
            matches!(phase & STATE, RUNNING | BLOCKED)
        });
        drop(state);
        let busy = busy || self.to_flush.load(Ordering::SeqCst) != 0;
        if busy {
            self.watcher_asleep.store(false, Ordering::SeqCst);
        }
        !busy && !self.closed.load(Ordering::Acquire)
    }

    /// The watcher's look: finds workers that made no progress since the last one, takes the
    /// permits of those that are blocked, gives permits back to those that go on, and puts
    /// waiters in their place.
    pub(super) fn look(&self, driver: &dyn Driver, suspects: &mut Suspects) -> Looked {
        let mut looked = Looked::default();
        bits(self.to_flush.swap(0, Ordering::AcqRel)).for_each(|lane| {
            driver.flush(lane);
        });
        let stale = self.find_suspects(suspects, &mut looked);
        let Suspects(suspects) = suspects;
        if suspects.is_empty() && !stale {
            return looked;
        }
        // Read outside the lock: it takes microseconds.
        for suspect in suspects.iter_mut() {
            suspect.now = suspect.worker.probe.state();
            looked.computing |= suspect.computes();
            looked.unsure |= !suspect.is_stuck();
        }
        let mut wakes = Wakes::default();
        {
            let mut state = self.state.lock();
            for suspect in suspects.iter() {
                looked.changed |= self.judge(suspect);
            }
            self.rebalance(driver, &mut state, &mut wakes);
        }
        if looked.computing {
            driver.poke();
        }
        wake(driver, wakes);
        // What they submitted rests until they come back: hand it on for them.
        let touched = suspects
            .iter()
            .fold(0, |set, suspect| set | suspect.worker.touched());
        bits(touched).for_each(|lane| {
            driver.flush(lane);
        });
        suspects.clear();
        looked
    }

    /// Workers in user code since the last look. Returns whether a packet has waited as long.
    fn find_suspects(&self, suspects: &mut Suspects, looked: &mut Looked) -> bool {
        let state = &mut *self.state.lock();
        for (_, slot) in state.workers.iter_mut() {
            let phase = slot.worker.phase.load(Ordering::Relaxed);
            let stayed = std::mem::replace(&mut slot.seen, phase) == phase;
            slot.stayed = if stayed {
                slot.stayed.saturating_add(1)
            } else {
                0
            };
            match phase & STATE {
                RUNNING => looked.handling = true,
                TAKING => looked.taking = true,
                BLOCKED => looked.blocked = true,
                _ => {}
            }
            if stayed && matches!(phase & STATE, RUNNING | BLOCKED) {
                suspects.0.push(Suspect {
                    worker: slot.worker.clone(),
                    phase,
                    stayed: slot.stayed,
                    now: ThreadState::Running,
                });
            }
        }
        let none_taken = std::mem::replace(&mut state.taken_before, state.taken) == state.taken;
        none_taken && !state.posted.is_empty()
    }

    /// Acts on what a suspect was found doing; returns whether that is news.
    /// The state is locked. A worker that has left is neither running nor blocked.
    fn judge(&self, suspect: &Suspect) -> bool {
        let Suspect { worker, phase, .. } = suspect;
        let to = match (phase & STATE, suspect.now) {
            (RUNNING, ThreadState::Blocked) => phase & !STATE | BLOCKED,
            (BLOCKED, ThreadState::Running | ThreadState::Ready) => phase & !STATE | RUNNING,
            _ => *phase,
        };
        let still = worker
            .phase
            .compare_exchange(*phase, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if !still {
            return false;
        }
        match (phase & STATE, to & STATE) {
            (RUNNING, BLOCKED) => self.running.fetch_sub(1, Ordering::Relaxed),
            (BLOCKED, RUNNING) => self.running.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        if let Some(lane) = worker.home().filter(|_| suspect.is_stuck()) {
            self.stuck.fetch_or(1 << lane, Ordering::Relaxed);
        }
        to != *phase || suspect.computes() && suspect.stayed == CONFIRMED
    }
}

/// A worker in user code that made no progress between two looks.
struct Suspect {
    worker: Arc<Worker>,
    phase: u64,
    /// Looks at which it was at the same completion as at the one before.
    stayed: u32,
    now: ThreadState,
}

impl Suspect {
    fn computes(&self) -> bool {
        self.now == ThreadState::Running
    }

    /// Whether others are to look after its lane. It may just have lost its processor to another thread:
    /// then it will soon be back, and the others want a processor as well.
    fn is_stuck(&self) -> bool {
        self.now != ThreadState::Ready || self.stayed >= CONFIRMED
    }
}

/// The watcher's suspects. It keeps the memory, so that looking allocates nothing.
#[derive(Default)]
pub(super) struct Suspects(Vec<Suspect>);

/// What the watcher saw.
#[derive(Default)]
pub(super) struct Looked {
    /// Somebody is in user code.
    pub(super) handling: bool,
    /// Somebody is taking completions.
    pub(super) taking: bool,
    /// Somebody is blocked in user code.
    pub(super) blocked: bool,
    /// Somebody computes for long in user code.
    pub(super) computing: bool,
    /// Somebody waits for a processor, and may have it back soon.
    pub(super) unsure: bool,
    /// A worker was newly found blocked or computing, or went on.
    pub(super) changed: bool,
}

impl Worker {
    /// Of the calling thread.
    fn current() -> Arc<Self> {
        Arc::new(Worker {
            index: OnceLock::new(),
            thread: thread::current(),
            probe: ThreadProbe::current(),
            phase: AtomicU64::new(OUT),
            released: AtomicBool::new(false),
            dirty: AtomicU64::new(0),
            turns: AtomicUsize::new(0),
            unflushed: AtomicUsize::new(0),
            home: AtomicUsize::new(NO_HOME),
        })
    }

    fn index(&self) -> usize {
        *self.index.get().expect("set when the worker joined")
    }

    /// Notes lanes that the worker submitted to. Only the worker itself calls this.
    fn touch(&self, lanes: u64) {
        let dirty = self.dirty.load(Ordering::Relaxed);
        self.dirty.store(dirty | lanes, Ordering::Relaxed);
    }

    /// Lanes where something of this worker may rest.
    fn touched(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed) | self.home().map_or(0, |home| 1 << home)
    }

    fn home(&self) -> Option<usize> {
        Some(self.home.load(Ordering::Relaxed)).filter(|&home| home != NO_HOME)
    }
}

fn set_of(lanes: impl Iterator<Item = usize>) -> u64 {
    lanes.fold(0, |set, lane| set | 1 << lane)
}

fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (lane < 64).then_some(lane)
    })
}

fn wake(driver: &dyn Driver, wakes: Wakes) {
    for wake in wakes.first.into_iter().chain(wakes.others) {
        match wake {
            Wake::Lane(lane) => driver.wake(lane),
            Wake::Unpark(thread) => thread.unpark(),
        }
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
