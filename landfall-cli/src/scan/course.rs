//! The course of a scan: round after round, each reported when it is done.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_lite::future;
use parking_lot::Mutex;

use super::hosts::{Host, Hosts};
use super::order::mix;
use super::probe::Prober;
use super::report::{Counts, HostCounts, HostReport, Outputs, Setting, Summary};
use super::round::{Round, hosts_of_round};
use super::verdict::{State, Verdict};
use crate::exit::{Exit, Failure};
use crate::output::Stage;
use crate::system::process;
use crate::system::services::Services;
use crate::system::signals::StopRequest;
use crate::units::grouped;

/// A scan under way.
#[derive(Debug)]
pub struct Scan {
    prober: Arc<Prober>,
    ports: Arc<[u16]>,
    began: Instant,
    course: Arc<Mutex<Course>>,
}

/// How far it has come, in ports of hosts.
#[derive(Debug)]
struct Course {
    total: u64,
    settled: u64,
    open: u64,
    round: Option<Arc<Round>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many ports are in each state.
    pub counts: Counts,
    /// How many hosts were scanned, and answered.
    pub hosts: HostCounts,
    /// Failures of this machine, and how many ports are unresolved for each.
    pub failures: Vec<(Verdict, u64)>,
    /// The signal that ended it before all was scanned.
    pub stopped: Option<i32>,
}

impl Outcome {
    fn add(&mut self, host: &HostReport) {
        self.counts.add_all(&host.counts);
        self.hosts.add(host);
    }

    fn add_failure(&mut self, verdict: Verdict) {
        match self
            .failures
            .iter_mut()
            .find(|(other, _)| *other == verdict)
        {
            Some((_, count)) => *count += 1,
            None => self.failures.push((verdict, 1)),
        }
    }
}

impl Scan {
    /// A scan of these ports of so many hosts.
    pub fn new(prober: Prober, ports: Arc<[u16]>, hosts: u64) -> Self {
        let course = Course {
            total: hosts.saturating_mul(ports.len() as u64),
            settled: 0,
            open: 0,
            round: None,
        };
        Self {
            prober: Arc::new(prober),
            ports,
            began: Instant::now(),
            course: Arc::new(Mutex::new(course)),
        }
    }

    /// Scans all hosts, or what there is time for until the wish to stop.
    pub async fn run(
        &self,
        hosts: &Hosts,
        setting: &Setting,
        services: &Services,
        outputs: &mut Outputs,
        stop: &StopRequest,
    ) -> Result<Outcome, Failure> {
        let per_round = hosts_of_round(self.ports.len(), setting.has_banners);
        let mut outcome = Outcome::default();
        let mut hosts = hosts.iter();
        let mut number = 0;
        loop {
            let chosen = self.choose(&mut hosts, per_round);
            if chosen.is_empty() || stop.drain().is_some() {
                break;
            }
            let seed = mix(setting.seed.wrapping_add(number));
            number += 1;
            let round = Arc::new(Round::new(chosen, self.ports.clone(), seed));
            self.course.lock().round = Some(Arc::clone(&round));
            let obey = async {
                stop.wait_for_drain().await;
                self.prober.stop();
            };
            future::or(round.run(&self.prober), obey).await;
            self.report(&round, setting, services, outputs, &mut outcome)?;
        }
        let total = self.course.lock().total;
        outcome.counts.not_scanned = total - outcome.counts.scanned();
        outcome.hosts.set_total(total / self.ports.len() as u64);
        outcome.stopped = stop.drain().filter(|_| outcome.counts.not_scanned > 0);
        Ok(outcome)
    }

    /// Takes the hosts of the next round. Those that are left out are taken from the total.
    fn choose(&self, hosts: &mut impl Iterator<Item = Option<Host>>, most: usize) -> Vec<Host> {
        let mut chosen = Vec::new();
        let mut left_out = 0;
        for host in hosts {
            match host {
                Some(host) => chosen.push(host),
                None => left_out += 1,
            }
            if chosen.len() == most {
                break;
            }
        }
        self.course.lock().total -= left_out * self.ports.len() as u64;
        chosen
    }

    fn report(
        &self,
        round: &Round,
        setting: &Setting,
        services: &Services,
        outputs: &mut Outputs,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        for (index, host) in round.hosts().iter().enumerate() {
            let findings = round.findings(index).inspect(|(_, verdict, _)| {
                if let Some(verdict) =
                    verdict.filter(|verdict| verdict.state() == State::Unresolved)
                {
                    outcome.add_failure(verdict);
                }
            });
            let report = HostReport::new(host.clone(), findings, setting, services);
            outputs.host(setting, &report)?;
            outcome.add(&report);
        }
        let mut course = self.course.lock();
        course.settled += round.progress().settled;
        course.open += round.progress().open;
        course.round = None;
        drop(course);
        outputs.flush()
    }

    /// Tells the progress display how far the scan has come.
    pub fn watch(&self) -> impl FnMut() -> Stage + Send + 'static {
        let course = Arc::clone(&self.course);
        move || {
            let course = course.lock();
            let round = course.round.as_ref().map(|round| round.progress());
            let round = round.unwrap_or_default();
            Stage {
                name: "scanning",
                done: course.settled + round.settled,
                total: course.total,
                detail: format!("{} open", grouped(course.open + round.open)),
            }
        }
    }

    /// What is told at the end.
    pub fn summary(
        &self,
        outcome: &Outcome,
        hosts: &Hosts,
        exit: Exit,
        complaints: &[String],
    ) -> Summary {
        Summary {
            hosts: outcome.hosts,
            unknown_names: hosts.unknown_names,
            counts: outcome.counts,
            connects: self.prober.connects(),
            local_failures: self.prober.local_failures(),
            peak_concurrency: self.prober.peak(),
            elapsed_seconds: self.began.elapsed().as_secs_f64(),
            client_cpu_seconds: process::own_cpu_time().as_secs_f64(),
            peak_memory_bytes: process::own_peak_memory().ok(),
            interrupted: outcome.stopped.is_some(),
            exit_code: exit.code(),
            complaints: complaints.join("; "),
            ended: SystemTime::now(),
        }
    }
}
