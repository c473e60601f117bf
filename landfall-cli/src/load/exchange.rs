//! The exchange of messages on one connection: what has been sent, what has come back, and by when
//! more must come.
//!
//! Three futures of one task share it: one sends on schedule, one receives and checks, one watches
//! the time. None holds a buffer while it waits, and what is due follows from counts, so an idle
//! connection costs a few words.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_lite::future;
use landfall::net::{ReadHalf, WriteHalf};
use landfall::runtime::time::sleep_until;

use super::report::{Mismatch, Mode};
use super::run::Run;
use super::tally::{Cause, Fault, Phase};

/// The largest piece handed to the system at once: enough to keep it busy, little enough for 30,000
/// connections.
const PIECE: u64 = 64 * 1024;

/// Bytes that were not sent but come all the same are counted up to here; then the connection is
/// given up.
const FLOOD: u64 = 1 << 20;

/// One connection's exchange.
#[derive(Debug)]
pub struct Exchange<'a> {
    run: &'a Run,
    connection: u64,
    // The futures of one task take turns, so these are never really shared; atomics because the
    // task may move from thread to thread.
    /// Messages whose sending has begun.
    begun: AtomicU64,
    /// Messages handed to the system whole.
    sent: AtomicU64,
    /// Messages there will be in all, as far as known.
    goal: AtomicU64,
    /// Bytes of the echo received.
    echoed: AtomicU64,
    /// Bytes received that had not been sent.
    extra: AtomicU64,
    /// Whether the answer under way has a wrong byte: 0 or 1.
    is_spoilt: AtomicU64,
    /// When the oldest thing still due became so, in nanoseconds since the run began; `NOTHING_DUE`
    /// if nothing is.
    due_since: AtomicU64,
}

const NOTHING_DUE: u64 = u64::MAX;

impl<'a> Exchange<'a> {
    /// An exchange that has not begun.
    pub fn new(run: &'a Run, connection: u64) -> Self {
        Self {
            run,
            connection,
            begun: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            goal: AtomicU64::new(u64::MAX),
            echoed: AtomicU64::new(0),
            extra: AtomicU64::new(0),
            is_spoilt: AtomicU64::new(0),
            due_since: AtomicU64::new(NOTHING_DUE),
        }
    }

    /// Sends and receives until everything planned has been answered.
    pub async fn converse(
        &self,
        reader: &mut ReadHalf,
        writer: &mut WriteHalf,
    ) -> Result<(), Fault> {
        // The receiver and the stop are polled before the sender, so it sees in the same turn what
        // they have seen.
        let sending = future::or(self.notice_stop(), self.send(writer));
        let result = future::or(
            self.receive(reader),
            future::or(sending, self.watch(Phase::Receive)),
        )
        .await;
        self.count_sent_but_unnoticed();
        result
    }

    /// Waits for the target to close, and counts what else comes until then.
    pub async fn wait_for_close(&self, reader: &mut ReadHalf) -> Result<(), Fault> {
        self.due_since
            .store(self.run.nanos_since_begin(Instant::now()), Relaxed);
        let close = async {
            while let Some(data) = reader
                .receive()
                .await
                .map_err(Fault::during(Phase::Close))?
            {
                self.take_extra(data.len() as u64)?;
            }
            Ok(())
        };
        match future::or(close, self.watch(Phase::Close)).await {
            Err(Fault {
                cause: Cause::Timeout,
                ..
            }) => {
                self.run.recorder.record(|tally| tally.counts.unclosed += 1);
                Ok(())
            }
            other => other,
        }
    }

    /// Sends each message when its time has come. Returns when there is nothing left to wait for.
    async fn send(&self, writer: &mut WriteHalf) -> Result<(), Fault> {
        let mut message = 0;
        if let Some(start) = self.run.control.started().await {
            while let Some(planned) = self.wait_for_turn(start, message).await {
                self.send_message(writer, message, planned).await?;
                message += 1;
            }
        }
        self.goal.store(message, Relaxed);
        if self.run.plan.mode == Mode::Discard || self.is_complete() {
            return Ok(());
        }
        // The answers are the receiver's business now.
        future::pending().await
    }

    /// Waits until a message is to be sent and returns when it should have been; `None` if it is
    /// not to be sent.
    async fn wait_for_turn(&self, start: Instant, message: u64) -> Option<Instant> {
        let Run { plan, control, .. } = self.run;
        let turn = async {
            let planned = match plan.schedule.planned(self.connection, message) {
                Some(offset) => start + offset,
                None => {
                    self.answered(message).await;
                    Instant::now().max(start)
                }
            };
            if !plan.schedule.includes(message, planned - start) {
                return None;
            }
            sleep_until(planned).await;
            Some(planned)
        };
        future::or(when(|| control.is_stopping().then_some(None)), turn).await
    }

    /// Waits until so many messages have been answered, or just sent where no answer comes.
    async fn answered(&self, messages: u64) {
        let is_done =
            || self.run.plan.mode == Mode::Discard || self.messages_answered() >= messages;
        when(|| is_done().then_some(())).await;
    }

    /// Has the task woken when the run is to stop, for its other futures to see.
    async fn notice_stop(&self) -> Result<(), Fault> {
        self.run.control.stopped().await;
        future::pending().await
    }

    async fn send_message(
        &self,
        writer: &mut WriteHalf,
        message: u64,
        planned: Instant,
    ) -> Result<(), Fault> {
        let Run { plan, recorder, .. } = self.run;
        let now = Instant::now();
        self.begun.store(message + 1, Relaxed);
        if self.due_since.load(Relaxed) == NOTHING_DUE {
            self.due_since
                .store(self.run.nanos_since_begin(now), Relaxed);
        }
        let mut position = message * plan.size;
        let end = position + plan.size;
        while position < end {
            let length = (end - position).min(PIECE);
            let piece = plan
                .content
                .piece(self.connection, position, length as usize);
            let sent = piece.len() as u64;
            writer
                .send(piece)
                .await
                .map_err(Fault::during(Phase::Send))?;
            position += sent;
        }
        self.sent.store(message + 1, Relaxed);
        if plan.mode == Mode::Discard {
            self.due_since.store(NOTHING_DUE, Relaxed);
        }
        recorder.record(|tally| {
            tally.counts.sent += 1;
            tally.counts.sent_bytes += plan.size;
            tally
                .send_delay
                .record(now.saturating_duration_since(planned));
        });
        Ok(())
    }

    /// Receives and checks until everything there will be has been answered.
    async fn receive(&self, reader: &mut ReadHalf) -> Result<(), Fault> {
        loop {
            match reader
                .receive()
                .await
                .map_err(Fault::during(Phase::Receive))?
            {
                Some(data) => self.take(&data)?,
                None => {
                    return Err(Fault {
                        phase: Phase::Receive,
                        cause: Cause::EndOfStream,
                    });
                }
            }
            if self.is_complete() {
                return Ok(());
            }
        }
    }

    /// Takes what came: first what is due, and whatever is more than that.
    fn take(&self, data: &[u8]) -> Result<(), Fault> {
        let Run { plan, recorder, .. } = self.run;
        let due = match plan.mode {
            Mode::Discard => 0,
            Mode::Echo | Mode::EchoUnverified => {
                self.begun.load(Relaxed) * plan.size - self.echoed.load(Relaxed)
            }
        };
        let (mut echo, extra) = data.split_at((data.len() as u64).min(due) as usize);
        recorder.record(|tally| tally.counts.received_bytes += data.len() as u64);
        while !echo.is_empty() {
            let missing = plan.size - self.echoed.load(Relaxed) % plan.size;
            let (part, rest) = echo.split_at((echo.len() as u64).min(missing) as usize);
            self.take_part(part);
            echo = rest;
        }
        self.take_extra(extra.len() as u64)
    }

    /// Takes a part of one answer, which may be the last of it.
    fn take_part(&self, part: &[u8]) {
        let Run {
            plan,
            first_mismatch,
            ..
        } = self.run;
        let position = self.echoed.load(Relaxed);
        if plan.mode == Mode::Echo
            && let Some(difference) = plan
                .content
                .first_difference(self.connection, position, part)
        {
            self.is_spoilt.store(1, Relaxed);
            let _ = first_mismatch.set(Mismatch {
                connection: self.connection,
                message: position / plan.size,
                offset: position % plan.size + difference.offset as u64,
                expected_byte: difference.expected,
                received_byte: difference.received,
            });
        }
        let echoed = position + part.len() as u64;
        self.echoed.store(echoed, Relaxed);
        if echoed.is_multiple_of(plan.size) {
            self.finish_message(echoed / plan.size - 1);
        }
    }

    /// Counts a message whose answer is there.
    fn finish_message(&self, message: u64) {
        let Run { plan, recorder, .. } = self.run;
        let now = Instant::now();
        let planned = self.planned_at(message);
        let is_spoilt = self.is_spoilt.swap(0, Relaxed) == 1;
        // The next answer is due from now on, if there is one to come: it cannot come before this
        // one.
        let is_more_due = self.begun.load(Relaxed) > message + 1;
        self.due_since.store(
            if is_more_due {
                self.run.nanos_since_begin(now)
            } else {
                NOTHING_DUE
            },
            Relaxed,
        );
        recorder.record(|tally| {
            tally.counts.answered += 1;
            tally.latency.record(now.saturating_duration_since(planned));
            match (plan.mode, is_spoilt) {
                (Mode::Echo, false) => tally.counts.verified += 1,
                (Mode::Echo, true) => tally.counts.mismatched += 1,
                (Mode::EchoUnverified | Mode::Discard, _) => {}
            }
        });
    }

    /// When a message was to be sent. Back to back, that is when it became due: there is one at a
    /// time.
    fn planned_at(&self, message: u64) -> Instant {
        match self.run.plan.schedule.planned(self.connection, message) {
            Some(offset) => self.run.control.start_moment().unwrap_or(self.run.began) + offset,
            None => self.run.began + Duration::from_nanos(self.due_since.load(Relaxed)),
        }
    }

    fn take_extra(&self, count: u64) -> Result<(), Fault> {
        if count == 0 {
            return Ok(());
        }
        self.run
            .recorder
            .record(|tally| tally.counts.extra_bytes += count);
        if self.extra.fetch_add(count, Relaxed) + count > FLOOD {
            return Err(Fault {
                phase: Phase::Receive,
                cause: Cause::Flood,
            });
        }
        Ok(())
    }

    /// Ends the exchange when something has been due for longer than `--timeout`.
    async fn watch(&self, phase: Phase) -> Result<(), Fault> {
        let timeout = self.run.plan.timeout;
        loop {
            let due_since = self.due_since.load(Relaxed);
            let now = Instant::now();
            // While nothing is due, nothing can be overdue sooner than a whole timeout from now.
            let deadline = if due_since == NOTHING_DUE {
                now + timeout
            } else {
                self.run.began + Duration::from_nanos(due_since) + timeout
            };
            if deadline <= now {
                let is_sending = self.begun.load(Relaxed) > self.sent.load(Relaxed);
                return Err(Fault {
                    phase: if is_sending { Phase::Send } else { phase },
                    cause: Cause::Timeout,
                });
            }
            sleep_until(deadline).await;
        }
    }

    fn messages_answered(&self) -> u64 {
        self.echoed.load(Relaxed) / self.run.plan.size
    }

    fn is_complete(&self) -> bool {
        self.messages_answered() >= self.goal.load(Relaxed)
    }

    /// Counts messages that must have been sent, since they were answered, although the sender had
    /// no time to learn of it: an answer can overtake the completion of its send.
    fn count_sent_but_unnoticed(&self) {
        let unnoticed = self
            .messages_answered()
            .saturating_sub(self.sent.load(Relaxed));
        let bytes = unnoticed * self.run.plan.size;
        self.run.recorder.record(|tally| {
            tally.counts.sent += unnoticed;
            tally.counts.sent_bytes += bytes;
        });
    }
}

/// Waits until `look` finds something. It is called whenever the task is polled, so what it looks
/// at must only change in a turn of the same task, or together with something that wakes it.
async fn when<T>(look: impl Fn() -> Option<T>) -> T {
    poll_fn(|_| look().map_or(Poll::Pending, Poll::Ready)).await
}
