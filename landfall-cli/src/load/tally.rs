//! What is counted and measured while the load runs, in a fixed amount of memory however long that
//! is.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::options::processors;
use crate::system::errno;

/// The step of a conversation in which an error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opening the connection.
    Connect,
    /// Sending a message.
    Send,
    /// Waiting for an answer.
    Receive,
    /// Waiting for the target to close after the last message.
    Close,
}

impl Phase {
    /// The word for it in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Close => "close",
        }
    }
}

/// Why a connection ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// An error of the system, by its number.
    System(i32),
    /// Nothing happened for as long as `--timeout` allows.
    Timeout,
    /// The target closed while answers or messages were still due.
    EndOfStream,
    /// The connection met itself: the system had picked the target's port as the local one, and
    /// nobody listens there.
    SelfConnect,
    /// The target sent far more than it was sent.
    Flood,
    /// An error without a number.
    Other(io::ErrorKind),
}

impl Cause {
    /// The cause an error of the system stands for.
    pub fn of(error: &io::Error) -> Self {
        match (error.raw_os_error(), error.kind()) {
            (Some(code), _) => Self::System(code),
            (None, io::ErrorKind::TimedOut) => Self::Timeout,
            (None, io::ErrorKind::UnexpectedEof) => Self::EndOfStream,
            (None, kind) => Self::Other(kind),
        }
    }

    /// A short stable name, as in the JSON result.
    pub fn name(self) -> String {
        match self {
            Self::System(code) => errno::name(code),
            Self::Timeout => String::from("timeout"),
            Self::EndOfStream => String::from("end_of_stream"),
            Self::SelfConnect => String::from("self_connect"),
            Self::Flood => String::from("flood"),
            Self::Other(kind) => format!("{kind:?}"),
        }
    }

    /// What it means, for people.
    pub fn explanation(self) -> String {
        match self {
            Self::System(code) => io::Error::from_raw_os_error(code).to_string(),
            Self::Timeout => String::from("it was not finished within --timeout"),
            Self::EndOfStream => String::from("the target closed the connection too early"),
            Self::SelfConnect => {
                String::from("connected to itself: nobody listens on the target's port")
            }
            Self::Flood => String::from("the target sent far more than it was sent"),
            Self::Other(kind) => kind.to_string(),
        }
    }

    /// Whether this machine ran out of something.
    pub fn is_local_limit(self) -> bool {
        matches!(self, Self::System(code) if errno::is_local_limit(code))
    }
}

/// The end of a conversation that could not be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// During what.
    pub phase: Phase,
    /// By what.
    pub cause: Cause,
}

impl Fault {
    /// Makes an error of the system, met in some phase, into a fault: for `map_err`.
    pub fn during(phase: Phase) -> impl Fn(io::Error) -> Self {
        move |error| Self {
            phase,
            cause: Cause::of(&error),
        }
    }
}

/// Plain counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Connections opened.
    pub connected: u64,
    /// Connections the target refused.
    pub refused: u64,
    /// Connections that could not be opened, refused ones among them.
    pub connect_failed: u64,
    /// Messages handed to the system whole.
    pub sent: u64,
    /// Messages for which as many bytes came back.
    pub answered: u64,
    /// Answers in which every byte was right.
    pub verified: u64,
    /// Answers in which at least one byte was wrong.
    pub mismatched: u64,
    /// Bytes handed to the system.
    pub sent_bytes: u64,
    /// Bytes that came back.
    pub received_bytes: u64,
    /// Bytes that came without having been sent.
    pub extra_bytes: u64,
    /// Connections the target had not closed `--timeout` after the last message.
    pub unclosed: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        // Taken apart, so that a new count cannot be forgotten here.
        let Self {
            connected,
            refused,
            connect_failed,
            sent,
            answered,
            verified,
            mismatched,
            sent_bytes,
            received_bytes,
            extra_bytes,
            unclosed,
        } = other;
        self.connected += connected;
        self.refused += refused;
        self.connect_failed += connect_failed;
        self.sent += sent;
        self.answered += answered;
        self.verified += verified;
        self.mismatched += mismatched;
        self.sent_bytes += sent_bytes;
        self.received_bytes += received_bytes;
        self.extra_bytes += extra_bytes;
        self.unclosed += unclosed;
    }
}

/// Times in microseconds, in buckets no wider than a thousandth of their value, up to an hour.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    const LONGEST_MICROS: u64 = 3_600_000_000;
    const SIGNIFICANT_DIGITS: u8 = 3;

    fn new() -> Self {
        let bounds = Histogram::new_with_bounds(1, Self::LONGEST_MICROS, Self::SIGNIFICANT_DIGITS);
        Self(bounds.expect("the bounds are constants the histogram accepts"))
    }

    /// Counts a time; one longer than an hour counts as an hour.
    pub fn record(&mut self, time: Duration) {
        self.0
            .saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn add(&mut self, other: &Self) {
        self.0
            .add(&other.0)
            .expect("histograms of the same bounds can be added");
    }

    /// The time that `percentile` per cent of the counted ones do not exceed; `None` if none was
    /// counted.
    pub fn percentile(&self, percentile: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_percentile(percentile))
    }

    /// How many of the counted times are at least this long.
    pub fn count_from(&self, micros: u64) -> u64 {
        self.0.count_between(micros, u64::MAX)
    }

    /// The longest.
    pub fn max(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.max())
    }

    /// The mean.
    pub fn mean(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.mean())
    }
}

/// All counts and measurements.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Plain counts.
    pub counts: Counts,
    /// From the start of a connect to its success.
    pub connect: Times,
    /// From the moment a message was planned to be sent to the last byte of its answer.
    pub latency: Times,
    /// From the moment a message was planned to be sent to its sending: how late the load itself
    /// was.
    pub send_delay: Times,
    /// How many conversations ended by which fault.
    pub faults: BTreeMap<Fault, u64>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self {
            counts: Counts::default(),
            connect: Times::new(),
            latency: Times::new(),
            send_delay: Times::new(),
            faults: BTreeMap::new(),
        }
    }

    /// Counts a fault.
    pub fn record_fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// Counts a connection that could not be opened.
    pub fn record_connect_fault(&mut self, fault: Fault) {
        self.counts.connect_failed += 1;
        let refused = Cause::System(errno::CONNREFUSED);
        self.counts.refused += u64::from(fault.cause == refused);
        self.record_fault(fault);
    }

    fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.connect.add(&other.connect);
        self.latency.add(&other.latency);
        self.send_delay.add(&other.send_delay);
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

/// Takes what many threads record, without having them wait for each other.
#[derive(Debug)]
pub struct Recorder {
    shards: Box<[Mutex<Tally>]>,
}

impl Recorder {
    /// A recorder with a shard for each thread that is likely to run at once.
    pub fn new() -> Self {
        let shards = processors().next_power_of_two();
        Self {
            shards: (0..shards).map(|_| Mutex::new(Tally::new())).collect(),
        }
    }

    /// Records something in the calling thread's shard.
    pub fn record(&self, record: impl FnOnce(&mut Tally)) {
        record(&mut self.shards[thread_number() % self.shards.len()].lock());
    }

    /// The plain counts so far and the number of faults; cheap enough for a display.
    pub fn counts(&self) -> (Counts, u64) {
        let mut counts = Counts::default();
        let mut faults = 0;
        for shard in &self.shards {
            let shard = shard.lock();
            counts.add(&shard.counts);
            faults += shard.faults.values().sum::<u64>();
        }
        (counts, faults)
    }

    /// Everything so far.
    pub fn total(&self) -> Tally {
        let mut total = Tally::new();
        for shard in &self.shards {
            total.add(&shard.lock());
        }
        total
    }
}

/// A small number for each thread, so that a few neighbours get different ones.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_record_adds_up() {
        let recorder = Recorder::new();
        let fault = Fault {
            phase: Phase::Connect,
            cause: Cause::Timeout,
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for micros in 1..=1000 {
                        recorder.record(|tally| {
                            tally.counts.sent += 1;
                            tally.latency.record(Duration::from_micros(micros));
                        });
                    }
                    recorder.record(|tally| tally.record_fault(fault));
                });
            }
        });
        let total = recorder.total();
        assert_eq!((total.counts.sent, total.latency.max()), (8000, Some(1000)));
        assert_eq!(total.latency.percentile(50.0), Some(500));
        assert_eq!(total.faults[&fault], 8);
        assert_eq!(recorder.counts(), (total.counts, 8));
    }

    #[test]
    fn nothing_measured_has_no_percentile() {
        let times = Times::new();
        assert_eq!(
            (times.percentile(99.0), times.max(), times.mean()),
            (None, None, None)
        );
    }

    #[test]
    fn a_time_beyond_an_hour_is_kept_as_an_hour() {
        let mut times = Times::new();
        times.record(Duration::from_secs(100_000));
        assert!(times.max().unwrap() >= Times::LONGEST_MICROS);
    }

    #[test]
    fn errors_are_told_apart() {
        let refused = io::Error::from_raw_os_error(errno::CONNREFUSED);
        assert_eq!(Cause::of(&refused).name(), "ECONNREFUSED");
        assert_eq!(Cause::of(&io::ErrorKind::TimedOut.into()), Cause::Timeout);
        let full = io::Error::from_raw_os_error(errno::MFILE);
        assert!(Cause::of(&full).is_local_limit());
        assert!(!Cause::of(&refused).is_local_limit());
    }
}
