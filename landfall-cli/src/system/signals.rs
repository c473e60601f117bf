//! SIGINT and SIGTERM: the first asks the run to drain, the second stops it now. SIGHUP: what is
//! configured is to be read again.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use event_listener::Event;
use parking_lot::Mutex;
#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
#[cfg(unix)]
use signal_hook::iterator::Signals;

use crate::exit::Failure;

#[cfg(windows)]
const SIGINT: i32 = 2;
#[cfg(windows)]
const SIGTERM: i32 = 15;

/// The wish to stop, as it has been expressed so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct StopRequest {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    // Signal numbers; 0 means not yet.
    first: AtomicI32,
    second: AtomicI32,
    /// The last signal, and when it came.
    last: Mutex<Option<(i32, Instant)>>,
    changed: Event,
}

/// The same signal again within this time is the same wish: timeout(1) sends one to its child and then
/// to all of its group, and a shell's Ctrl-C may arrive from the terminal and from the shell. Nobody
/// presses a key twice so fast.
const ECHO: Duration = Duration::from_millis(100);

impl StopRequest {
    /// Starts to listen for the signals, on a thread of its own.
    pub fn listen() -> Result<Self, Failure> {
        Self::try_listen().map_err(|error| Failure::of_system("cannot listen for signals", &error))
    }

    /// Ctrl-C stands for the signal of that name.
    #[cfg(windows)]
    fn try_listen() -> io::Result<Self> {
        let request = Self::default();
        let listener = request.clone();
        ctrlc::set_handler(move || listener.receive(SIGINT)).map_err(io::Error::other)?;
        Ok(request)
    }

    /// Takes the end of standard input for SIGTERM, which one process cannot send another: `demo`
    /// keeps its children's open.
    #[cfg(windows)]
    pub fn listen_to_parent(&self) -> Result<(), Failure> {
        let listener = self.clone();
        let listen = move || {
            // An error is an end as well.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            listener.receive(SIGTERM);
        };
        let started = thread::Builder::new()
            .name(String::from("parent"))
            .spawn(listen);
        started
            .map(drop)
            .map_err(|error| Failure::of_system("cannot follow the parent process", &error))
    }

    #[cfg(unix)]
    fn try_listen() -> io::Result<Self> {
        let request = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let listener = request.clone();
        thread::Builder::new()
            .name(String::from("signals"))
            .spawn(move || {
                for signal in signals.forever() {
                    listener.receive(signal);
                }
            })?;
        Ok(request)
    }

    fn receive(&self, signal: i32) {
        self.receive_at(signal, Instant::now());
    }

    fn receive_at(&self, signal: i32, now: Instant) {
        let Shared {
            first,
            second,
            last,
            changed,
        } = &*self.shared;
        let before = last.lock().replace((signal, now));
        if before.is_some_and(|(known, then)| known == signal && now - then < ECHO) {
            return;
        }
        let is_new = |slot: &AtomicI32| {
            slot.compare_exchange(0, signal, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        };
        if is_new(first) || is_new(second) {
            changed.notify(usize::MAX);
        } else {
            // Someone asks a third time: whatever should have ended the process by now is stuck.
            process::exit(128 + signal);
        }
    }

    /// The first signal, once there was one.
    pub fn drain(&self) -> Option<i32> {
        Some(self.shared.first.load(Ordering::Acquire)).filter(|&signal| signal != 0)
    }

    /// The second signal, once there was one.
    pub fn now(&self) -> Option<i32> {
        Some(self.shared.second.load(Ordering::Acquire)).filter(|&signal| signal != 0)
    }

    /// Waits for the first signal.
    pub async fn wait_for_drain(&self) -> i32 {
        self.wait(Self::drain).await
    }

    /// Waits for the second signal.
    pub async fn wait_for_now(&self) -> i32 {
        self.wait(Self::now).await
    }

    async fn wait(&self, happened: impl Fn(&Self) -> Option<i32>) -> i32 {
        loop {
            let change = self.shared.changed.listen();
            // Looked at after listening began, so that nothing in between is missed.
            if let Some(signal) = happened(self) {
                return signal;
            }
            change.await;
        }
    }
}

/// The wish to have the configuration read again. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ReloadRequest {
    shared: Arc<Reloads>,
}

#[derive(Debug, Default)]
struct Reloads {
    asked: AtomicU64,
    answered: AtomicU64,
    changed: Event,
}

impl ReloadRequest {
    /// Starts to listen for SIGHUP, on a thread of its own.
    #[cfg(unix)]
    pub fn listen() -> Result<Self, Failure> {
        let request = Self::default();
        let listener = request.clone();
        let listen = || -> io::Result<()> {
            let mut signals = Signals::new([SIGHUP])?;
            let forward = move || signals.forever().for_each(|_| listener.ask());
            thread::Builder::new()
                .name(String::from("reload"))
                .spawn(forward)?;
            Ok(())
        };
        listen().map_err(|error| Failure::of_system("cannot listen for signals", &error))?;
        Ok(request)
    }

    /// There is no such signal: nobody ever asks.
    #[cfg(windows)]
    pub fn listen() -> Result<Self, Failure> {
        Ok(Self::default())
    }

    #[cfg(any(unix, test))]
    fn ask(&self) {
        self.shared.asked.fetch_add(1, Ordering::AcqRel);
        self.shared.changed.notify(usize::MAX);
    }

    /// Waits until it is asked for. What is asked for several times meanwhile is answered by one.
    pub async fn wait(&self) {
        loop {
            let change = self.shared.changed.listen();
            let asked = self.shared.asked.load(Ordering::Acquire);
            if self.shared.answered.swap(asked, Ordering::AcqRel) != asked {
                return;
            }
            change.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_drains_and_the_second_stops() {
        let request = StopRequest::default();
        assert_eq!((request.drain(), request.now()), (None, None));
        request.receive(SIGINT);
        assert_eq!((request.drain(), request.now()), (Some(SIGINT), None));
        request.receive(SIGTERM);
        assert_eq!(
            (request.drain(), request.now()),
            (Some(SIGINT), Some(SIGTERM))
        );
    }

    #[test]
    fn a_signal_that_arrives_twice_is_one_wish() {
        let request = StopRequest::default();
        let began = Instant::now();
        request.receive_at(SIGINT, began);
        request.receive_at(SIGINT, began + ECHO / 2);
        assert_eq!((request.drain(), request.now()), (Some(SIGINT), None));
        request.receive_at(SIGINT, began + 2 * ECHO);
        assert_eq!(request.now(), Some(SIGINT));
    }

    #[test]
    fn waiters_are_told() {
        let request = StopRequest::default();
        let waiter = thread::spawn({
            let request = request.clone();
            move || futures_lite::future::block_on(request.wait_for_now())
        });
        request.receive(SIGINT);
        request.receive(SIGTERM);
        assert_eq!(waiter.join().unwrap(), SIGTERM);
    }

    #[test]
    fn a_reload_is_asked_for_before_or_while_somebody_waits() {
        let request = ReloadRequest::default();
        request.ask();
        request.ask();
        futures_lite::future::block_on(request.wait());
        let waiter = thread::spawn({
            let request = request.clone();
            move || futures_lite::future::block_on(request.wait())
        });
        request.ask();
        waiter.join().unwrap();
    }
}
