//! Rates: `2000/s`, `10k/s`, `600/min`.

use std::fmt;
use std::time::Duration;

use super::parse_count;

/// How often something happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    count: u32,
    per: Per,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Per {
    Second,
    Minute,
}

impl Rate {
    /// The time from the first of the events to the one numbered `index`; 584 years when it is even
    /// later.
    pub fn offset_of(self, index: u64) -> Duration {
        let period = match self.per {
            Per::Second => Duration::from_secs(1),
            Per::Minute => Duration::from_secs(60),
        };
        let nanos = u128::from(index) * period.as_nanos() / u128::from(self.count);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Per::Second => "s",
            Per::Minute => "min",
        };
        write!(f, "{}/{per}", self.count)
    }
}

/// Reads a rate. A bare number is refused, since it does not say what it is per.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let Some((count, per)) = text.split_once('/') else {
        return Err(format!(
            "`{text}` does not say what it is per: write {text}/s or {text}/min"
        ));
    };
    let per = match per.trim() {
        "s" => Per::Second,
        "min" => Per::Minute,
        other => {
            return Err(format!(
                "`{other}` is not a period: write s (second) or min (minute), as in 2000/s"
            ));
        }
    };
    Ok(Rate {
        count: parse_count(count)?,
        per,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_gives_the_time_of_each_event() {
        assert_eq!(
            parse_rate("2k/s").unwrap().offset_of(3),
            Duration::from_micros(1500)
        );
        assert_eq!(
            parse_rate("600/min").unwrap().offset_of(10),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn a_bare_number_is_refused_and_both_readings_are_named() {
        let refusal = parse_rate("2000").unwrap_err();
        assert!(
            refusal.contains("2000/s") && refusal.contains("2000/min"),
            "{refusal}"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in ["0/s", "fast/s", "5/fortnight", "/s"] {
            assert!(parse_rate(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let rate = parse_rate("600/min").unwrap();
        assert_eq!(parse_rate(&rate.to_string()), Ok(rate));
    }
}
