//! Times: `500ms`, `2s`, `1m30s`.

use std::time::Duration;

/// Reads a time. A bare number is refused: programs disagree on whether it means seconds or
/// milliseconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!(
            "`{text}` has no unit: write {text}s for seconds or {text}ms for milliseconds"
        ));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error} (examples: 500ms, 2s, 1m30s)"))
}

/// Shows a time in the form [`parse_time`] reads.
pub fn show_time(time: Duration) -> String {
    humantime::format_duration(time)
        .to_string()
        .replace(' ', "")
}

/// Shows a measured time with three significant digits: `41 µs`, `1.24 ms`, `3.07 s`.
pub fn show_micros(micros: u64) -> String {
    let (value, unit) = match micros {
        0..1_000 => return format!("{micros} µs"),
        1_000..1_000_000 => (micros as f64 / 1e3, "ms"),
        _ => (micros as f64 / 1e6, "s"),
    };
    let decimals = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_with_its_unit_is_read() {
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_time("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_bare_number_is_refused_and_both_readings_are_named() {
        for bare in ["5", "0", "1.5"] {
            let refusal = parse_time(bare).unwrap_err();
            assert!(
                refusal.contains(&format!("{bare}s for seconds")),
                "{refusal}"
            );
            assert!(
                refusal.contains(&format!("{bare}ms for milliseconds")),
                "{refusal}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused_with_examples() {
        for nonsense in ["", "fast", "5 bananas", "-1s"] {
            assert!(
                parse_time(nonsense).unwrap_err().contains("examples"),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for time in [
            Duration::from_millis(1500),
            Duration::from_secs(10),
            Duration::from_secs(90),
        ] {
            assert_eq!(parse_time(&show_time(time)), Ok(time));
        }
    }

    #[test]
    fn measured_times_have_three_digits() {
        assert_eq!(show_micros(41), "41 µs");
        assert_eq!(show_micros(1_240), "1.24 ms");
        assert_eq!(show_micros(12_400), "12.4 ms");
        assert_eq!(show_micros(124_000), "124 ms");
        assert_eq!(show_micros(3_070_000), "3.07 s");
    }
}
