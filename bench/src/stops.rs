//! When the machine did not run: the host of a virtual machine takes a processor away for milliseconds,
//! many times a second, and whatever is under way there waits, under each stack alike.
//!
//! A monitor on each processor, which nothing in the guest outranks, sleeps for a moment at a time. Where
//! it comes late, it was not any thread that kept it waiting.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::time::{ClockId, clock_gettime};

use crate::priority::{self, Priority};
use crate::server;

/// How long a monitor sleeps at a time: a stop is seen if it is longer than this and [`LATE`] together,
/// and may be seen if it is longer than [`LATE`].
const NAP: Duration = Duration::from_micros(200);
/// A monitor that comes later than this was stopped. Well above what waking up costs where no processor
/// halts (a few microseconds) and what the kernel's own work, which nothing interrupts if it is built so,
/// mostly takes.
const LATE: Duration = Duration::from_micros(80);
/// Stops are at least as far apart as `NAP` and `LATE` together, so that these last for more than 70 s:
/// longer than a run and its client's patience.
const MOST: usize = 256 * 1024;
/// What piled up during a stop is served after as long as the stop lasted, and no later than this.
const AFTERMATH: Duration = Duration::from_millis(2);
/// Takes how long a processor may need to wake up, in microseconds (`Documentation/power/pm_qos_interface.rst`),
/// as long as it is open.
const WAKE_LATENCY: &str = "/dev/cpu_dma_latency";

/// A time in which a processor stood still, somewhere between these two instants.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// When the monitor was last seen.
    from: Instant,
    /// When it came late.
    to: Instant,
}

impl Stop {
    fn caught_up(&self) -> Instant {
        self.to + (self.to - self.from).min(AFTERMATH)
    }
}

/// Monitors at work, one thread a processor.
pub struct Monitors {
    /// Keeps idle processors from halting, where the system can: waking a halted one takes the host's time,
    /// which varies, and would look like a stop.
    awake: Option<File>,
    threads: Vec<JoinHandle<Watch>>,
    enough: Arc<AtomicBool>,
}

/// What the monitor of one processor saw, in the order of time.
#[derive(Debug)]
struct Watch {
    stops: Vec<Stop>,
    /// What watching cost.
    processor_time: Duration,
    watched: Duration,
}

/// What the monitors of all processors saw.
#[derive(Debug)]
pub struct Stops {
    watches: Vec<Watch>,
    /// Idle processors could not be kept from halting.
    pub halts: bool,
}

impl Monitors {
    /// Returns when all are watching. Needs the right to real-time priority, as the client does.
    pub fn start(processors: &[usize]) -> Result<Self> {
        let mut monitors = Self {
            awake: keep_awake().ok(),
            threads: Vec::new(),
            enough: Arc::default(),
        };
        let (watching, all_watching) = mpsc::channel();
        for &processor in processors {
            let (enough, watching) = (Arc::clone(&monitors.enough), watching.clone());
            let monitor = move || watch(processor, &enough, &watching);
            monitors.threads.push(thread::spawn(monitor));
        }
        for _ in processors {
            all_watching.recv()?.context("cannot start a monitor")?;
        }
        Ok(monitors)
    }

    pub fn finish(mut self) -> Result<Stops> {
        self.enough.store(true, Ordering::Relaxed);
        let join =
            |thread: JoinHandle<Watch>| thread.join().map_err(|_| anyhow!("a monitor panicked"));
        let watches: Vec<_> = self.threads.drain(..).map(join).collect::<Result<_>>()?;
        ensure!(
            watches.iter().all(|watch| watch.stops.len() < MOST),
            "the machine stopped {MOST} times and more"
        );
        Ok(Stops {
            watches,
            halts: self.awake.is_none(),
        })
    }
}

/// A run that failed needs its monitors no more.
impl Drop for Monitors {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}

fn keep_awake() -> io::Result<File> {
    let mut latency = File::options().write(true).open(WAKE_LATENCY)?;
    latency.write_all(&0_i32.to_ne_bytes())?;
    Ok(latency)
}

/// Allocates before it watches, and nothing afterwards.
fn watch(processor: usize, enough: &AtomicBool, watching: &Sender<Result<()>>) -> Watch {
    let ready = server::pin(&[processor])
        .and_then(|()| priority::set(Priority::Monitor).map_err(Into::into));
    let failed = ready.is_err();
    let start = Instant::now();
    // Written to once, so that no page is missing later.
    let mut stops = vec![
        Stop {
            from: start,
            to: start
        };
        MOST
    ];
    stops.clear();
    // Nobody listens any more if another monitor has failed.
    let _ = watching.send(ready);

    let began = Instant::now();
    let mut seen = began;
    while !failed && !enough.load(Ordering::Relaxed) {
        thread::sleep(NAP);
        let now = Instant::now();
        if now - seen > NAP + LATE && stops.len() < MOST {
            stops.push(Stop {
                from: seen,
                to: now,
            });
        }
        seen = now;
    }
    Watch {
        stops,
        processor_time: clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
            .map_or(Duration::ZERO, Into::into),
        watched: seen - began,
    }
}

impl Stops {
    /// Whether a processor stood still at any time from `from` to `to`, or had things to catch up on.
    pub fn meet(&self, from: Instant, to: Instant) -> bool {
        self.watches.iter().any(|watch| {
            let over = |stop: &Stop| stop.to + AFTERMATH <= from;
            let first = watch.stops.partition_point(over);
            watch.stops[first..]
                .iter()
                .take_while(|stop| stop.from < to)
                .any(|stop| stop.caught_up() > from)
        })
    }

    /// Stops a second of a processor, in the mean of all.
    pub fn per_second(&self) -> f64 {
        let stops: usize = self.watches.iter().map(|watch| watch.stops.len()).sum();
        stops as f64 / self.watched()
    }

    /// What part of its processor a monitor took, in the mean of all.
    pub fn share(&self) -> f64 {
        let spent: Duration = self.watches.iter().map(|watch| watch.processor_time).sum();
        spent.as_secs_f64() / self.watched()
    }

    fn watched(&self) -> f64 {
        let watched: Duration = self.watches.iter().map(|watch| watch.watched).sum();
        watched.as_secs_f64()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Stops of each processor, in milliseconds from `start`.
    pub fn stops(start: Instant, processors: &[&[(u64, u64)]]) -> Stops {
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let watch = |stops: &&[(u64, u64)]| Watch {
            stops: stops
                .iter()
                .map(|&(from, to)| Stop {
                    from: at(from),
                    to: at(to),
                })
                .collect(),
            processor_time: Duration::from_millis(10),
            watched: Duration::from_secs(1),
        };
        Stops {
            watches: processors.iter().map(watch).collect(),
            halts: false,
        }
    }

    #[test]
    fn a_stop_on_any_processor_is_met_by_what_overlaps_it() {
        let start = Instant::now();
        // The first one of the second processor outlasts both of the first.
        let stops = stops(start, &[&[(10, 12), (20, 25)], &[(11, 40), (50, 51)]]);
        let meet = |from, to| {
            let at = |milliseconds| start + Duration::from_millis(milliseconds);
            stops.meet(at(from), at(to))
        };
        assert!(!meet(0, 10), "it ends as the first begins");
        assert!(meet(0, 11), "it ends within");
        assert!(meet(0, 100), "it spans all");
        assert!(meet(30, 31), "it lies within that of the second processor");
        assert!(!meet(42, 50), "it lies between two");
        assert!(meet(41, 42), "the second processor has 2 ms to catch up on");
        assert!(meet(39, 41), "it begins within");
        assert!(
            meet(51, 100),
            "the last one took 1 ms and has as much to catch up on"
        );
        assert!(!meet(52, 100), "that is over");
    }

    #[test]
    fn figures_are_means_of_the_processors() {
        let stops = stops(Instant::now(), &[&[(1, 2), (3, 4), (5, 6)], &[(1, 2)]]);
        assert_eq!((stops.per_second(), stops.share()), (2.0, 0.01));
    }

    #[test]
    fn a_monitor_watches_until_it_is_told_to_finish() {
        // Without the right to real-time priority there is nothing to test.
        let Ok(monitors) = Monitors::start(&[0]) else {
            return;
        };
        let began = Instant::now();
        thread::sleep(Duration::from_millis(20));
        let stops = monitors.finish().unwrap();
        assert!(stops.watched() >= 0.015, "it watched {} s", stops.watched());
        assert!(stops.share() > 0.0);
        let watch = &stops.watches[0];
        assert!(
            watch
                .stops
                .iter()
                .all(|stop| stop.to - stop.from > NAP + LATE)
        );
        assert!(watch.stops.is_sorted_by(|a, b| a.to <= b.from));
        assert!(watch.stops.iter().all(|stop| stop.to > began));
    }
}
