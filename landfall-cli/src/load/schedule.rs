//! When each message is to be sent.

use std::fmt;
use std::time::Duration;

use crate::units::{Rate, counted, show_time};

/// Messages are planned to the millisecond: those of one millisecond share a wake-up, of this process
/// and often of the target, instead of having one each.
const STEP: Duration = Duration::from_millis(1);

/// The plan by which all connections send.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// How many connections there are.
    pub connections: u32,
    /// The time from one message to the next.
    pub pace: Pace,
    /// When to stop.
    pub end: End,
}

/// The time between messages.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// One message per connection every interval, the connections spread evenly over it.
    Every(Duration),
    /// So many over all connections together, which take turns.
    Total(Rate),
    /// Each when the one before has been answered.
    BackToBack,
}

/// The end of sending.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// So many messages on each connection.
    Messages(u32),
    /// So much time after the start.
    After(Duration),
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            End::Messages(count) => write!(f, "{} on each", counted(count.into(), "message"))?,
            End::After(_) => f.write_str("messages on each")?,
        }
        match self.pace {
            Pace::Every(interval) => write!(f, ", one every {}", show_time(interval))?,
            Pace::Total(rate) => write!(f, ", {rate} over all of them")?,
            Pace::BackToBack => f.write_str(", each as soon as the last is answered")?,
        }
        match self.time() {
            Some(time) => write!(f, ", for {}", show_time(in_short(time))),
            None => Ok(()),
        }
    }
}

/// A time without the digits that nobody reads.
fn in_short(time: Duration) -> Duration {
    match time.as_secs() {
        0..10 => Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        seconds => Duration::from_secs(seconds),
    }
}

impl Schedule {
    /// How long sending takes; `None` if that depends on the answers.
    fn time(&self) -> Option<Duration> {
        match (self.end, self.pace) {
            (End::After(time), _) => Some(time),
            (End::Messages(count), Pace::Every(interval)) => Some(interval.saturating_mul(count)),
            (End::Messages(count), Pace::Total(rate)) => {
                Some(rate.offset_of(u64::from(count) * u64::from(self.connections)))
            }
            (End::Messages(_), Pace::BackToBack) => None,
        }
    }

    /// When a connection is to send a message, counted from the start; `None` if it is to be sent
    /// as soon as the one before has been answered.
    pub fn planned(&self, connection: u64, message: u64) -> Option<Duration> {
        let time = match self.pace {
            Pace::BackToBack => return None,
            Pace::Total(rate) => {
                let before = message.saturating_mul(u64::from(self.connections));
                rate.offset_of(before.saturating_add(connection))
            }
            Pace::Every(interval) => {
                let turns =
                    u128::from(message) * u128::from(self.connections) + u128::from(connection);
                let nanos =
                    interval.as_nanos().saturating_mul(turns) / u128::from(self.connections);
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        };
        let since_step = time.as_nanos() % STEP.as_nanos();
        // Less than a step, so it fits.
        Some(time - Duration::from_nanos(since_step as u64))
    }

    /// Whether a message that would be sent at `time` after the start is still part of the plan.
    pub fn includes(&self, message: u64, time: Duration) -> bool {
        match self.end {
            End::Messages(count) => message < u64::from(count),
            End::After(end) => time < end,
        }
    }

    /// How many messages are to be sent over all connections; `None` if that depends on the
    /// answers.
    pub fn total(&self) -> Option<u64> {
        let connections = u64::from(self.connections);
        match (self.end, self.pace) {
            (End::Messages(count), _) => Some(connections * u64::from(count)),
            (End::After(_), Pace::BackToBack) => None,
            (End::After(_), _) => Some(
                (0..connections)
                    .map(|connection| self.count(connection))
                    .fold(0, u64::saturating_add),
            ),
        }
    }

    /// How many messages of one connection come before the end.
    fn count(&self, connection: u64) -> u64 {
        let is_included = |&message: &u64| {
            self.planned(connection, message)
                .is_some_and(|time| self.includes(message, time))
        };
        // Found by halving, since the times only grow: first an upper bound, then the place.
        let mut beyond: u64 = 1;
        while is_included(&(beyond - 1)) {
            match beyond.checked_mul(2) {
                Some(doubled) => beyond = doubled,
                // A plan without an end, for all that anybody will see of it.
                None => return u64::MAX,
            }
        }
        let mut within = 0;
        while within + 1 < beyond {
            let middle = within + (beyond - within) / 2;
            if is_included(&(middle - 1)) {
                within = middle
            } else {
                beyond = middle
            }
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::parse_rate;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(pace: Pace, end: End) -> Schedule {
        Schedule {
            connections: 4,
            pace,
            end,
        }
    }

    #[test]
    fn a_plan_is_told_with_its_time() {
        let every =
            |interval, count| schedule(Pace::Every(interval), End::Messages(count)).to_string();
        assert_eq!(
            every(3 * SECOND, 3),
            "3 messages on each, one every 3s, for 9s"
        );
        assert_eq!(
            every(SECOND / 5, 1),
            "1 message on each, one every 200ms, for 200ms"
        );
        assert!(every(Duration::MAX, u32::MAX).contains("for "));
        let total = Pace::Total(parse_rate("7/s").unwrap());
        assert_eq!(
            schedule(total, End::Messages(30)).to_string(),
            "30 messages on each, 7/s over all of them, for 17s"
        );
        assert_eq!(
            schedule(Pace::BackToBack, End::Messages(2000)).to_string(),
            "2,000 messages on each, each as soon as the last is answered"
        );
        assert_eq!(
            schedule(Pace::Every(SECOND), End::After(90 * SECOND)).to_string(),
            "messages on each, one every 1s, for 1m30s"
        );
    }

    #[test]
    fn connections_are_spread_evenly_over_the_interval() {
        let plan = schedule(Pace::Every(SECOND), End::Messages(3));
        let first: Vec<u128> = (0..4)
            .map(|c| plan.planned(c, 0).unwrap().as_millis())
            .collect();
        assert_eq!(first, [0, 250, 500, 750]);
        assert_eq!(plan.planned(1, 2), Some(Duration::from_millis(2250)));
        assert_eq!(plan.total(), Some(12));
    }

    #[test]
    fn a_total_rate_is_shared_in_turns() {
        let plan = schedule(Pace::Total(parse_rate("8/s").unwrap()), End::Messages(1));
        assert_eq!(plan.planned(3, 1), Some(Duration::from_millis(875)));
    }

    #[test]
    fn a_duration_ends_the_plan() {
        let plan = schedule(
            Pace::Every(SECOND),
            End::After(Duration::from_millis(2_400)),
        );
        // Connections 0 and 1 send at 2.0 and 2.25 s; the others' third turns are at 2.5 and 2.75
        // s.
        assert_eq!(plan.total(), Some(3 + 3 + 2 + 2));
        let plan = schedule(
            Pace::Total(parse_rate("1000/s").unwrap()),
            End::After(SECOND),
        );
        assert_eq!(plan.total(), Some(1000));
        // Too short for all but the first connection.
        let plan = schedule(Pace::Every(SECOND), End::After(Duration::from_nanos(1)));
        assert_eq!(plan.total(), Some(1));
    }

    #[test]
    fn a_plan_without_an_end_is_counted_as_one() {
        let plan = schedule(Pace::Every(SECOND), End::After(Duration::MAX));
        assert_eq!(plan.total(), Some(u64::MAX));
    }

    #[test]
    fn back_to_back_depends_on_the_answers() {
        assert_eq!(schedule(Pace::BackToBack, End::After(SECOND)).total(), None);
        assert_eq!(
            schedule(Pace::BackToBack, End::Messages(5)).total(),
            Some(20)
        );
        assert_eq!(
            schedule(Pace::BackToBack, End::Messages(5)).planned(0, 0),
            None
        );
    }
}
