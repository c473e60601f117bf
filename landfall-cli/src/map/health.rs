//! Whether a target can be used: what the connects of clients have shown of it, and what checks have.

use std::fmt;
use std::time::{Duration, Instant};

use super::args::Settings;

/// What is known of one target.
#[derive(Debug, Default)]
pub struct Health {
    /// Failed connects in a row.
    failures: u32,
    /// It is left out until then.
    out_until: Option<Instant>,
    /// Checks have found it down.
    is_down: bool,
    /// Checks in a row that say the contrary.
    contrary: u32,
}

/// Whether to send a client to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// Yes.
    Fit,
    /// Only if there is nobody else: clients have failed to connect to it not long ago.
    LastResort,
    /// No: it is down.
    Down,
}

/// A change worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Left out after failed connects, for so long.
    LeftOut(Duration),
    /// It would be, if there were another one.
    Failing,
    /// Used again after it was left out.
    Back,
    /// Down by its checks.
    Down,
    /// Up by its checks.
    Up,
}

impl Health {
    /// Whether to send clients to it.
    pub fn fitness(&self, now: Instant) -> Fitness {
        match self.out_until {
            _ if self.is_down => Fitness::Down,
            Some(until) if now < until => Fitness::LastResort,
            _ => Fitness::Fit,
        }
    }

    /// A client's connect has failed.
    pub fn failed(&mut self, now: Instant, settings: &Settings) -> Option<Change> {
        self.failures = self.failures.saturating_add(1);
        if self.failures < settings.max_fails {
            return None;
        }
        let was_out = self.out_until.is_some_and(|until| now < until);
        // A time too far for the clock is for ever; so the target is tried as a last resort only.
        self.out_until = now.checked_add(settings.fail_timeout);
        (!was_out).then_some(Change::LeftOut(settings.fail_timeout))
    }

    /// A client has been connected.
    pub fn connected(&mut self) -> Option<Change> {
        self.failures = 0;
        self.out_until.take().map(|_| Change::Back)
    }

    /// A check has ended.
    pub fn checked(&mut self, is_good: bool, settings: &Settings) -> Option<Change> {
        if is_good != self.is_down {
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        let (needed, change) = match is_good {
            true => (settings.check_rise, Change::Up),
            false => (settings.check_fall, Change::Down),
        };
        if self.contrary < needed {
            return None;
        }
        self.contrary = 0;
        self.is_down = !is_good;
        Some(change)
    }

    /// Nobody checks it any more.
    pub fn unchecked(&mut self) {
        self.is_down = false;
        self.contrary = 0;
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut(time) => {
                let time = crate::units::show_time(*time);
                write!(f, "is left out for {time}")
            }
            Self::Failing => f.write_str("fails, and there is no other to try"),
            Self::Back => f.write_str("is back"),
            Self::Down => f.write_str("is DOWN"),
            Self::Up => f.write_str("is UP"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::test_settings;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_target_that_fails_is_left_out_for_a_while() {
        let settings = Settings {
            max_fails: 2,
            fail_timeout: 10 * SECOND,
            ..test_settings()
        };
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(health.failed(now, &settings), None);
        assert_eq!(health.fitness(now), Fitness::Fit);
        assert_eq!(
            health.failed(now, &settings),
            Some(Change::LeftOut(10 * SECOND))
        );
        assert_eq!(health.failed(now, &settings), None, "told already");
        assert_eq!(health.fitness(now + 9 * SECOND), Fitness::LastResort);
        let later = now + 10 * SECOND;
        assert_eq!(health.fitness(later), Fitness::Fit);
        // It is on probation: one more failure is enough.
        assert!(health.failed(later, &settings).is_some());
        assert_eq!(health.connected(), Some(Change::Back));
        assert_eq!(health.fitness(later), Fitness::Fit);
        assert_eq!(
            (health.connected(), health.failed(later, &settings)),
            (None, None)
        );
    }

    #[test]
    fn checks_in_a_row_change_the_state() {
        let settings = Settings {
            check_rise: 2,
            check_fall: 3,
            ..test_settings()
        };
        let (mut health, now) = (Health::default(), Instant::now());
        let mut changes = |checks: &[bool]| -> Vec<_> {
            checks
                .iter()
                .filter_map(|is_good| health.checked(*is_good, &settings))
                .collect()
        };
        assert_eq!(changes(&[false, false, true, false, false]), []);
        assert_eq!(changes(&[false]), [Change::Down]);
        assert_eq!(changes(&[false, true, false, true]), []);
        assert_eq!(changes(&[true]), [Change::Up]);
        assert_eq!(changes(&[false, false, false]), [Change::Down]);
        assert_eq!(health.fitness(now), Fitness::Down);
        health.unchecked();
        assert_eq!(health.fitness(now), Fitness::Fit);
    }
}
