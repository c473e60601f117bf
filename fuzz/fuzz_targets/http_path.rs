//! Targets of requests: none makes the reader panic, none leads out of the directory, and a path
//! that is encoded again is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../landfall-cli/src/http/target.rs"]
mod http;
#[path = "../../landfall-cli/src/files/path.rs"]
#[allow(dead_code, reason = "the tool's own; a part is used here")]
mod path;

use path::{Target, encode_path};

fuzz_target!(|text: &str| {
    let Ok(target) = Target::parse(text) else {
        return;
    };
    assert!(!target.path.contains(&0));
    if !target.path.is_empty() {
        for name in target.path.split(|&byte| byte == b'/') {
            assert!(!matches!(name, b"" | b"." | b".."));
        }
    }
    let encoded = format!("/{}", encode_path(&target.path));
    assert!(!encoded.starts_with("//") && !encoded.contains('\\'));
    let again = Target::parse(&encoded).expect("it was encoded");
    assert_eq!(again.path, target.path);
    assert_eq!(again.is_hidden(), target.is_hidden());
});
