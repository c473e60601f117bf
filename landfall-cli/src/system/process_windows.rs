//! What a process uses: processor time and memory, as Windows tells it.

use std::io;
use std::time::{Duration, Instant};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The processor time this process has used so far, in user code and in the system, all threads
/// together, in steps of a millisecond.
pub fn own_cpu_time() -> Duration {
    // The process that asks is there.
    cpu_time(std::process::id()).unwrap_or_default()
}

/// In place of the processor time of the calling thread: the time that has passed. A thread that
/// computes is taken off its processor now and then, and so computes a little less.
pub fn thread_cpu_time() -> Duration {
    use std::sync::LazyLock;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// The processor time another process has used so far.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let kind = ProcessRefreshKind::nothing().with_cpu();
    look(pid, kind, |process| {
        Duration::from_millis(process.accumulated_cpu_time())
    })
}

/// The most memory this process has had: not known.
pub fn own_peak_memory() -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A process's working set, in bytes. It counts the program's own pages as well.
pub fn proportional_memory(pid: u32) -> io::Result<u64> {
    let kind = ProcessRefreshKind::nothing().with_memory();
    look(pid, kind, sysinfo::Process::memory)
}

/// How many handles this process has open: not known.
pub fn own_descriptors() -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

fn look<T>(
    pid: u32,
    kind: ProcessRefreshKind,
    read: impl FnOnce(&sysinfo::Process) -> T,
) -> io::Result<T> {
    let mut system = System::new();
    let pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    system
        .process(pid)
        .map(read)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no process {pid}")))
}
