//! Heads of requests: no bytes make the reader panic, bounds hold, the pieces in which a head comes and what
//! follows it make no difference, and nothing is let through that another server could read as a second
//! request.
#![no_main]

use std::mem::MaybeUninit;

use libfuzzer_sys::fuzz_target;

#[path = "../../landfall-cli/src/http/request.rs"]
#[allow(dead_code, reason = "the tool's own; a part is used here")]
mod request;
#[path = "../../landfall-cli/src/http/status.rs"]
#[allow(dead_code, reason = "the tool's own; a part is used here")]
mod status;

use request::{MOST_BODY, MOST_FIELDS, MOST_HEAD, MOST_TARGET, Request};
use status::Status;

/// What a head comes to: its length, its target, the length of its body and whether another may follow.
type Read = Result<Option<(usize, String, u64, bool)>, Status>;

fn read(bytes: &[u8]) -> Read {
    let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let request = Request::read(bytes, &mut room)?;
    Ok(request.map(|request| {
        check(&request);
        (
            request.head_length,
            request.target.to_owned(),
            request.body_length,
            request.keeps_alive,
        )
    }))
}

fn check(request: &Request<'_>) {
    assert!(request.head_length <= MOST_HEAD);
    assert!(request.target.len() <= MOST_TARGET);
    assert!(request.body_length <= MOST_BODY);
    assert!(request.target.bytes().all(|byte| byte > b' '));
    let hosts = request.values("host").count();
    assert!(hosts == 1 || request.is_1_0 && hosts == 0);
    assert_eq!(request.values("transfer-encoding").count(), 0);
    let length = match request.values("content-length").count() {
        0 => 0,
        _ => {
            let length = request.value("content-length").expect("one alone");
            length.parse().expect("a number")
        }
    };
    assert_eq!(request.body_length, length);
}

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    let head_length = match &whole {
        Ok(Some((head_length, ..))) => *head_length,
        Ok(None) => return assert!(bytes.len() < MOST_HEAD),
        Err(status) => return assert!((400..600).contains(&status.code)),
    };
    assert_eq!(read(&bytes[..head_length]), whole);
    // All prefixes of a long one would take too long.
    for end in (0..head_length).rev().take(300) {
        assert_eq!(read(&bytes[..end]), Ok(None));
    }
});
