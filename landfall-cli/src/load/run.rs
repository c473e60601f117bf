//! The course of a load: connect, start together, exchange, close.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_lock::{Semaphore, SemaphoreGuardArc};
use futures_lite::future;
use landfall::net::{ConnectOptions, TcpStream};
use landfall::runtime::spawn;
use landfall::runtime::time::{sleep, sleep_until};

use super::control::{Attendance, Control};
use super::exchange::Exchange;
use super::plan::Plan;
use super::report::{Course, Mismatch};
use super::tally::{Cause, Fault, Phase, Recorder};
use crate::output::Messages;
use crate::system::errno;
use crate::system::process;
use crate::system::signals::StopRequest;
use crate::units::show_time;

/// A load under way.
#[derive(Debug)]
pub struct Run {
    /// What is to be done.
    pub plan: Plan,
    /// What has been counted and measured.
    pub recorder: Recorder,
    /// The common course of the connections.
    pub control: Control,
    /// When it began.
    pub began: Instant,
    /// The first byte found changed.
    pub first_mismatch: OnceLock<Mismatch>,
    messages: Messages,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Every connection had ended by itself, perhaps after a request to drain.
    Complete,
    /// A second signal, or the end of the time for draining.
    CutOff(i32),
}

impl Run {
    /// A run that is about to begin.
    pub fn new(plan: Plan, messages: Messages) -> Arc<Self> {
        let control = Control::new(u64::from(plan.connections));
        Arc::new(Self {
            plan,
            recorder: Recorder::new(),
            control,
            began: Instant::now(),
            first_mismatch: OnceLock::new(),
            messages,
        })
    }

    /// The time of a moment on the clock of this run.
    pub fn nanos_since_begin(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.began).as_nanos())
            .unwrap_or(u64::MAX - 1)
    }

    /// Runs to the end, or to where the wish to stop leads.
    pub async fn drive(self: &Arc<Self>, stop: &StopRequest, drain_timeout: Duration) -> Course {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let cpu_at_begin = process::own_cpu_time();
        let mut connected = Checkpoint::now();
        let work = async {
            self.connect_all().await;
            self.control.all_settled().await;
            connected = Checkpoint::now();
            self.control.start(Instant::now() + self.time_to_wake_all());
            self.control.all_ended().await;
            Ending::Complete
        };
        let ending = future::or(work, self.obey(stop, drain_timeout)).await;
        let end = Checkpoint::now();
        Course {
            started,
            connecting: connected.time - self.began,
            messaging: end.time - connected.time,
            connecting_cpu: connected.cpu.saturating_sub(cpu_at_begin),
            messaging_cpu: end.cpu.saturating_sub(connected.cpu),
            peak_connections: self.control.peak_open(),
            peak_memory_bytes: process::own_peak_memory().ok(),
            descriptors: connected.descriptors,
            interrupted: stop.drain().is_some(),
            stopped: match ending {
                Ending::Complete => None,
                Ending::CutOff(signal) => Some(signal),
            },
        }
    }

    /// Waits for a signal: the first lets nothing new begin, the second, or too long a wait, ends
    /// everything.
    async fn obey(&self, stop: &StopRequest, drain_timeout: Duration) -> Ending {
        let first = stop.wait_for_drain().await;
        let time = show_time(drain_timeout);
        self.messages.note(format_args!(
            "waiting for the answers under way, for {time} at most; again to stop now"
        ));
        self.control.stop();
        let timeout = async {
            sleep(drain_timeout).await;
            first
        };
        Ending::CutOff(future::or(stop.wait_for_now(), timeout).await)
    }

    /// Begins all connections, no faster than asked for.
    async fn connect_all(self: &Arc<Self>) {
        let under_way = Arc::new(Semaphore::new(self.plan.max_connecting as usize));
        for index in 0..u64::from(self.plan.connections) {
            let permit = future::or(
                async {
                    self.control.stopped().await;
                    None
                },
                async {
                    if let Some(rate) = self.plan.connect_rate {
                        sleep_until(self.began + rate.offset_of(index)).await;
                    }
                    Some(under_way.acquire_arc().await)
                },
            )
            .await;
            let Some(permit) = permit else {
                // Stopped: counted as settled and ended, without having been begun.
                drop(Attendance::new(&self.control));
                continue;
            };
            let run = Arc::clone(self);
            drop(spawn(async move { run.connection(index, permit).await }));
        }
    }

    /// Long enough for every connection to be told of the start before its first message is due.
    fn time_to_wake_all(&self) -> Duration {
        Duration::from_millis(1) + Duration::from_micros(3) * self.plan.connections
    }

    /// The life of one connection.
    async fn connection(&self, index: u64, permit: SemaphoreGuardArc) {
        let mut attendance = Attendance::new(&self.control);
        let stream = match self.connect(index).await {
            Ok(stream) => stream,
            Err(fault) => {
                return self
                    .recorder
                    .record(|tally| tally.record_connect_fault(fault));
            }
        };
        drop(permit);
        attendance.opened();
        if let Err(fault) = self.exchange(index, stream).await {
            self.recorder.record(|tally| tally.record_fault(fault));
        }
    }

    /// Opens one connection, from another source address if one has no port left.
    async fn connect(&self, index: u64) -> Result<TcpStream, Fault> {
        let began = Instant::now();
        let mut result = self.connect_from(self.plan.sources.pick(index)).await;
        for substitute in self.plan.sources.substitutes(index) {
            if !result.as_ref().is_err_and(is_out_of_ports) {
                break;
            }
            result = self.connect_from(Some(substitute)).await;
        }
        let stream = result.map_err(Fault::during(Phase::Connect))?;
        if stream.local_addr().ok() == Some(self.plan.target) {
            return Err(Fault {
                phase: Phase::Connect,
                cause: Cause::SelfConnect,
            });
        }
        let time = began.elapsed();
        self.recorder.record(|tally| {
            tally.counts.connected += 1;
            tally.connect.record(time);
        });
        Ok(stream)
    }

    async fn connect_from(&self, source: Option<IpAddr>) -> io::Result<TcpStream> {
        let mut options = ConnectOptions::new()
            .nodelay(true)
            .timeout(self.plan.timeout);
        if let Some(source) = source {
            // Port 0: the system picks one that is free for this target.
            options = options.source(SocketAddr::new(source, 0));
        }
        options.connect(self.plan.target).await
    }

    /// The conversation on an open connection, to its close.
    async fn exchange(&self, index: u64, stream: TcpStream) -> Result<(), Fault> {
        let (mut reader, mut writer) = stream.split();
        let exchange = Exchange::new(self, index);
        exchange.converse(&mut reader, &mut writer).await?;
        writer
            .shutdown(std::net::Shutdown::Write)
            .await
            .map_err(Fault::during(Phase::Close))?;
        exchange.wait_for_close(&mut reader).await
    }
}

fn is_out_of_ports(error: &io::Error) -> bool {
    error.raw_os_error() == Some(errno::ADDRNOTAVAIL)
}

/// What had been used at some moment.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    time: Instant,
    cpu: Duration,
    descriptors: Option<u64>,
}

impl Checkpoint {
    fn now() -> Self {
        Self {
            time: Instant::now(),
            cpu: process::own_cpu_time(),
            descriptors: process::own_descriptors().ok(),
        }
    }
}
