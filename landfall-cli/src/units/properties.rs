//! What holds for quantities of any kind: nothing that is typed makes a reader panic, and what is
//! shown can be read again.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in prop_oneof![
        ".{0,24}",
        "[0-9]{0,24}[.]?[0-9]{0,24} ?[kKMGTiBsmhdyn/%µ]{0,4}",
    ]) {
        let _ = parse_count(&text);
        let _ = parse_size(&text);
        let _ = parse_time(&text);
        let _ = parse_share(&text);
        if let Ok(rate) = parse_rate(&text) {
            rate.offset_of(u64::MAX);
        }
    }

    #[test]
    fn every_count_is_read_as_it_is_written(count in 1..=u32::MAX) {
        prop_assert_eq!(parse_count(&count.to_string()), Ok(count));
        let thousands = count.checked_mul(1_000);
        prop_assert_eq!(parse_count(&format!("{count}k")).ok(), thousands);
        let millions = count.checked_mul(1_000_000);
        prop_assert_eq!(parse_count(&format!("{count}M")).ok(), millions);
    }

    #[test]
    fn every_size_is_read_as_it_is_written(size in 0..=1u64 << 40) {
        prop_assert_eq!(parse_size(&size.to_string()), Ok(size));
        let size = size >> 20;
        prop_assert_eq!(parse_size(&format!("{size}Ki")), Ok(size << 10));
        prop_assert_eq!(parse_size(&format!("{size}k")), Ok(size * 1_000));
    }

    #[test]
    fn every_time_that_is_shown_can_be_read_again(
        seconds in 0..=1u64 << 40,
        nanos in 0..1_000_000_000u32,
    ) {
        let time = Duration::new(seconds, nanos);
        prop_assert_eq!(parse_time(&show_time(time)), Ok(time));
    }

    #[test]
    fn every_rate_that_is_shown_can_be_read_again(count in 1..=u32::MAX, minute: bool) {
        let text = format!("{count}/{}", if minute { "min" } else { "s" });
        let rate = parse_rate(&text).expect("a rate");
        prop_assert_eq!(rate.to_string(), text);
    }

    #[test]
    fn the_events_of_a_rate_are_in_order(
        count in 1..=u32::MAX,
        minute: bool,
        one: u64,
        other: u64,
    ) {
        let text = format!("{count}/{}", if minute { "min" } else { "s" });
        let rate = parse_rate(&text).expect("a rate");
        let (earlier, later) = (one.min(other), one.max(other));
        prop_assert!(rate.offset_of(earlier) <= rate.offset_of(later));
    }

    #[test]
    fn a_share_has_as_many_members_as_it_says(hundredths in 0..=10_000u64, of in 1..2_000u64) {
        let text = format!("{}.{:02}%", hundredths / 100, hundredths % 100);
        let share = parse_share(&text).expect("a share");
        let members = (0..of).filter(|&index| share.includes(index)).count() as u64;
        // Rounded down, and by at most one less where the share is no binary fraction.
        let exact = of * hundredths / 10_000;
        prop_assert!(members == exact || members + 1 == exact, "{} of {}", members, of);
    }

    #[test]
    fn whatever_is_measured_can_be_shown(number: u64) {
        prop_assert!(!show_bytes(number).is_empty());
        prop_assert!(!show_micros(number).is_empty());
        prop_assert!(!grouped(number).is_empty());
    }
}
