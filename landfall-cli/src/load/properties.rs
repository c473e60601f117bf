//! What holds for plans and conditions of any kind.

use std::time::Duration;

use proptest::prelude::*;

use super::content::Content;
use super::fail_if::{COUNTS, Condition};
use super::report::{Figures, Mode};
use super::schedule::{End, Pace, Schedule};
use super::tally::Tally;
use crate::units::parse_rate;

fn pace() -> impl Strategy<Value = Pace> {
    let rate = (1..=u32::MAX, prop_oneof![Just("s"), Just("min")])
        .prop_map(|(count, per)| parse_rate(&format!("{count}/{per}")).expect("a rate"));
    prop_oneof![
        any::<Duration>().prop_map(Pace::Every),
        (0..10_000u64).prop_map(|millis| Pace::Every(Duration::from_millis(millis))),
        rate.prop_map(Pace::Total),
        Just(Pace::BackToBack),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        any::<u32>().prop_map(End::Messages),
        any::<Duration>().prop_map(End::After),
        (0..100_000u64).prop_map(|millis| End::After(Duration::from_millis(millis))),
    ]
}

proptest! {
    #[test]
    fn no_schedule_makes_a_plan_panic(
        connections in 1..200u32,
        pace in pace(),
        end in end(),
        message: u64,
    ) {
        let plan = Schedule { connections, pace, end };
        plan.total();
        for connection in [0, u64::from(connections) - 1] {
            if let Some(time) = plan.planned(connection, message) {
                plan.includes(message, time);
                let next = plan.planned(connection, message.saturating_add(1));
                prop_assert!(next >= Some(time), "later messages are planned later");
            }
        }
    }

    #[test]
    fn a_plan_has_as_many_messages_as_are_planned_before_its_end(
        connections in 1..20u32,
        interval in 1..500u64,
        end in 0..3_000u64,
    ) {
        let plan = Schedule {
            connections,
            pace: Pace::Every(Duration::from_millis(interval)),
            end: End::After(Duration::from_millis(end)),
        };
        let mut counted = 0;
        for connection in 0..u64::from(connections) {
            counted += (0..)
                .take_while(|&message| {
                    let time = plan.planned(connection, message).expect("a pace");
                    plan.includes(message, time)
                })
                .count() as u64;
        }
        prop_assert_eq!(plan.total(), Some(counted));
    }

    #[test]
    fn no_text_makes_a_condition_panic(text in prop_oneof![
        ".{0,24}",
        "[a-z_]{0,12}p?[0-9.]{0,6} ?[<>=!]{0,3} ?[0-9.]{0,24}[a-zµ]{0,3}",
    ]) {
        let _ = text.parse::<Condition>();
    }

    #[test]
    fn of_a_condition_and_its_opposite_one_is_met(
        name in prop::sample::select(&COUNTS[..]),
        signs in prop::sample::select(&[(">", "<="), ("<", ">="), ("==", "!=")][..]),
        bound in prop_oneof![0..3u64, any::<u64>()],
        sent in 0..3u64,
    ) {
        let mut tally = Tally::new();
        tally.counts.sent = sent;
        let figures = Figures::new(tally, Mode::Echo, Some(2));
        let is_met = |sign: &str| {
            let text = format!("{name} {sign} {bound}");
            let condition: Condition = text.parse().expect("a condition");
            assert_eq!(condition.to_string(), text);
            condition.is_met(&figures)
        };
        prop_assert_ne!(is_met(signs.0), is_met(signs.1));
    }

    #[test]
    fn an_echo_in_any_pieces_is_recognised_and_any_changed_byte_found(
        seed: u64,
        connection: u64,
        position in 0..=u64::MAX / 2,
        length in 1..2_000usize,
        pieces in prop::collection::vec(1..300usize, 1..20),
        changed: prop::sample::Index,
        flip in 1..=u8::MAX,
    ) {
        let content = Content::Pattern { seed };
        let mut echo = content.piece(connection, position, length).to_vec();
        let mut checked = 0;
        for piece in pieces.into_iter().cycle() {
            let piece = &echo[checked..length.min(checked + piece)];
            let from = position + checked as u64;
            prop_assert_eq!(content.first_difference(connection, from, piece), None);
            checked += piece.len();
            if checked == length {
                break;
            }
        }
        let changed = changed.index(length);
        echo[changed] ^= flip;
        let found = content.first_difference(connection, position, &echo);
        prop_assert_eq!(found.map(|difference| difference.offset), Some(changed));
    }
}
