//! The result of a load: one object for programs, one table for people.

use std::fmt;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::fail_if::{Condition, Measured, Statistic};
use super::tally::{Counts, Fault, Phase, Tally};
use crate::exit::Exit;
use crate::output::{Report, list, render, table_of_figures, table_of_text};
use crate::units::{counted, grouped, percent, show_bytes, show_micros};

/// The figures a run came to, and those that follow from them.
#[derive(Debug)]
pub struct Figures {
    tally: Tally,
    mode: Mode,
    planned: u64,
}

impl Figures {
    /// Takes the final tally. Where the number of messages depended on the answers, all that were
    /// sent were planned.
    pub fn new(tally: Tally, mode: Mode, planned: Option<u64>) -> Self {
        let planned = planned.unwrap_or(tally.counts.sent);
        Self {
            tally,
            mode,
            planned,
        }
    }

    /// One statistic of one of the measured times, in microseconds.
    pub fn time(&self, of: Measured, statistic: Statistic) -> Option<u64> {
        let times = match of {
            Measured::Latency => &self.tally.latency,
            Measured::Connect => &self.tally.connect,
            Measured::SendDelay => &self.tally.send_delay,
        };
        match statistic {
            Statistic::Percentile(percentile) => times.percentile(percentile),
            Statistic::Max => times.max(),
            Statistic::Mean => times.mean().map(|mean| mean.round() as u64),
        }
    }

    /// One of the counts, by its name in the JSON result.
    pub fn count(&self, name: &str) -> Option<u64> {
        let counts = &self.tally.counts;
        Some(match name {
            "connected" => counts.connected,
            "refused" => counts.refused,
            "connect_failed" => counts.connect_failed,
            "connects_over_1s" => self.connects_over_1s(),
            "sent" => counts.sent,
            "answered" => counts.answered,
            "verified" => counts.verified,
            "mismatched" => counts.mismatched,
            "lost" => self.lost(),
            "unsent" => self.unsent(),
            "extra_bytes" => counts.extra_bytes,
            "unclosed" => counts.unclosed,
            "errors" => self.errors(),
            _ => return None,
        })
    }

    /// Messages sent but not answered. Where no answer is due, none is lost: what the target took,
    /// only it knows.
    fn lost(&self) -> u64 {
        if self.mode == Mode::Discard {
            return 0;
        }
        self.tally
            .counts
            .sent
            .saturating_sub(self.tally.counts.answered)
    }

    fn unsent(&self) -> u64 {
        self.planned.saturating_sub(self.tally.counts.sent)
    }

    fn connects_over_1s(&self) -> u64 {
        self.tally.connect.count_from(FIRST_SYN_RETRY_MICROS)
    }

    fn errors(&self) -> u64 {
        self.tally.faults.values().sum()
    }
}

/// How a run was made.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// The target as it was named, and the address that stands for.
    pub target: String,
    /// What is done with answers.
    pub mode: Mode,
    /// How many connections were asked for.
    pub connections: u32,
    /// The size of a message.
    pub message_bytes: u64,
    /// How many source addresses there were.
    pub source_addresses: u32,
    /// The driver that ran.
    pub driver: String,
    /// Why that one.
    pub driver_reason: String,
    /// How many workers it had.
    pub workers: u32,
    /// How many of them could run at once.
    pub concurrency: u32,
    /// The limit on descriptors.
    pub descriptor_limit: u64,
    /// Each message is sent at a planned moment.
    #[serde(skip)]
    pub is_planned: bool,
}

/// What is done with answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every byte is compared.
    Echo,
    /// Bytes are counted.
    EchoUnverified,
    /// There are none.
    Discard,
}

/// How a run went beside its messages.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Course {
    /// The time since 1970 at the start.
    #[serde(rename = "started_unix_seconds", serialize_with = "seconds")]
    pub started: Duration,
    /// The time until every connection was open or had failed.
    #[serde(rename = "connecting_seconds", serialize_with = "seconds")]
    pub connecting: Duration,
    /// The time from then to the end.
    #[serde(rename = "messaging_seconds", serialize_with = "seconds")]
    pub messaging: Duration,
    /// Processor time used while connecting.
    #[serde(rename = "client_connecting_cpu_seconds", serialize_with = "seconds")]
    pub connecting_cpu: Duration,
    /// Processor time used after that.
    #[serde(rename = "client_messaging_cpu_seconds", serialize_with = "seconds")]
    pub messaging_cpu: Duration,
    /// The most connections open at one time.
    pub peak_connections: u64,
    /// The most memory that was resident; `None` if the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Descriptors open while all connections were.
    pub descriptors: Option<u64>,
    /// Whether a signal cut the run short.
    pub interrupted: bool,
    /// The signal that stopped it before the answers under way had come.
    #[serde(skip)]
    pub stopped: Option<i32>,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// The result. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    command: &'static str,
    version: &'static str,
    #[serde(flatten)]
    setting: Setting,
    planned: u64,
    unsent: u64,
    lost: u64,
    connects_over_1s: u64,
    #[serde(flatten)]
    counts: Counts,
    #[serde(flatten)]
    latency: Summary,
    #[serde(flatten)]
    connect: Summary,
    #[serde(flatten)]
    send_delay: Summary,
    #[serde(flatten)]
    course: Course,
    client_cpu_seconds: f64,
    errors: Vec<ErrorCount>,
    first_mismatch: Option<Mismatch>,
    fail_if: Vec<Verdict>,
    exit_code: u8,
    #[serde(skip)]
    exit: Exit,
}

/// A connect request that finds the target's queue full is dropped, and sent again after a second
/// (RFC 6298, 2.1): so a connect that takes longer says something of the queue, not of the target.
const FIRST_SYN_RETRY_MICROS: u64 = 1_000_000;

/// The statistics of one kind of time; its keys read `latency_p99_us`.
#[derive(Debug)]
struct Summary {
    name: &'static str,
    values: [Option<u64>; STATISTICS.len()],
}

/// The statistics shown, by name.
const STATISTICS: [(&str, Statistic); 6] = [
    ("mean", Statistic::Mean),
    ("p50", Statistic::Percentile(50.0)),
    ("p90", Statistic::Percentile(90.0)),
    ("p99", Statistic::Percentile(99.0)),
    ("p99_9", Statistic::Percentile(99.9)),
    ("max", Statistic::Max),
];

impl Summary {
    fn new(name: &'static str, figures: &Figures, of: Measured) -> Self {
        Self {
            name,
            values: STATISTICS.map(|(_, statistic)| figures.time(of, statistic)),
        }
    }

    fn row(&self, label: &str) -> Vec<String> {
        let shown = self
            .values
            .iter()
            .map(|value| value.map_or_else(|| String::from("-"), show_micros));
        std::iter::once(label.to_owned()).chain(shown).collect()
    }
}

impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for ((statistic, _), value) in STATISTICS.iter().zip(&self.values) {
            map.serialize_entry(&format!("{}_{statistic}_us", self.name), value)?;
        }
        map.end()
    }
}

/// How often something went wrong in one phase.
#[derive(Debug, Serialize)]
struct ErrorCount {
    phase: Phase,
    error: String,
    explanation: String,
    count: u64,
}

/// A byte that came back changed, as an example.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Mismatch {
    /// The connection, counted from 0.
    pub connection: u64,
    /// The message, counted from 0.
    pub message: u64,
    /// The byte in the message, counted from 0.
    pub offset: u64,
    /// What was sent.
    pub expected_byte: u8,
    /// What came back.
    pub received_byte: u8,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connection,
            message,
            offset,
            expected_byte,
            received_byte,
        } = self;
        write!(
            f,
            "connection {connection}, message {message}, byte {offset}: "
        )?;
        write!(f, "{received_byte:#04x} instead of {expected_byte:#04x}")
    }
}

/// What became of a `--fail-if`.
#[derive(Debug, Serialize)]
struct Verdict {
    condition: String,
    value: String,
    failed: bool,
}

impl LoadReport {
    /// Puts the result together.
    pub fn new(
        setting: Setting,
        course: Course,
        figures: &Figures,
        first_mismatch: Option<Mismatch>,
        conditions: &[Condition],
    ) -> Self {
        let verdict = |condition: &Condition| Verdict {
            condition: condition.to_string(),
            value: condition.show_value(figures),
            failed: condition.is_met(figures),
        };
        let fail_if: Vec<Verdict> = conditions.iter().map(verdict).collect();
        let exit = judge(
            &course,
            figures,
            fail_if.iter().any(|verdict| verdict.failed),
        );
        Self {
            command: "load",
            version: env!("CARGO_PKG_VERSION"),
            planned: figures.planned,
            unsent: figures.unsent(),
            lost: figures.lost(),
            connects_over_1s: figures.connects_over_1s(),
            counts: figures.tally.counts,
            latency: Summary::new("latency", figures, Measured::Latency),
            connect: Summary::new("connect", figures, Measured::Connect),
            send_delay: Summary::new("send_delay", figures, Measured::SendDelay),
            client_cpu_seconds: (course.connecting_cpu + course.messaging_cpu).as_secs_f64(),
            errors: figures
                .tally
                .faults
                .iter()
                .map(|(fault, count)| ErrorCount::new(*fault, *count))
                .collect(),
            first_mismatch,
            fail_if,
            exit_code: exit.code(),
            exit,
            setting,
            course,
        }
    }

    /// How the run ends.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What was wrong with it, in a sentence each.
    pub fn complaints(&self) -> Vec<String> {
        let Self {
            setting, counts, ..
        } = self;
        let mut complaints = Vec::new();
        let asked = counted(u64::from(setting.connections), "connection");
        let most_common = self
            .errors
            .iter()
            .filter(|error| error.phase == Phase::Connect)
            .max_by_key(|error| error.count);
        let reason =
            most_common.map_or_else(String::new, |error| format!(": {}", error.explanation));
        if counts.connect_failed > 0 {
            complaints.push(format!(
                "{} of {asked} to {} failed{reason}",
                grouped(counts.connect_failed),
                setting.target
            ));
        }
        let mut complain = |count: u64, of: &str, what: &str| {
            if count > 0 {
                complaints.push(format!("{} {what}", counted(count, of)));
            }
        };
        // Whoever interrupts a run knows that not everything was sent.
        complain(
            if self.course.interrupted {
                0
            } else {
                self.unsent
            },
            "message",
            "not sent",
        );
        complain(self.lost, "message", "not answered");
        complain(counts.mismatched, "answer", "came back changed");
        let extra = match self.setting.mode {
            Mode::Discard => {
                "came though no answer is expected with --discard; does the target echo?"
            }
            Mode::Echo | Mode::EchoUnverified => "came that had not been sent",
        };
        complain(counts.extra_bytes, "byte", extra);
        for verdict in self.fail_if.iter().filter(|verdict| verdict.failed) {
            complaints.push(format!(
                "--fail-if {}: it was {}",
                verdict.condition, verdict.value
            ));
        }
        complaints
    }
}

/// Decides how the run ends; the first reason that applies is the one reported.
fn judge(course: &Course, figures: &Figures, condition_met: bool) -> Exit {
    let Tally { counts, faults, .. } = &figures.tally;
    if let Some(signal) = course.stopped {
        return Exit::Stopped(signal);
    }
    if faults.keys().any(|fault| fault.cause.is_local_limit()) {
        return Exit::LocalLimit;
    }
    if counts.connected == 0 && counts.connect_failed > 0 {
        return Exit::Failed;
    }
    let incomplete = figures.unsent() > 0 && !course.interrupted;
    // Without answers, an error is the only sign of a message that did not arrive.
    let unsure = figures.mode == Mode::Discard && !faults.is_empty();
    let wrong = figures.lost() + counts.mismatched + counts.extra_bytes > 0;
    if incomplete || unsure || wrong || condition_met {
        Exit::CheckFailed
    } else {
        Exit::Done
    }
}

impl ErrorCount {
    fn new(fault: Fault, count: u64) -> Self {
        let Fault { phase, cause } = fault;
        Self {
            phase,
            error: cause.name(),
            explanation: cause.explanation(),
            count,
        }
    }
}

impl Report for LoadReport {
    fn table(&self) -> String {
        let mut text = self.figures_table();
        if self.counts.connected > 0 {
            text.push('\n');
            text.push_str(&self.times_table());
        }
        if !self.errors.is_empty() {
            text.push('\n');
            text.push_str(&self.errors_table());
        }
        for verdict in &self.fail_if {
            let outcome = if verdict.failed { "failed" } else { "passed" };
            text.push_str(&format!(
                "\n--fail-if {}: {outcome} ({})",
                verdict.condition, verdict.value
            ));
        }
        if !self.fail_if.is_empty() {
            text.push('\n');
        }
        text
    }
}

impl LoadReport {
    fn figures_table(&self) -> String {
        let mut table = list();
        for (label, value) in self.message_rows().into_iter().chain(self.course_rows()) {
            table.add_row([label, &value]);
        }
        render(&mut table)
    }

    /// What became of connections and messages.
    fn message_rows(&self) -> Vec<(&'static str, String)> {
        let Self {
            setting, counts, ..
        } = self;
        let Setting {
            driver,
            workers,
            concurrency,
            ..
        } = setting;
        let bytes = grouped(setting.message_bytes);
        let mut rows = vec![
            ("target", setting.target.clone()),
            (
                "driver",
                format!(
                    "{driver}, {}, concurrency {concurrency}",
                    counted(u64::from(*workers), "worker")
                ),
            ),
            (
                "connected",
                of(counts.connected, u64::from(setting.connections)),
            ),
        ];
        if counts.refused > 0 {
            rows.push(("refused", grouped(counts.refused)));
        }
        if self.connects_over_1s > 0 {
            let slow = grouped(self.connects_over_1s);
            let advice = "the target's accept queue was full, try a lower --max-connecting";
            rows.push(("slow connects", format!("{slow} took over 1 s: {advice}")));
        }
        rows.push((
            "sent",
            format!("{} of {bytes} bytes each", of(counts.sent, self.planned)),
        ));
        match setting.mode {
            Mode::Echo => rows.extend([
                ("verified", grouped(counts.verified)),
                ("mismatched", grouped(counts.mismatched)),
                ("lost", grouped(self.lost)),
            ]),
            Mode::EchoUnverified => rows.extend([
                (
                    "answered",
                    format!("{} (bytes not compared)", grouped(counts.answered)),
                ),
                ("lost", grouped(self.lost)),
            ]),
            Mode::Discard => rows.push(("answered", String::from("not expected"))),
        }
        if counts.extra_bytes > 0 {
            rows.push(("extra bytes", grouped(counts.extra_bytes)));
        }
        if counts.unclosed > 0 {
            let left = format!("{} (the target did not close)", grouped(counts.unclosed));
            rows.push(("left open", left));
        }
        rows.extend(
            self.first_mismatch
                .map(|first| ("first mismatch", first.to_string())),
        );
        rows
    }

    /// How long it took, and what it used.
    fn course_rows(&self) -> Vec<(&'static str, String)> {
        let Course {
            connecting,
            messaging,
            messaging_cpu,
            ..
        } = self.course;
        let (connecting, messaging) = (connecting.as_secs_f64(), messaging.as_secs_f64());
        // Too short a time says nothing.
        let share = match messaging {
            0.0..0.1 => String::new(),
            time => {
                let share = percent(messaging_cpu.as_secs_f64() / time);
                format!(", {share} of one while messages ran")
            }
        };
        let cpu = self.client_cpu_seconds;
        let mut rows = vec![
            (
                "time",
                format!("{connecting:.2} s connecting, {messaging:.2} s messages"),
            ),
            ("processor", format!("{cpu:.2} s{share}")),
        ];
        rows.extend(
            self.course
                .peak_memory_bytes
                .map(|peak| ("peak memory", show_bytes(peak))),
        );
        if self.course.interrupted {
            rows.push(("interrupted", String::from("yes")));
        }
        rows
    }

    fn times_table(&self) -> String {
        let mut table = table_of_figures(&["", "mean", "p50", "p90", "p99", "p99.9", "max"]);
        let latency = match self.setting.is_planned {
            true => "latency from planned sending",
            false => "latency from sending",
        };
        if self.setting.mode != Mode::Discard {
            table.add_row(self.latency.row(latency));
        }
        if self.setting.is_planned {
            table.add_row(self.send_delay.row("sent later than planned"));
        }
        table.add_row(self.connect.row("connect"));
        render(&mut table)
    }

    fn errors_table(&self) -> String {
        let mut table = table_of_text(&["errors", "count", "phase", "meaning"]);
        for ErrorCount {
            phase,
            error,
            explanation,
            count,
        } in &self.errors
        {
            table.add_row([error, &grouped(*count), phase.name(), explanation]);
        }
        render(&mut table)
    }
}

/// `29,990 of 30,000`, or `30,000` when that is all.
fn of(done: u64, asked: u64) -> String {
    if done == asked {
        grouped(done)
    } else {
        format!("{} of {}", grouped(done), grouped(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::Cause;
    use super::*;

    fn setting(mode: Mode) -> Setting {
        Setting {
            target: String::from("127.0.0.1:7"),
            mode,
            connections: 10,
            message_bytes: 64,
            source_addresses: 1,
            driver: String::from("uring"),
            driver_reason: String::new(),
            workers: 4,
            concurrency: 2,
            descriptor_limit: 1024,
            is_planned: true,
        }
    }

    fn course() -> Course {
        Course {
            started: Duration::from_secs(1),
            connecting: Duration::from_secs(1),
            messaging: Duration::from_secs(9),
            connecting_cpu: Duration::from_millis(100),
            messaging_cpu: Duration::from_millis(900),
            peak_connections: 10,
            peak_memory_bytes: Some(5 << 20),
            descriptors: Some(12),
            interrupted: false,
            stopped: None,
        }
    }

    /// Ten connections, thirty messages, all well.
    fn good() -> Tally {
        let mut tally = Tally::new();
        tally.counts = Counts {
            connected: 10,
            sent: 30,
            answered: 30,
            verified: 30,
            ..Counts::default()
        };
        tally.latency.record(Duration::from_micros(40));
        tally
    }

    fn report(tally: Tally, conditions: &[Condition]) -> LoadReport {
        let figures = Figures::new(tally, Mode::Echo, Some(30));
        LoadReport::new(setting(Mode::Echo), course(), &figures, None, conditions)
    }

    #[test]
    fn a_good_run_is_done_and_has_nothing_to_complain_about() {
        let report = report(good(), &[]);
        assert_eq!((report.exit(), report.complaints()), (Exit::Done, vec![]));
    }

    #[test]
    fn lost_changed_and_extra_bytes_fail_the_check() {
        let spoil: [fn(&mut Counts); 4] = [
            |c| c.answered = 29,
            |c| c.mismatched = 1,
            |c| c.extra_bytes = 1,
            |c| c.sent = 29,
        ];
        for spoil in spoil {
            let mut tally = good();
            spoil(&mut tally.counts);
            let report = report(tally, &[]);
            assert_eq!(report.exit(), Exit::CheckFailed);
            assert_eq!(report.complaints().len(), 1, "{:?}", report.complaints());
        }
    }

    #[test]
    fn where_nothing_is_planned_the_table_does_not_say_so() {
        let mut report = report(good(), &[]);
        assert!(report.table().contains("latency from planned sending"));
        report.setting.is_planned = false;
        let table = report.table();
        assert!(table.contains("latency from sending"), "{table}");
        assert!(!table.contains("planned"), "{table}");
    }

    #[test]
    fn a_local_limit_comes_before_what_followed_from_it() {
        let mut tally = good();
        tally.counts.sent = 20;
        let cause = Cause::System(crate::system::errno::MFILE);
        tally.record_fault(Fault {
            phase: Phase::Connect,
            cause,
        });
        assert_eq!(report(tally, &[]).exit(), Exit::LocalLimit);
    }

    #[test]
    fn no_connection_at_all_is_a_failure() {
        let mut tally = Tally::new();
        tally.counts.connect_failed = 10;
        assert_eq!(report(tally, &[]).exit(), Exit::Failed);
    }

    #[test]
    fn a_condition_that_comes_true_fails_the_check() {
        let conditions: Vec<Condition> = ["p99>1s", "p99>10us"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(report(good(), &conditions[..1]).exit(), Exit::Done);
        let failed = report(good(), &conditions);
        assert_eq!(failed.exit(), Exit::CheckFailed);
        assert_eq!(failed.complaints(), ["--fail-if p99>10us: it was 40 µs"]);
    }

    #[test]
    fn json_has_the_documented_keys() {
        let json = serde_json::to_value(report(good(), &[])).unwrap();
        for key in [
            "connected",
            "sent",
            "verified",
            "lost",
            "mismatched",
            "refused",
            "latency_p99_us",
            "latency_p99_9_us",
            "connect_p99_us",
            "send_delay_max_us",
            "client_cpu_seconds",
            "exit_code",
            "peak_memory_bytes",
            "errors",
            "messaging_seconds",
            "driver",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["verified"], 30);
        assert_eq!(json["latency_p50_us"], 40);
        assert_eq!(json["connect_p50_us"], serde_json::Value::Null);
    }

    #[test]
    fn the_table_shows_errors_by_phase_and_name() {
        let mut tally = good();
        let cause = Cause::System(crate::system::errno::CONNRESET);
        tally.record_fault(Fault {
            phase: Phase::Receive,
            cause,
        });
        let table = report(tally, &[]).table();
        assert!(
            table.contains("ECONNRESET") && table.contains("receive"),
            "{table}"
        );
        assert!(table.contains("40 µs"), "{table}");
    }
}
