//! `Range` fields: no text makes the reader panic, and every part is in the file.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../landfall-cli/src/files/range.rs"]
#[allow(dead_code, reason = "the tool's own; a part is used here")]
mod range;

use range::{Asked, parse_range};

fuzz_target!(|input: (u64, &str)| {
    let (file_length, field) = input;
    if let Asked::Part(span) = parse_range(field, file_length) {
        assert!(span.length > 0);
        let end = span.offset.checked_add(span.length);
        assert!(end.is_some_and(|end| end <= file_length));
        // What is sent can be asked for again, and is the same.
        let again = format!("bytes={}-{}", span.offset, span.offset + span.length - 1);
        assert_eq!(parse_range(&again, file_length), Asked::Part(span));
    }
});
