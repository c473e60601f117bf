//! PROXY protocol headers: no bytes make the reader panic, what it reads is what it writes, pieces make no
//! difference, and another reader reads the same.
#![no_main]

use landfall::buffer::Buffer;
use landfall::frame::Decode;
use landfall::proxy_protocol::{Header, HeaderDecoder, Parsed};
use libfuzzer_sys::fuzz_target;

#[path = "../../landfall/tests/proxy_protocol_peer/mod.rs"]
mod peer;

fuzz_target!(|bytes: &[u8]| {
    let parsed = Header::parse(bytes);
    match &parsed {
        Ok(Parsed::Whole { header, length }) => {
            let written = header.encode().expect("what was read can be written");
            let read = Header::parse(&written).expect("a header");
            let (header, length_of_it) = (header.clone(), written.len());
            let again = Parsed::Whole {
                header,
                length: length_of_it,
            };
            assert_eq!(read, again);
            for end in 0..*length {
                match Header::parse(&bytes[..end]) {
                    Ok(Parsed::Incomplete { at_least }) => {
                        assert!(end < at_least && at_least <= *length)
                    }
                    other => panic!("{end} bytes of a header of {length}: {other:?}"),
                }
            }
        }
        Ok(Parsed::Incomplete { at_least }) => assert!(bytes.len() < *at_least),
        Err(_) => {}
    }
    assert_eq!(in_pieces(bytes), parsed.ok().and_then(whole));
    if !peer::is_known_difference(bytes) {
        assert_eq!(peer::ours(bytes), peer::theirs(bytes));
    }
});

fn whole(parsed: Parsed) -> Option<(Header, usize)> {
    match parsed {
        Parsed::Whole { header, length } => Some((header, length)),
        Parsed::Incomplete { .. } => None,
    }
}

/// What the decoder makes of bytes, the first of which come one by one and the others in larger pieces.
fn in_pieces(bytes: &[u8]) -> Option<(Header, usize)> {
    let mut decoder = HeaderDecoder::new().max_header(usize::MAX);
    let mut taken = 0;
    while taken < bytes.len() {
        let count = if taken < 20 {
            1
        } else {
            50.min(bytes.len() - taken)
        };
        taken += count;
        let mut input = Buffer::from(bytes[taken - count..taken].to_vec());
        if let Some(header) = decoder.decode(&mut input).ok()? {
            return Some((header, taken - input.len()));
        }
    }
    None
}
