//! What the server uses in the course of the run, looked at from outside.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::system::process;

/// How often memory is looked at, in looks at processor time: reading it walks the page tables.
const MEMORY_EVERY: usize = 5;

/// What one process used, over time.
#[derive(Debug)]
pub struct Samples {
    pid: u32,
    cpu: Vec<(Duration, Duration)>,
    first_memory: u64,
    most_memory: u64,
}

impl Samples {
    /// Begins with what the process uses now.
    pub fn begin(pid: u32) -> io::Result<Self> {
        let memory = process::proportional_memory(pid)?;
        let mut samples = Self {
            pid,
            cpu: Vec::new(),
            first_memory: memory,
            most_memory: memory,
        };
        samples.take()?;
        Ok(samples)
    }

    /// Looks at the process again.
    pub fn take(&mut self) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        if self.cpu.len() % MEMORY_EVERY == MEMORY_EVERY - 1 {
            self.most_memory = self
                .most_memory
                .max(process::proportional_memory(self.pid)?);
        }
        self.cpu.push((now, process::cpu_time(self.pid)?));
        Ok(())
    }

    /// The processor time used between two moments (time since 1970).
    pub fn cpu_between(&self, from: Duration, to: Duration) -> Duration {
        self.cpu_at(to).saturating_sub(self.cpu_at(from))
    }

    /// The processor time used up to a moment, between two samples in proportion.
    fn cpu_at(&self, moment: Duration) -> Duration {
        let after = self.cpu.partition_point(|(time, _)| *time < moment);
        let Some(&(end, end_cpu)) = self.cpu.get(after) else {
            return self.cpu.last().map_or(Duration::ZERO, |(_, cpu)| *cpu);
        };
        let Some(&(start, start_cpu)) =
            after.checked_sub(1).and_then(|before| self.cpu.get(before))
        else {
            return end_cpu;
        };
        let part = (moment - start).as_secs_f64() / (end - start).as_secs_f64();
        start_cpu + end_cpu.saturating_sub(start_cpu).mul_f64(part)
    }

    /// By how much its memory grew at most.
    pub fn memory_growth(&self) -> u64 {
        self.most_memory - self.first_memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn processor_time_between_samples_is_taken_in_proportion() {
        let samples = Samples {
            pid: 0,
            cpu: vec![
                (at(10.0), at(1.0)),
                (at(11.0), at(1.5)),
                (at(12.0), at(2.5)),
            ],
            first_memory: 0,
            most_memory: 0,
        };
        assert_eq!(samples.cpu_between(at(10.0), at(12.0)), at(1.5));
        assert_eq!(samples.cpu_between(at(10.5), at(11.5)), at(0.75));
        // Outside of the samples nothing is made up.
        assert_eq!(samples.cpu_between(at(5.0), at(20.0)), at(1.5));
    }

    #[test]
    fn this_process_can_be_sampled() {
        let mut samples = Samples::begin(std::process::id()).unwrap();
        for _ in 0..MEMORY_EVERY {
            samples.take().unwrap();
        }
        assert_eq!(samples.cpu.len(), MEMORY_EVERY + 1);
    }
}
