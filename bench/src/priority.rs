//! Who gets a processor when several threads want it.

use std::io;

/// Of the real-time ones, each waits for those below it only.
#[derive(Clone, Copy, Debug)]
pub enum Priority {
    /// As every other thread, the servers' too.
    Ordinary,
    /// No thread takes a processor from another one by waking up. What is started meanwhile inherits it.
    Batch,
    /// The client must not wait for a processor that a server computes on.
    Client,
    /// A monitor of the machine's stops must not wait for the client.
    Monitor,
}

/// Puts the calling thread into that class. The real-time ones need the right to it, which root has, and
/// are not inherited by the processes it starts.
pub fn set(priority: Priority) -> io::Result<()> {
    let real_time = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    let (policy, sched_priority) = match priority {
        Priority::Ordinary => (libc::SCHED_OTHER, 0),
        Priority::Batch => (libc::SCHED_BATCH, 0),
        Priority::Client => (real_time, 1),
        Priority::Monitor => (real_time, 2),
    };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: the pointer is to a parameter block that lives for the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Measures processor time where client and server may share processors.
///
/// The kernel (6.18) charges a thread that wakes up and takes a processor for what the one before it still
/// does inside the kernel. So no thread may take one; see `README.md`.
pub fn charged_rightly<T>(shared: bool, measure: impl FnOnce() -> T) -> io::Result<T> {
    if !shared {
        return Ok(measure());
    }
    set(Priority::Batch)?;
    let measured = measure();
    set(Priority::Ordinary)?;
    Ok(measured)
}
