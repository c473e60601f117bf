//! Conditions under which a run counts as failed: `p99>50ms`, `connect_max>=1s`, `lost>0`.

use std::fmt;
use std::str::FromStr;

use super::report::Figures;
use crate::units::{grouped, parse_time, show_micros};

/// A figure of the report compared with a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    figure: Figure,
    comparison: Comparison,
    bound: u64,
}

/// Something that can be compared.
#[derive(Clone, Debug, PartialEq)]
enum Figure {
    Time { of: Measured, statistic: Statistic },
    Count(String),
}

/// The times that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// From the planned sending to the last byte of the answer.
    Latency,
    /// From the start of a connect to its success.
    Connect,
    /// From the planned sending to the sending.
    SendDelay,
}

/// What is taken from many times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistic {
    /// The time that so many per cent do not exceed.
    Percentile(f64),
    /// The longest.
    Max,
    /// The mean.
    Mean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    More,
    MoreOrEqual,
    Less,
    LessOrEqual,
    Equal,
    Different,
}

/// How comparisons are written; of two that begin alike the longer comes first.
const COMPARISONS: [(&str, Comparison); 6] = [
    (">=", Comparison::MoreOrEqual),
    ("<=", Comparison::LessOrEqual),
    ("==", Comparison::Equal),
    ("!=", Comparison::Different),
    (">", Comparison::More),
    ("<", Comparison::Less),
];

/// The counts a condition can name, as the JSON result names them.
pub const COUNTS: [&str; 13] = [
    "connected",
    "refused",
    "connect_failed",
    "connects_over_1s",
    "sent",
    "answered",
    "verified",
    "mismatched",
    "lost",
    "unsent",
    "extra_bytes",
    "unclosed",
    "errors",
];

impl Condition {
    /// Whether it came true. A time of which there is no measurement came true too: a run that
    /// measured nothing must not pass for one that was fast.
    pub fn is_met(&self, figures: &Figures) -> bool {
        self.value(figures)
            .is_none_or(|value| self.comparison.holds(value, self.bound))
    }

    /// The value compared, to be shown.
    pub fn show_value(&self, figures: &Figures) -> String {
        match (self.value(figures), &self.figure) {
            (None, _) => String::from("not measured"),
            (Some(micros), Figure::Time { .. }) => show_micros(micros),
            (Some(count), Figure::Count(_)) => grouped(count),
        }
    }

    fn value(&self, figures: &Figures) -> Option<u64> {
        match &self.figure {
            Figure::Time { of, statistic } => figures.time(*of, *statistic),
            Figure::Count(name) => figures.count(name),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let find = |&(sign, comparison): &(&'static str, Comparison)| {
            text.find(sign).map(move |at| (at, sign, comparison))
        };
        // The leftmost sign; COMPARISONS is in such an order that the first of those at one place
        // is the longest.
        let Some((at, sign, comparison)) = COMPARISONS
            .iter()
            .filter_map(find)
            .min_by_key(|&(at, ..)| at)
        else {
            return Err(format!(
                "`{text}` compares nothing: write a figure, a sign and a bound, as in p99>50ms"
            ));
        };
        let figure: Figure = text[..at].trim().parse()?;
        let bound = text[at + sign.len()..].trim();
        let bound = match figure {
            Figure::Time { .. } => {
                u64::try_from(parse_time(bound)?.as_micros()).unwrap_or(u64::MAX)
            }
            Figure::Count(_) => bound.parse().map_err(|_| {
                format!("`{bound}` is not a whole number, which a count must be compared with")
            })?,
        };
        Ok(Self {
            text: text.to_owned(),
            figure,
            comparison,
            bound,
        })
    }
}

impl FromStr for Figure {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if COUNTS.contains(&name) {
            return Ok(Self::Count(name.to_owned()));
        }
        let (of, statistic) = if let Some(rest) = name.strip_prefix("connect_") {
            (Measured::Connect, rest)
        } else if let Some(rest) = name.strip_prefix("send_delay_") {
            (Measured::SendDelay, rest)
        } else {
            (
                Measured::Latency,
                name.strip_prefix("latency_").unwrap_or(name),
            )
        };
        let percentile = |digits: &str| {
            digits
                .parse::<f64>()
                .ok()
                .filter(|p| (0.0..=100.0).contains(p))
        };
        let statistic = match statistic {
            "max" => Some(Statistic::Max),
            "mean" => Some(Statistic::Mean),
            other => other
                .strip_prefix('p')
                .and_then(percentile)
                .map(Statistic::Percentile),
        };
        let statistic = statistic.ok_or_else(|| {
            format!(
                "there is no figure `{name}`: write p50, p99, p99.9, max or mean, connect_p99 or \
                 send_delay_p99 and the like, or one of {}",
                COUNTS.join(", ")
            )
        })?;
        Ok(Self::Time { of, statistic })
    }
}

impl Comparison {
    fn holds(self, value: u64, bound: u64) -> bool {
        match self {
            Self::More => value > bound,
            Self::MoreOrEqual => value >= bound,
            Self::Less => value < bound,
            Self::LessOrEqual => value <= bound,
            Self::Equal => value == bound,
            Self::Different => value != bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::report::Mode;
    use super::super::tally::Tally;
    use super::*;

    fn figures() -> Figures {
        let mut tally = Tally::new();
        tally.counts.sent = 1000;
        tally.counts.answered = 990;
        tally.counts.verified = 990;
        for millis in 1..=100 {
            tally.latency.record(Duration::from_millis(millis));
        }
        Figures::new(tally, Mode::Echo, Some(1000))
    }

    fn is_met(text: &str) -> bool {
        text.parse::<Condition>().unwrap().is_met(&figures())
    }

    #[test]
    fn times_are_compared() {
        assert!(is_met("p99>50ms"));
        assert!(!is_met("p99>1s"));
        assert!(is_met("latency_max >= 100ms"));
        assert!(is_met("p50<51ms"));
        assert!(is_met("p99.9>99ms"));
        assert!(is_met("mean<=51ms"));
    }

    #[test]
    fn counts_are_compared() {
        assert!(is_met("lost>0"));
        assert!(is_met("lost==10"));
        assert!(!is_met("lost!=10"));
        assert!(is_met("verified<1000"));
        assert!(!is_met("errors>0"));
    }

    #[test]
    fn what_was_not_measured_does_not_pass() {
        assert!(is_met("connect_p99>1s"));
        let condition: Condition = "connect_p99>1s".parse().unwrap();
        assert_eq!(condition.show_value(&figures()), "not measured");
    }

    #[test]
    fn every_count_named_exists() {
        for name in COUNTS {
            assert!(figures().count(name).is_some(), "{name}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_way_out() {
        let refusal = |text: &str| text.parse::<Condition>().unwrap_err();
        assert!(refusal("p99").contains("p99>50ms"));
        assert!(refusal("p99>50").contains("50ms for milliseconds"));
        assert!(refusal("p101>1s").contains("no figure `p101`"));
        assert!(refusal("speed>1").contains("no figure `speed`"));
        assert!(refusal("lost>some").contains("whole number"));
        assert!(refusal(">1s").contains("no figure"));
    }
}
