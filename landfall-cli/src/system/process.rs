//! What a process uses: processor time, memory, descriptors. Read from `/proc`, which is documented
//! in proc(5).

use std::fs;
use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The processor time this process has used so far, in user code and in the system, all threads
/// together.
pub fn own_cpu_time() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// The processor time the calling thread has used so far.
pub fn thread_cpu_time() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn clock(id: ClockId) -> Duration {
    let now = clock_gettime(id);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// The processor time another process has used so far, in steps of a clock tick (usually 10 ms).
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| unexpected(pid, "stat"))?;
    Ok(Duration::from_secs_f64(
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
    ))
}

/// User and system time in ticks: fields 14 and 15 of the line. The second field is the command's
/// name in parentheses and may hold spaces and parentheses itself, so counting starts after the
/// last one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The most memory this process has had resident, in bytes.
pub fn own_peak_memory() -> io::Result<u64> {
    kib_field("/proc/self/status", "VmHWM:")
}

/// A process's proportional share of memory that is no file's, in bytes: heap, stacks and buffers,
/// a page shared by n processes counting an nth. Without the program's own pages, whose share
/// shrinks whenever another process starts the same program.
pub fn proportional_memory(pid: u32) -> io::Result<u64> {
    kib_field(&format!("/proc/{pid}/smaps_rollup"), "Pss_Anon:")
}

/// How many descriptors this process has open. Walks them, so not for every frame of a display.
pub fn own_descriptors() -> io::Result<u64> {
    // The directory being read is itself one of them.
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as u64)
}

/// Reads a line such as `VmHWM:  1234 kB` of a file in `/proc`, in bytes.
pub fn kib_field(path: &str, field: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    find_kib(&text, field).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path} has no line `{field} … kB`"),
        )
    })
}

fn find_kib(text: &str, field: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn unexpected(pid: u32, file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/{pid}/{file} is not in the form proc(5) describes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0 1000 1 1";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (cut"), None);
        assert_eq!(cpu_ticks("42 (cut) S 1"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(
            find_kib("Name:\tx\nVmHWM:\t    1234 kB\n", "VmHWM:"),
            Some(1_263_616)
        );
        assert_eq!(find_kib("Name:\tx\n", "VmHWM:"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(own_peak_memory().unwrap() > 100 * 1024);
        assert!(proportional_memory(pid).unwrap() > 100 * 1024);
        assert!(own_descriptors().unwrap() >= 3);
        let before = own_cpu_time();
        while own_cpu_time() < before + Duration::from_millis(30) {
            std::hint::black_box(0);
        }
        assert!(cpu_time(pid).unwrap() >= Duration::from_millis(20));
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        // Process ids end far below this number (at most 2^22 on Linux).
        assert!(cpu_time(u32::MAX - 1).is_err());
    }
}
