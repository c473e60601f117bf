//! The parts of the drivers that differ between systems: which there are, and what stands for a
//! socket outside of the port.

use std::io;

use super::{Driver, Settings, SocketRef};

/// A socket of the program's own.
#[cfg(unix)]
pub(crate) type OwnedDescriptor = std::os::fd::OwnedFd;
/// A socket of the program's own.
#[cfg(windows)]
pub(crate) type OwnedDescriptor = std::os::windows::io::OwnedSocket;

#[cfg(windows)]
pub(super) use super::iocp::Listener;
#[cfg(unix)]
pub(super) use super::kind::Listener;

/// The code of an operation ended by a cancel or a close.
#[cfg(unix)]
pub(crate) const ABORTED: i32 = libc::ECANCELED;
/// The code of an operation ended by a cancel or a close.
#[cfg(windows)]
pub(crate) const ABORTED: i32 = windows_sys::Win32::Foundation::ERROR_OPERATION_ABORTED as i32;

/// io_uring, or readiness where the system does not have or permit it. A lack of memory or
/// descriptors is no reason: that would hide it, and the other driver needs them too.
#[cfg(target_os = "linux")]
pub(super) fn automatic(settings: Settings) -> io::Result<(Box<dyn Driver>, String)> {
    use super::uring;
    match uring::Uring::new(settings) {
        Ok(driver) => Ok((Box::new(driver), "io_uring is permitted here".to_owned())),
        Err(error) => match uring::refused(&error) {
            Some(refusal) => Ok((poll(settings)?, format!("{refusal} ({error})"))),
            None => Err(uring::explain(error)),
        },
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(super) fn automatic(settings: Settings) -> io::Result<(Box<dyn Driver>, String)> {
    let reason = "the only driver for this system".to_owned();
    Ok((poll(settings)?, reason))
}

#[cfg(windows)]
pub(super) fn automatic(settings: Settings) -> io::Result<(Box<dyn Driver>, String)> {
    let reason = "Windows has completion ports of its own".to_owned();
    Ok((iocp(settings)?, reason))
}

#[cfg(target_os = "linux")]
pub(super) fn uring(settings: Settings) -> io::Result<Box<dyn Driver>> {
    use super::uring;
    let driver = uring::Uring::new(settings).map_err(uring::explain)?;
    Ok(Box::new(driver))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn uring(_: Settings) -> io::Result<Box<dyn Driver>> {
    Err(elsewhere("io_uring is a facility of Linux"))
}

#[cfg(unix)]
pub(super) fn poll(settings: Settings) -> io::Result<Box<dyn Driver>> {
    let driver = super::poll::Poll::new(settings.lanes, settings.buffers)?;
    Ok(Box::new(driver))
}

#[cfg(windows)]
pub(super) fn poll(_: Settings) -> io::Result<Box<dyn Driver>> {
    Err(elsewhere("readiness drives ports on Unix only"))
}

#[cfg(windows)]
pub(super) fn iocp(settings: Settings) -> io::Result<Box<dyn Driver>> {
    let driver = super::iocp::Iocp::new(settings.concurrency, settings.buffers)?;
    Ok(Box::new(driver))
}

#[cfg(unix)]
pub(super) fn iocp(_: Settings) -> io::Result<Box<dyn Driver>> {
    Err(elsewhere(
        "ports of the system's own are a facility of Windows",
    ))
}

/// The refusal of a driver that this system does not have.
fn elsewhere(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("{why}; leave the driver to `auto`"),
    )
}

/// How many descriptors this process may have.
#[cfg(unix)]
pub(crate) fn descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.unwrap_or(u64::MAX)
}

/// How many bytes of a stream the system has taken and the peer's system has not acknowledged (SIOCOUTQ,
/// tcp(7)).
#[cfg(target_os = "linux")]
pub(crate) fn unacknowledged(driver: &dyn Driver, socket: SocketRef) -> io::Result<u64> {
    use std::os::fd::AsRawFd;
    let socket = driver.descriptor(socket)?;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes a number to a local. The call is known by the terminals' name, too.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match result {
        0 => Ok(u64::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unacknowledged(_: &dyn Driver, _: SocketRef) -> io::Result<u64> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system does not say what a peer has acknowledged",
    ))
}

/// Waits until one of these descriptors is readable or the time is over; may return early.
#[cfg(unix)]
pub(crate) fn wait_for_any<'a>(
    descriptors: impl Iterator<Item = std::os::fd::BorrowedFd<'a>>,
    timeout: Option<std::time::Duration>,
) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut descriptors: Vec<_> = descriptors
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    // A time too long for the system is as good as none.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    // An error is an interruption, after which the caller looks at its lanes and comes back.
    let _ = poll(&mut descriptors, timeout.as_ref());
}

/// Has the calling thread, if it is an ordinary one, take a processor for 0.1 ms at a time, the shortest there
/// is (`sched_runtime`, sched_setattr(2)). Since Linux 6.12 one that computes then has to leave its
/// processor to another that waits there, if that asks for as little, at whatever happens there next, and
/// not after a slice of some milliseconds; a thread with longer slices at once. Older kernels ignore it.
#[cfg(target_os = "linux")]
pub(crate) fn ask_for_short_slices() {
    /// Nanoseconds.
    const SLICE: u64 = 100_000;
    let Some(mut attributes) = scheduling() else {
        return;
    };
    let policy = attributes.sched_policy as libc::c_int;
    if matches!(policy, libc::SCHED_OTHER | libc::SCHED_BATCH) {
        attributes.sched_runtime = SLICE;
        // SAFETY: the kernel reads a local, of the size that it says. Refused, nothing has changed.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

/// How the calling thread is scheduled.
#[cfg(target_os = "linux")]
fn scheduling() -> Option<libc::sched_attr> {
    const SIZE: libc::c_uint = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: all its fields are numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes no more than that size to a local, of the calling thread (0).
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    (got == 0).then_some(attributes)
}

/// The processor time of one thread, as any thread of the process can read it.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(crate) struct ThreadClock(libc::clockid_t);

#[cfg(target_os = "linux")]
impl ThreadClock {
    /// Of the calling thread.
    pub(crate) fn current() -> Option<Self> {
        let mut id = 0;
        // SAFETY: the calling thread is alive, and the kernel writes to a local.
        let error = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut id) };
        (error == 0).then_some(ThreadClock(id))
    }

    /// Whether the thread has no processor at this moment: then its clock stands, while that of a
    /// thread that runs is exact to the nanosecond and read some hundred apart.
    pub(crate) fn stands(&self) -> bool {
        let first = self.read();
        first.is_some() && first == self.read()
    }

    /// `None` once the thread is gone.
    fn read(&self) -> Option<(libc::time_t, libc::c_long)> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel writes to a local; a clock that is gone is an error.
        let error = unsafe { libc::clock_gettime(self.0, &mut time) };
        (error == 0).then_some((time.tv_sec, time.tv_nsec))
    }
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn short_slices_change_nothing_else_of_a_thread() {
        let thread = std::thread::spawn(|| {
            let before = scheduling().expect("a thread may ask about itself");
            ask_for_short_slices();
            (before, scheduling().expect("as before"))
        });
        let (before, after) = thread.join().expect("no panic");
        assert_eq!(before.sched_policy, after.sched_policy);
        assert_eq!(before.sched_nice, after.sched_nice);
        assert_eq!(before.sched_flags, after.sched_flags);
        // Kernels that know no slices of ordinary threads say 0.
        if before.sched_runtime != 0 {
            assert_eq!(after.sched_runtime, 100_000);
        }
    }
}
