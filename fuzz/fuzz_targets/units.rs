//! Quantities as they are typed: no text makes a reader panic, and what is shown can be read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../landfall-cli/src/units/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the tool's own; a part is used here"
)]
mod units;

fuzz_target!(|text: &str| {
    let _ = units::parse_count(text);
    let _ = units::parse_share(text);
    if let Ok(size) = units::parse_size(text) {
        assert!(!units::show_bytes(size).is_empty());
    }
    if let Ok(rate) = units::parse_rate(text) {
        rate.offset_of(u64::MAX);
        assert_eq!(units::parse_rate(&rate.to_string()), Ok(rate));
    }
    if let Ok(time) = units::parse_time(text) {
        assert_eq!(units::parse_time(&units::show_time(time)), Ok(time));
    }
});
