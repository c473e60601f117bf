//! The parts of the port that name a system's own handles.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::net::{self as unix, UnixDatagram, UnixListener, UnixStream};
#[cfg(windows)]
use std::os::windows::io::OwnedSocket;

use socket2::{SockRef, Socket};

use super::handle::Handle;
use super::source::Source;
#[cfg(target_os = "linux")]
use crate::driver::os::ThreadClock;
use crate::driver::{Driver, SocketRef};

#[cfg(unix)]
impl From<OwnedFd> for Source {
    fn from(fd: OwnedFd) -> Self {
        Socket::from(fd).into()
    }
}

#[cfg(unix)]
impl From<UnixStream> for Source {
    fn from(socket: UnixStream) -> Self {
        OwnedFd::from(socket).into()
    }
}

#[cfg(unix)]
impl From<UnixListener> for Source {
    fn from(socket: UnixListener) -> Self {
        OwnedFd::from(socket).into()
    }
}

#[cfg(unix)]
impl From<UnixDatagram> for Source {
    fn from(socket: UnixDatagram) -> Self {
        OwnedFd::from(socket).into()
    }
}

#[cfg(windows)]
impl From<OwnedSocket> for Source {
    fn from(socket: OwnedSocket) -> Self {
        Socket::from(socket).into()
    }
}

#[cfg(windows)]
impl Handle {
    /// A socket of its own (`WSADuplicateSocketW`) for the one that the port keeps as well. It
    /// stays associated with this port: do not start overlapped operations on it.
    ///
    /// # Errors
    ///
    /// Fails when the handle is closed, or the system has no memory left.
    pub fn try_clone_to_owned_socket(&self) -> io::Result<OwnedSocket> {
        self.descriptor()
    }
}

#[cfg(unix)]
impl Handle {
    /// A descriptor of its own for the socket, which the port keeps as well.
    ///
    /// # Errors
    ///
    /// Fails when the process has no descriptor left, or the kernel cannot install one for a
    /// socket that lives in a ring (before Linux 6.8).
    pub fn try_clone_to_owned_fd(&self) -> io::Result<OwnedFd> {
        self.descriptor()
    }

    /// The local address of a Unix socket: a path, on Linux an abstract name, or none.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) for sockets of other kinds; what the system
    /// answers. Asking costs a few system calls.
    pub fn unix_local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.unix_socket()?.local_addr()
    }

    /// The address of a Unix socket's peer, which has none as a rule if it is the one that
    /// connected.
    ///
    /// # Errors
    ///
    /// As [`unix_local_addr`](Self::unix_local_addr); `NotConnected` for one.
    pub fn unix_peer_addr(&self) -> io::Result<unix::SocketAddr> {
        self.unix_socket()?.peer_addr()
    }

    /// A descriptor of its own, as the standard library's type for its addresses; what sort of Unix
    /// socket it is makes no difference to them.
    fn unix_socket(&self) -> io::Result<UnixStream> {
        let fd = self.descriptor()?;
        match SockRef::from(&fd).local_addr()?.is_unix() {
            true => Ok(fd.into()),
            false => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the socket is no Unix socket; ask for its internet address",
            )),
        }
    }
}

pub(super) fn local_addr(driver: &dyn Driver, socket: SocketRef) -> io::Result<SocketAddr> {
    let fd = driver.descriptor(socket)?;
    let address = SockRef::from(&fd).local_addr()?;
    address.as_socket().ok_or_else(no_internet_address)
}

pub(super) fn peer_addr(driver: &dyn Driver, socket: SocketRef) -> io::Result<SocketAddr> {
    let fd = driver.descriptor(socket)?;
    let address = SockRef::from(&fd).peer_addr()?;
    address.as_socket().ok_or_else(no_internet_address)
}

fn no_internet_address() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "the socket has no internet address",
    )
}

/// Has the calling thread's pauses end when they are to: Linux may let each last 50 us longer, to
/// save wakes (PR_SET_TIMERSLACK(2const)). Where that is refused they last longer.
pub(super) fn exact_pauses() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// Has threads of the port that wait for the same processor wait for each other no longer than they must.
/// Where that is refused, or not known, it may be some milliseconds.
pub(super) fn ask_for_short_slices() {
    #[cfg(target_os = "linux")]
    crate::driver::os::ask_for_short_slices();
}

/// What a thread in user code is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ThreadState {
    /// On a processor.
    Running,
    /// Waiting for a processor.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(dead_code, reason = "see `ThreadProbe`")
    )]
    Ready,
    /// Waiting for something else.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(dead_code, reason = "see `ThreadProbe`")
    )]
    Blocked,
}

/// Sees every thread as running. Where Windows' own ports are used, the kernel looks after them;
/// on other systems blocked workers are not covered.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) struct ThreadProbe;

#[cfg(not(target_os = "linux"))]
impl ThreadProbe {
    pub(super) fn current() -> Self {
        ThreadProbe
    }

    pub(super) fn state(&self) -> ThreadState {
        ThreadState::Running
    }
}

/// Looks at one thread from outside, by its `stat` file in `/proc` and its clock.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct ThreadProbe {
    stat: Option<std::fs::File>,
    clock: Option<ThreadClock>,
}

#[cfg(target_os = "linux")]
impl ThreadProbe {
    /// A probe of the calling thread. Without `/proc` it sees every thread as running, so that
    /// blocked workers are not covered; nothing else depends on it.
    pub(super) fn current() -> Self {
        let id = rustix::thread::gettid().as_raw_nonzero();
        ThreadProbe {
            stat: std::fs::File::open(format!("/proc/self/task/{id}/stat")).ok(),
            clock: ThreadClock::current(),
        }
    }

    /// What the thread is doing now; a few microseconds.
    pub(super) fn state(&self) -> ThreadState {
        use std::os::unix::fs::FileExt;
        let Some(file) = &self.stat else {
            return ThreadState::Running;
        };
        // `pid (name) state ...`, where the name has at most 15 bytes and may hold parentheses.
        let mut text = [0; 64];
        let length = file.read_at(&mut text, 0).unwrap_or(0);
        let name_end = text[..length].iter().rposition(|&byte| byte == b')');
        match name_end.and_then(|end| text.get(end + 2)) {
            Some(b'S' | b'D') => ThreadState::Blocked,
            Some(b'R') if self.clock.as_ref().is_some_and(ThreadClock::stands) => {
                ThreadState::Ready
            }
            _ => ThreadState::Running,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_probe_tells_a_sleeping_thread_from_a_running_one() {
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            send.send(ThreadProbe::current())
                .expect("the test waits for it");
            let _ = ended.recv();
        });
        let probe = receive.recv().expect("the thread sends it");
        while probe.state() == ThreadState::Running {
            std::thread::yield_now();
        }
        assert_eq!(ThreadProbe::current().state(), ThreadState::Running);
        drop(end);
        sleeper.join().expect("ends");
    }
    #[test]
    fn a_probe_tells_a_thread_that_waits_for_a_processor() {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
        use std::time::{Duration, Instant};

        const PATIENCE: Duration = Duration::from_secs(20);
        let processors = sched_getaffinity(None).expect("a thread may ask about itself");
        let first = (0..CpuSet::MAX_CPU).find(|&processor| processors.is_set(processor));
        let mut one = CpuSet::new();
        one.set(first.expect("it runs on one"));
        let (send, receive) = std::sync::mpsc::channel();
        let (computing, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (send, one, computing, stop) = (send.clone(), &one, &computing, &stop);
                scope.spawn(move || {
                    sched_setaffinity(None, one).expect("it is one of its processors");
                    let sent = send.send(ThreadProbe::current());
                    sent.expect("the test waits for it");
                    computing.fetch_add(1, Ordering::Release);
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let probes = [receive.recv(), receive.recv()].map(|probe| probe.expect("it is sent"));
            while computing.load(Ordering::Acquire) < 2 {
                std::thread::yield_now();
            }
            let start = Instant::now();
            let mut seen = Vec::new();
            while !seen.contains(&ThreadState::Ready) && start.elapsed() < PATIENCE {
                seen.extend(probes.iter().map(ThreadProbe::state));
            }
            stop.store(true, Ordering::Relaxed);
            assert!(seen.contains(&ThreadState::Ready), "both ran all the time");
            assert!(!seen.contains(&ThreadState::Blocked), "neither ever sleeps");
        });
    }
}
